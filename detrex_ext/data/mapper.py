"""From a record of the data set to what a detector takes, by a key of (epoch, index)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from detrex_ext.data.read import UnreadableImage, read_image
from detrex_ext.data.records import file_of, objects_of, size_of
from detrex_ext.data.transforms import Sample, Transform
from detrex_ext.runtime import Boxes, Instances, machine

logger = logging.getLogger(__name__)


class DetrMapper:
    """Reads an image, augments it and gives detectron2's sample dict.

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
        """Read the image and apply the fixed transforms.

        Args:
            record: a dict in detectron2's layout, see `detrex_ext.data.RecordDataset`.

        Raises:
            UnreadableImage: the file is missing, damaged, or not of the size that the record says; or an annotation
                is not understood.
        """
        path = file_of(record)
        image = read_image(path)
        height, width = image.shape[:2]
        wanted = size_of(record)
        if wanted != (height, width):
            reason = f"the file is {width} x {height} (after EXIF rotation), its JSON says {wanted[1]} x {wanted[0]}"
            raise UnreadableImage(path, f"{reason}; the boxes may belong to another version of it")
        sample = Sample(image, *objects_of(record if self.is_train else {}))
        for transform in self.fixed:
            sample = transform(sample, None)
        return sample

    def finish(self, record: dict, sample: Sample, rng: np.random.Generator) -> dict:
        """Apply the random transforms.

        Returns:
            image: (3, h, w) uint8 RGB tensor; height, width (of the file); file_name; image_id; and in training
            instances: `Instances` of size (h, w) with gt_boxes (XYXY, clipped, none empty) and gt_classes.
        """
        # One pipeline draws nothing, so that its stream is the transforms' alone.
        which = int(rng.integers(2)) if len(self.pipelines) == 2 else 0
        for transform in self.pipelines[which]:
            sample = transform(sample, rng)
        # A copy always: the image may be the cache's.
        chw = sample.image.transpose(2, 0, 1).copy(order="C")
        out = {"file_name": file_of(record), "image": torch.from_numpy(chw)}
        out["height"], out["width"] = size_of(record)
        if "image_id" in record:
            out["image_id"] = record["image_id"]
        if self.is_train:
            sample = sample.clipped()
            instances = Instances(sample.hw)
            instances.gt_boxes = Boxes(torch.from_numpy(sample.boxes_G4.astype(np.float32)))
            instances.gt_classes = torch.from_numpy(sample.classes_G.copy())
            out["instances"] = instances
        return out


class SampleCache:
    """Keeps samples by index until `limit` bytes of pixels are held; later ones are made afresh each time.

    Args:
        limit: bytes, per process.
    """

    def __init__(self, limit: int = 4 * 1024**3) -> None:
        self.limit, self.used = limit, 0
        self._samples: dict[int, Sample] = {}
        self._full = False

    def __len__(self) -> int:
        return len(self._samples)

    def get(self, index: int, make: Callable[[], Sample]) -> Sample:
        """The sample of `index`, made by `make` unless held. Read-only: it is shared between calls."""
        if index in self._samples:
            return self._samples[index]
        sample = make()
        if self.used + sample.image.nbytes <= self.limit:
            self._samples[index] = sample
            self.used += sample.image.nbytes
        elif not self._full:
            self._full = True
            logger.warning("image cache is full: %d images, %d MiB", len(self), self.used // 2**20)
        return sample


class Fetched(NamedTuple):
    """One sample, and the images given up on the way to it as (file, reason); no sample if all failed."""

    sample: dict | None
    unreadable: tuple[tuple[str, str], ...] = ()


class MappedDataset(torch.utils.data.Dataset):
    """`dataset[(epoch, index)]` is the sample of that image with the augmentation of that epoch.

    Args:
        dataset, mapper: where records come from and what is done to them.
        seed: randomness is `default_rng((seed, epoch, index))`.
        replacements: how many other images may be tried in place of one that cannot be read.
        cache: keeps what the mapper prepared; None: nothing is kept.
    """

    def __init__(
        self,
        dataset: Sequence[dict],
        mapper: DetrMapper,
        seed: int = 0,
        replacements: int = 0,
        cache: SampleCache | None = None,
    ) -> None:
        self.dataset, self.mapper, self.seed = dataset, mapper, seed
        self.replacements, self.cache = replacements, cache

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Fetched:
        epoch, index = key
        failed: list[tuple[str, str]] = []
        # The stream of the substitutes has one word more than any sample's, so that samples keep theirs.
        substitute = None
        for _ in range(1 + self.replacements):
            rng = np.random.default_rng((self.seed, epoch, index))
            try:
                record = self.dataset[index]
                return Fetched(self.mapper.finish(record, self.prepared(index, record), rng), tuple(failed))
            except UnreadableImage as error:
                # Exceptions lose their form on the way out of a worker; the loader raises it in the main process.
                failed.append((error.path, error.reason))
            substitute = substitute or np.random.default_rng((self.seed, epoch, index, 1))
            index = int(substitute.integers(len(self.dataset)))
        return Fetched(None, tuple(failed))

    def prepared(self, index: int, record: dict) -> Sample:
        """The image read and resized, from the cache if there is one."""
        if self.cache is None:
            return self.mapper.prepare(record)
        return self.cache.get(index, lambda: self.mapper.prepare(record))

    def fill_cache(self) -> None:
        """Read every image now, so that worker processes started afterwards share one copy."""
        if self.cache is None or len(self.cache):
            return

        def read(index: int) -> None:
            try:
                self.prepared(index, self.dataset[index])
            except UnreadableImage:
                pass  # reported when a batch asks for it

        with ThreadPoolExecutor(max_workers=machine.cores()) as pool:
            list(pool.map(read, range(len(self.dataset))))
