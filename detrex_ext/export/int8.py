"""An ONNX file with convolutions and linear layers in 8 bits, by onnxruntime."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from .graph import FromPixels, Graph


def write_int8(source: Path, target: Path, graph: Graph, images: Iterable[np.ndarray]) -> None:
    """Quantizes weights for each channel, and what they are multiplied with by its range on some images.

    Args:
        source: ONNX file of the graph.
        target: file to write.
        graph: that it holds.
        images: (h, w, 3) uint8 RGB, like those that the model will see.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self, batches: Iterator[dict[str, np.ndarray]]) -> None:
            self.batches = batches

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    model = onnx.load(source)
    constants = {tensor.name for tensor in model.graph.initializer}
    kinds = ("Conv", "Gemm", "MatMul")
    kept = [n.name for n in model.graph.node if n.op_type in kinds and not constants & set(n.input[1:2])]
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it tells on the root logger what one could do before
    try:
        quantize_static(
            source, target, Reader(_batches(graph, images)), QuantFormat.QDQ, list(kinds), per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=kept,
        )  # fmt: skip
    finally:
        logging.getLogger().setLevel(level)
    made = onnx.load(target)
    about = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(made, {**about, "quantized": json.dumps("int8")})
    onnx.save(made, target)


def _batches(graph: Graph, images: Iterable[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    for rgb in images:
        given = torch.from_numpy(np.ascontiguousarray(rgb))[None]
        if isinstance(graph, FromPixels):
            yield {"images": given.numpy()}
        else:
            x, hw_2 = graph.framed(given)
            yield {"images": x.numpy(), "sizes": hw_2[None].numpy()}
