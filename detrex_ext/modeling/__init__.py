"""The parts of a detector, from images to predictions."""
