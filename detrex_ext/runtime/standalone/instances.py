"""Per-image fields and feature shapes, with detectron2's names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class Instances:
    """Fields of equal length (boxes, classes, scores, ...) of the objects of one image.

    Fields are attributes: `inst.gt_boxes = boxes`. Indexing picks objects in every field.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        """Args: image_size: `(height, width)`."""
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """`(height, width)`."""
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        elif name == "image_size":
            raise AttributeError("image_size of Instances cannot be changed")
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Instances has no field '{name}'; it has {list(self.__dict__.get('_fields', {}))}")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set a field; its length must be that of the others."""
        if self._fields and len(value) != len(self):
            raise AssertionError(f"field '{name}' has {len(value)} objects, the Instances {len(self)}")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """True if there is a field of that name."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Drop a field; a KeyError if there is none of that name."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """The field itself, not a copy; a KeyError if there is none of that name."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """The fields themselves, not a copy."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """Move the fields that know `to`."""
        moved = {k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self._fields.items()}
        return Instances(self._image_size, **moved)

    def __getitem__(self, item: int | slice | Tensor) -> Instances:
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError(f"index {item} of {len(self)} instances")
            item = slice(item, item + 1 or None)
        out = Instances(self._image_size)
        for name, value in self._fields.items():
            if isinstance(value, list) and isinstance(item, Tensor):
                index = item.nonzero().flatten() if item.dtype == torch.bool else item
                out.set(name, [value[i] for i in index.tolist()])
            else:
                out.set(name, value[item])
        return out

    def __len__(self) -> int:
        for value in self._fields.values():
            return value.__len__()  # of len() a trace would know a number alone
        raise NotImplementedError("Instances without fields have no length")

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError("Instances cannot be iterated; index them")

    @staticmethod
    def cat(instance_lists: Sequence[Instances]) -> Instances:
        """Join the objects of several Instances of one image."""
        if not instance_lists or not all(isinstance(i, Instances) for i in instance_lists):
            raise AssertionError("Instances.cat takes at least one Instances")
        first = instance_lists[0]
        sizes = [i.image_size for i in instance_lists]
        if not isinstance(sizes[0], Tensor) and any(size != sizes[0] for size in sizes):  # a tensor in a trace
            raise AssertionError("Instances of different images cannot be joined")
        if len(instance_lists) == 1:
            return first
        out = Instances(first.image_size)
        for name, value in first.get_fields().items():
            values = [i.get(name) for i in instance_lists]
            if isinstance(value, Tensor):
                out.set(name, torch.cat(values))
            elif isinstance(value, list):
                out.set(name, list(itertools.chain(*values)))
            elif hasattr(type(value), "cat"):
                out.set(name, type(value).cat(values))
            else:
                raise ValueError(f"field '{name}' of type {type(value).__name__} cannot be joined")
        return out

    def __repr__(self) -> str:
        count = len(self) if self._fields else 0
        fields = ", ".join(f"{k}: {v}" for k, v in self._fields.items())
        return f"Instances(num_instances={count}, image_size={self._image_size}, fields=[{fields}])"


@dataclass
class ShapeSpec:
    """What is known of a feature map: channels, height and width in pixels, stride against the image."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
