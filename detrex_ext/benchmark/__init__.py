"""Time and memory on this machine: of whole models, of the criterion, of attention."""

SUITES = ("criterion", "step", "attention", "inference")
