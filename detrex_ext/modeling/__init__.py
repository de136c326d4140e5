"""The parts of a detector, from pictures to predictions."""
