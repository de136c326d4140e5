"""A trained detector as one file for other runtimes: ONNX, or torch's own exported program (``docs/export.md``)."""
