"""A detector that predicts on images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from .checkpoint.threshold import Threshold
from .data.image_like import Examined, ImageLike
from .data.image_like import as_rgb as as_rgb
from .data.transforms import Sample
from .errors import UserError
from .modeling.graphs import Graphs
from .predicting.examining import Examining
from .predicting.found import Found
from .predicting.sources import Source, images_of
from .predicting.tiles import Tile, Tiling
from .runtime import Instances, machine, native

PER_CLASS = "per-class"
_THREADS = 4  # at most, beside a GPU


class Predictor:
    """A detector with its class names and its test-time transforms.

    Attributes:
        model: in evaluation mode.
        class_names, category_ids: by class index.
        config: the config the model was built from.
        source: the file its weights come from.
        weights: which these are, in words: the file, how many iterations made them, averaged or trained.
        threshold: least scores where ``predict`` is given none: those of the checkpoint's evaluation, else 0.5.
        precision: "fp32", "bf16" or "fp16", which products are computed in.
        precision_reason: why it is that, for people.
        threads: that prepare images while the model is busy.
        trusted: whether ``evaluate`` may make whatever the config names.

    Args:
        precision: one of these, or "auto", see :func:`~detrex_ext.runtime.native.resolve`.
        cuda_graphs: see :class:`~detrex_ext.modeling.graphs.Graphs`.
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
        *,
        precision: str = "fp32",
        cuda_graphs: bool = False,
    ) -> None:
        self.model, self.transforms = model.eval(), list(transforms)
        self.class_names, self.category_ids = list(class_names), list(category_ids)
        self.config, self.source, self.weights = config, source, weights
        self.threshold, self.trusted = threshold or Threshold(origin="the default"), trusted
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.precision, self.precision_reason = native.resolve(precision, self.device)
        # on a CPU the model uses all cores
        self.threads = 1 if self.device.type == "cpu" else max(1, min(_THREADS, machine.cores() - 1))
        self._graphs = Graphs(self.model) if cuda_graphs else None

    def predict(
        self, image: ImageLike | Sequence[ImageLike], threshold: float | str | None = None, batch_size: int = 1,
        tile: Tile = None,
    ) -> Found | list[Found]:  # fmt: skip
        """Objects on an image, best first.

        Args:
            image: a path, a Pillow image, an (H, W, 3) uint8 RGB array (or RGBA, or gray), or a list of such.
            threshold: least score of what is returned, in [0, 1]; ``"per-class"`` = each class's own; None =
                ``self.threshold``, the same for all classes.
            batch_size: images of a list that go through the model together, where as many have the same size as the
                model takes them. None is padded for another's sake, so that each is found as it is alone.
            tile: for small objects on large images: look at overlapping slices too, of this side in pixels, of the
                size that the model's images are resized to (``"auto"``), or as a ``Tiling`` says.

        Returns:
            ``Instances`` on the CPU, in pixels of the image (upright, as EXIF says): ``pred_boxes`` (XYXY),
            ``scores``, ``pred_classes`` (indices into ``class_names``), and ``names``; for a list, a list of them.

        Raises:
            UserError: an image that cannot be read. TypeError: no image at all. ValueError: another argument.
        """
        several = isinstance(image, list | tuple)
        found = list(self.stream(image if several else [image], threshold, batch_size, tile))
        return found if several else found[0]

    def stream(
        self, images: Source, threshold: float | str | None = None, batch_size: int = 1, tile: Tile = None
    ) -> Iterator[Found]:
        """As ``predict`` for many images: they are read while the model is busy with those before, a few ahead.

        ``images`` are any number, or one thing that stands for them: the path of a video (whose frames they are, one by
        one), of a folder of images, or the number of a camera, which goes on until nobody asks for more.
        """
        for seen in self.examine(images, threshold, batch_size, False, tile):
            if seen.error is not None:
                raise seen.error
            yield seen.instances

    def examine(
        self, images: Source, threshold: float | str | None = None, batch_size: int = 1, keep: bool = True,
        tile: Tile = None,
    ) -> Iterator[Examined]:  # fmt: skip
        """As ``stream``, with the pixels of each image if they are to be kept; one that cannot be read ends nothing.

        Raises:
            ValueError: of the threshold, the slices or the size of a batch.
        """
        least = self._least(threshold)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be 1 or more")
        examining = Examining(self.as_input, self._run, self.threads, batch_size, keep)
        if tile is None:
            return examining.whole(images_of(images), least)
        return examining.in_slices(images_of(images), least, Tiling.of(tile, self.transforms))

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
    def _run(self, batch: list[dict], least: Tensor) -> list[Found]:
        half = contextlib.nullcontext()
        if dtype := native.DTYPES.get(self.precision):
            # what a graph casts lies in its own memory: a cache must not hand it on
            half = torch.autocast(self.device.type, dtype, cache_enabled=self._graphs is None)
        try:
            with half:
                outputs = self.model(batch) if self._graphs is None else self._by_graphs(batch)
        except FloatingPointError as error:
            if self.precision != "fp16":
                raise
            raise UserError(f"precision=fp16: {error}: they leave its range\n  use precision=bf16 or fp32") from error
        found = [output["instances"].to("cpu") for output in outputs]
        return [Found(x.image_size, self.class_names, **x.get_fields()).above(least) for x in found]

    def _by_graphs(self, batch: list[dict]) -> list[dict[str, Instances]]:
        images, _ = self.model.inputs(batch)
        sets = self._graphs(images.images_B3HW, images.valid_hw_B2)
        return self.model.postprocess(sets, images.image_hw_B2, batch)
