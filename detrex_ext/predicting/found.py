"""What a predictor answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import UserError
from ..runtime import Instances


class Found(Instances):
    """``Instances`` of an image that know what their classes are called, and the frame of a video they are of.

    Args:
        image_size: (height, width) of the image.
        class_names: by class index.
        frame: number of the frame, from 0; None for an image of its own.
        time: of the frame, in seconds from the first.
        fields: as of ``Instances``: ``pred_boxes``, ``scores`` and ``pred_classes``.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        class_names: Sequence[str] = (),
        frame: int | None = None,
        time: float | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(image_size, **fields)
        self._class_names, self._frame, self._time = class_names, frame, time

    @property
    def names(self) -> list[str]:
        """Class of each object."""
        return [self._class_names[k] for k in self.pred_classes.tolist()]

    @property
    def frame(self) -> int | None:
        """Number of the frame of a video, from 0; None for an image of its own."""
        return self._frame

    @property
    def time(self) -> float | None:
        """Seconds from the first frame of a video; None for an image of its own."""
        return self._time

    def above(self, least: Tensor) -> Found:
        """Those with at least these scores, of each class, or (1,) of all."""
        return self[self.scores >= (least if len(least) == 1 else least[self.pred_classes]).to(self.scores)]

    def with_objects(self, **fields: Any) -> Found:
        """Other objects of the same image."""
        return Found(self.image_size, self._class_names, self._frame, self._time, **fields)

    def of_frame(self, number: int, time: float) -> Found:
        """The same objects, of that frame."""
        return Found(self.image_size, self._class_names, number, time, **self.get_fields())

    def to(self, *args: Any, **kwargs: Any) -> Found:
        """As of ``Instances``."""
        return self.with_objects(**super().to(*args, **kwargs).get_fields())

    def __getitem__(self, item: Any) -> Found:
        return self.with_objects(**super().__getitem__(item).get_fields())

    def to_supervision(self) -> Any:
        """``supervision.Detections`` of the objects, with ``class_name`` among its data.

        Raises:
            UserError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise UserError(
                "to_supervision() needs supervision, which is not installed\n  pip install supervision"
            ) from None
        return supervision.Detections(
            xyxy=self.pred_boxes.tensor.cpu().numpy().astype(np.float32),
            confidence=self.scores.cpu().numpy().astype(np.float32),
            class_id=self.pred_classes.cpu().numpy().astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )
