"""A detector that predicts on images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn

from .checkpoint.threshold import Threshold
from .data.read import read_image, rgb_of
from .data.transforms import Sample
from .errors import UserError
from .runtime import Instances

PER_CLASS = "per-class"
ImageLike = str | os.PathLike | Image.Image | np.ndarray


class Predictor:
    """A detector with its class names and its test-time transforms.

    Attributes:
        model: in evaluation mode.
        class_names, category_ids: by class index.
        config: the config the model was built from.
        source: the file its weights come from.
        weights: which these are, in words: the file, how many iterations made them, averaged or trained.
        threshold: least scores where ``predict`` is given none: those of the checkpoint's evaluation, else 0.5.
        trusted: whether ``evaluate`` may make whatever the config names.
    """

    def __init__(
        self,
        model: nn.Module,
        class_names: Sequence[str],
        transforms: Sequence[Any] = (),
        category_ids: Sequence[int] = (),
        config: DictConfig | None = None,
        source: str = "",
        weights: str = "",
        threshold: Threshold | None = None,
        trusted: bool = False,
    ) -> None:
        self.model, self.transforms = model.eval(), list(transforms)
        self.class_names, self.category_ids = list(class_names), list(category_ids)
        self.config, self.source, self.weights = config, source, weights
        self.threshold, self.trusted = threshold or Threshold(origin="the default"), trusted

    def predict(
        self, image: ImageLike | Sequence[ImageLike], threshold: float | str | None = None, batch_size: int = 1
    ) -> Instances | list[Instances]:
        """Objects on an image, best first.

        Args:
            image: a path, a Pillow image, an (H, W, 3) uint8 RGB array (or RGBA, or gray), or a list of such.
            threshold: least score of what is returned, in [0, 1]; ``"per-class"`` = each class's own; None =
                ``self.threshold``, the same for all classes.
            batch_size: images of a list that go through the model together; padding may change scores a little.

        Returns:
            ``Instances`` on the CPU, in pixels of the image (upright, as EXIF says): ``pred_boxes`` (XYXY),
            ``scores``, ``pred_classes`` (indices into ``class_names``); for a list, a list of them.

        Raises:
            UserError: an image that cannot be read. TypeError: no image at all. ValueError: another argument.
        """
        if not isinstance(image, list | tuple):
            return next(self.stream([image], threshold, 1))
        return list(self.stream(image, threshold, batch_size))

    def stream(
        self, images: Iterable[ImageLike], threshold: float | str | None = None, batch_size: int = 1
    ) -> Iterator[Instances]:
        """As ``predict`` for many images: each is read when its turn comes."""
        least = self._least(threshold)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be 1 or more")
        batch: list[dict] = []
        for image in images:
            batch.append(self.as_input(as_rgb(image)))
            if len(batch) == batch_size:
                yield from self._run(batch, least)
                batch = []
        if batch:
            yield from self._run(batch, least)

    def evaluate(self, json: str | os.PathLike, images: str | os.PathLike = "") -> dict[str, dict[str, float]]:
        """Metrics on annotated images, the figures of ``train --eval-only``.

        Args:
            json: COCO annotation file with the classes of the model.
            images: folder of its images; "" = looked for beside the file.

        Returns:
            ``{"bbox": {"AP", "AP50", ..., "AP-<class>"}, "bbox_f1": {...}}``, x 100, see
            :meth:`~detrex_ext.evaluation.coco.CocoEvaluator.evaluate`; empty where the file has no annotations.

        Raises:
            UserError: data that cannot be read or is of other classes, or a config that does not say how to read any.
        """
        if self.config is None:
            raise UserError("this predictor was made without a config: one of detrex_ext.load(...) can evaluate")
        from .evaluation.on_data import evaluate_on  # not needed to predict

        about = self.class_names if self.category_ids else None, self.source or "the model"
        return evaluate_on(self.model, self.config, json, images, *about, self.trusted)

    def _least(self, threshold: float | str | None) -> Tensor:
        """Least score of each class, or of all (1,)."""
        if threshold == PER_CLASS:
            if not self.threshold.chosen:
                raise UserError(
                    f"threshold={PER_CLASS}: {self.source or 'the model'} has none: {self.threshold.origin}\n"
                    "  a training that evaluates writes them; name a number instead"
                )
            return torch.tensor(self.threshold.of(self.class_names), dtype=torch.float64)
        least = self.threshold.score if threshold is None else threshold
        if isinstance(least, str) or not 0 <= least <= 1:
            raise ValueError(f"threshold={threshold} must lie in [0, 1], or be '{PER_CLASS}'")
        return torch.tensor([least], dtype=torch.float64)

    def as_input(self, rgb: np.ndarray) -> dict:
        """An input dict of the model: transformed as in evaluation, with the size it came in."""
        sample = Sample(rgb, np.zeros((0, 4)), np.zeros(0, dtype=np.int64))
        rng = np.random.default_rng(0)
        for transform in self.transforms:
            sample = transform(sample, rng)
        chw = sample.image.transpose(2, 0, 1).copy(order="C")
        return {"image": torch.from_numpy(chw), "height": rgb.shape[0], "width": rgb.shape[1]}

    @torch.no_grad()
    def _run(self, batch: list[dict], least: Tensor) -> list[Instances]:
        found = [output["instances"].to("cpu") for output in self.model(batch)]
        return [x[x.scores >= (least if len(least) == 1 else least[x.pred_classes]).to(x.scores)] for x in found]


def as_rgb(image: ImageLike) -> np.ndarray:
    """(H, W, 3) uint8 RGB of any image that ``Predictor.predict`` takes.

    Raises:
        UserError: a file that cannot be read. TypeError: no image at all.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        return rgb_of(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3) and image.size:
        channels = image.reshape(*image.shape[:2], -1)
        if channels.shape[2] in (1, 3, 4):
            return np.repeat(channels, 3, axis=2) if channels.shape[2] == 1 else channels[:, :, :3].copy()
    found = f"{image.dtype} array {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise TypeError(f"an image is a path, a Pillow image or an (H, W, 3) uint8 RGB array; found {found}")
