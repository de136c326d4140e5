"""From a record of the data set to what a detector takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from detrex_ext.data.read import UnreadableImage, read_image
from detrex_ext.data.sample import Sample
from detrex_ext.data.transforms import Transform


class DetrMapper:
    """Reads a picture, augments it and gives detectron2's sample dict.

    Args:
        augmentation: transforms applied in order.
        augmentation_with_crop: a second list; each sample takes one of the two with probability 1/2 (DETR's scheme).
        is_train: False leaves the annotations out.

    The transforms at the beginning that do not depend on chance (`fixed`) are applied in `prepare`, whose result may
    be cached; the others in `finish`.
    """

    def __init__(
        self,
        augmentation: Sequence[Transform],
        augmentation_with_crop: Sequence[Transform] | None = None,
        is_train: bool = True,
    ) -> None:
        steps = list(augmentation)
        lead = 0
        if augmentation_with_crop is None:
            while lead < len(steps) and getattr(steps[lead], "fixed", False):
                lead += 1
        self.fixed, self.pipelines, self.is_train = steps[:lead], [steps[lead:]], is_train
        if augmentation_with_crop is not None:
            self.pipelines.append(list(augmentation_with_crop))

    def __call__(self, record: dict, rng: np.random.Generator) -> dict:
        """The sample dict of `record`; see `finish`."""
        return self.finish(record, self.prepare(record), rng)

    def prepare(self, record: dict) -> Sample:
        """Read the picture and apply the fixed transforms.

        Raises:
            UnreadableImage: the file is missing, damaged, or not of the size that the record says.
        """
        image = read_image(record["file_name"])
        wanted = (record["height"], record["width"])
        if image.shape[:2] != wanted:
            raise UnreadableImage(
                record["file_name"],
                f"the file is {image.shape[1]} x {image.shape[0]} (after EXIF rotation), its JSON says "
                f"{wanted[1]} x {wanted[0]}; the boxes may belong to another version of it",
            )
        sample = Sample(image, *self._objects(record))
        for transform in self.fixed:
            sample = transform(sample, None)
        return sample

    def finish(self, record: dict, sample: Sample, rng: np.random.Generator) -> dict:
        """Apply the random transforms.

        Returns:
            image: (3, h, w) uint8 RGB tensor; height, width (of the file); file_name; image_id; and in training
            instances: `Instances` of size (h, w) with gt_boxes (XYXY, clipped, none empty) and gt_classes.
        """
        from detrex_ext.runtime import Boxes, Instances

        # One pipeline draws nothing, so that its stream is the transforms' alone.
        which = int(rng.integers(2)) if len(self.pipelines) == 2 else 0
        for transform in self.pipelines[which]:
            sample = transform(sample, rng)
        # A copy always: the picture may be the cache's.
        chw = sample.image.transpose(2, 0, 1).copy(order="C")
        out = {key: record[key] for key in ("file_name", "height", "width", "image_id")}
        out["image"] = torch.from_numpy(chw)
        if self.is_train:
            sample = sample.clipped()
            instances = Instances(sample.hw)
            instances.gt_boxes = Boxes(torch.from_numpy(sample.boxes_G4.astype(np.float32)))
            instances.gt_classes = torch.from_numpy(sample.classes_G.copy())
            out["instances"] = instances
        return out

    def _objects(self, record: dict) -> tuple[np.ndarray, np.ndarray]:
        kept = [a for a in record["annotations"] if not a["iscrowd"]] if self.is_train else []
        xywh = np.array([a["bbox"] for a in kept], dtype=np.float64).reshape(-1, 4)
        classes = np.array([a["category_id"] for a in kept], dtype=np.int64)
        boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        # A negative width would become a box when mirrored.
        good = (xywh[:, 2:] > 0).all(axis=1)
        return boxes[good], classes[good]
