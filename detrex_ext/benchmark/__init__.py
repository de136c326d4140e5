"""Time and memory on this machine: of whole models, of the criterion, of attention, of deformable sampling alone."""

SUITES = ("criterion", "step", "attention", "inference", "sampling", "tiles")
