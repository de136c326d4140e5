"""What of a pipeline is done in which part of the training: by the progress in a sample's key, 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detrex_ext.data.mixing import Draw, Mixing, Mosaic
from detrex_ext.data.transforms import Sample, Transform


class During:
    """Transforms that are done in a part of the training. Where they are off nothing is drawn.

    Args:
        steps: transforms, in order; parts that mix images have a `since` and `until` of their own.
        since: progress of the training, 0 to 1, from which on they are done.
        until: progress before which they are done; 1 = to the end.
        on_mosaics: whether they are done on mosaics too.
    """

    fixed = False

    def __init__(
        self, steps: Sequence[Transform], since: float = 0.0, until: float = 1.0, on_mosaics: bool = True
    ) -> None:
        if not 0 <= since <= until <= 1:
            raise ValueError(f"During: since={since}, until={until}; expected 0 <= since <= until <= 1")
        self.steps, self.since, self.until, self.on_mosaics = list(steps), since, until, on_mosaics
        for step in self.steps:
            if isinstance(step, Mixing | During) or not callable(step):
                raise ValueError(f"During: expected transforms of one image; found {type(step).__name__}")

    def __call__(self, sample: Sample, rng: np.random.Generator, progress: float, is_mosaic: bool) -> Sample:
        """The sample itself, or transformed."""
        on = self.since <= progress and (progress < self.until or self.until == 1)
        if on and (self.on_mosaics or not is_mosaic):
            for step in self.steps:
                sample = step(sample, rng)
        return sample


Step = Transform | Mixing | During


def run(steps: Sequence[Step], sample: Sample, rng: np.random.Generator, progress: float, other: Draw) -> Sample:
    """The sample after a pipeline, at a progress of the training; `other` draws another prepared sample."""
    is_mosaic = False
    for step in steps:
        if isinstance(step, Mixing):
            before, sample = sample, step(sample, rng, progress, other)
            is_mosaic = is_mosaic or (isinstance(step, Mosaic) and sample is not before)
        elif isinstance(step, During):
            sample = step(sample, rng, progress, is_mosaic)
        else:
            sample = step(sample, rng)
    return sample


def mixing_of(steps: Sequence[Step]) -> list[Mixing]:
    """The parts of a pipeline that make one sample of several."""
    return [step for step in steps if isinstance(step, Mixing) and step.on]
