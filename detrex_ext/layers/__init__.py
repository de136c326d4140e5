"""Building blocks shared by detectors: attention, sampling, position codes, MLPs, boxes."""
