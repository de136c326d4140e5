"""From a record of the data set to what a detector takes, by a key of (epoch, index, progress)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from detrex_ext.data.cache import SampleCache
from detrex_ext.data.mixing import Draw
from detrex_ext.data.phases import Step, mixing_of, run
from detrex_ext.data.read import UnreadableImage, read_image
from detrex_ext.data.records import file_of, objects_of, size_of
from detrex_ext.data.samplers import Key
from detrex_ext.data.transforms import Sample
from detrex_ext.runtime import Boxes, Instances, machine


class DetrMapper:
    """Reads an image, augments it and gives detectron2's sample dict.

    Args:
        augmentation: transforms applied in order.
        augmentation_with_crop: a second list; each sample takes one of the two with probability 1/2 (DETR's scheme).
        is_train: False leaves the annotations out, and refuses to mix images.

    The transforms at the beginning that do not depend on chance (`fixed`) are applied in `prepare`, whose result may
    be cached; the others in `finish`.
    """

    def __init__(
        self,
        augmentation: Sequence[Step],
        augmentation_with_crop: Sequence[Step] | None = None,
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
        if not is_train and self.most_mixed > 1:
            raise ValueError("DetrMapper: parts that mix images are for training only, and is_train is false")

    @property
    def most_mixed(self) -> int:
        """Images that one sample may be made of."""
        return max(1 + sum(step.images - 1 for step in mixing_of(steps)) for steps in self.pipelines)

    def most_objects(self, most: int) -> int:
        """Objects that one sample may have, of images with `most`."""
        return most + max(sum(step.most_added(most) for step in mixing_of(steps)) for steps in self.pipelines)

    def __call__(self, record: dict, rng: np.random.Generator) -> dict:
        """The sample dict of `record`, as of a set that has no other; see `finish`."""
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

    def finish(
        self, record: dict, sample: Sample, rng: np.random.Generator, progress: float = 0.0, other: Draw | None = None
    ) -> dict:
        """Apply the random transforms.

        Args:
            record: whose sample it is.
            sample: what was prepared of it.
            rng: all chance.
            progress: of the training, 0 to 1, when it takes the sample.
            other: draws another prepared sample; None: there is this one alone.

        Returns:
            image: (3, h, w) uint8 RGB tensor; height, width (of the file); file_name; image_id; and in training
            instances: `Instances` of size (h, w) with gt_boxes (XYXY, clipped, none empty) and gt_classes.
        """
        # One pipeline draws nothing, so that its stream is the transforms' alone.
        which = int(rng.integers(2)) if len(self.pipelines) == 2 else 0
        sample = run(self.pipelines[which], sample, rng, progress, other or (lambda alone=sample: alone))
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


class Fetched(NamedTuple):
    """One sample, and the images given up on the way to it as (file, reason); no sample if all failed."""

    sample: dict | None
    unreadable: tuple[tuple[str, str], ...] = ()


class MappedDataset(torch.utils.data.Dataset):
    """`dataset[(epoch, index, progress)]` is the sample of that image with the augmentation of then; progress may lack.

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

    def __getitem__(self, key: Key) -> Fetched:
        epoch, index, progress = key if len(key) == 3 else (*key, 0.0)
        failed: list[tuple[str, str]] = []
        # The stream of the substitutes has one word more than any sample's, so that samples keep theirs.
        substitute = None
        for _ in range(1 + self.replacements):
            rng = np.random.default_rng((self.seed, epoch, index))
            try:
                record, other = self.dataset[index], partial(self._other, rng, failed)
                out = self.mapper.finish(record, self.prepared(index, record), rng, progress, other)
                return Fetched(out, tuple(failed))
            except UnreadableImage as error:
                # Exceptions lose their form on the way out of a worker; the loader raises it in the main process.
                failed.append((error.path, error.reason))
            substitute = substitute or np.random.default_rng((self.seed, epoch, index, 1))
            index = int(substitute.integers(len(self.dataset)))
        return Fetched(None, tuple(failed))

    def _other(self, rng: np.random.Generator, failed: list[tuple[str, str]]) -> Sample:
        """A prepared sample of any image of the set, in place of those that cannot be read."""
        left = self.replacements
        while True:
            index = int(rng.integers(len(self.dataset)))
            try:
                return self.prepared(index, self.dataset[index])
            except UnreadableImage as error:
                if not left:
                    raise
                failed.append((error.path, error.reason))
            left -= 1

    def prepared(self, index: int, record: dict) -> Sample:
        """The image read and resized, from the cache if there is one."""
        make = partial(self.mapper.prepare, record)
        return make() if self.cache is None else self.cache.get(index, make)

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
