"""Whether tensors can be weights of a training: numbers of the right kind, none of them NaN or infinite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from detrex_ext.errors import UserError


def check_sound(values: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> None:
    """Holds tensors against those of a model that they are for.

    Args:
        values: by the model's names.
        own: the model's; what it has infinite itself, such as a mask, may be so.
        name: of the file, for messages.

    Raises:
        UserError: whole numbers or truth values for weights; NaN or infinite numbers, also where those of the file are
            too large for the model's.
    """
    floats = [key for key in values if own[key].is_floating_point()]
    cast = [key for key in floats if not values[key].is_floating_point()]
    if cast:
        raise UserError(
            f"checkpoint {name}: {_listed(cast)} should be weights, and hold {values[cast[0]].dtype}: "
            "they were cast after the training\n  take another file"
        )
    odd = [key for key in floats if not _finite(values[key], own[key].dtype)]
    odd = [key for key in odd if own[key].is_meta or _finite(own[key], own[key].dtype)]
    if odd:
        raise UserError(
            f"checkpoint {name}: NaN or infinite numbers in {_listed(odd)}: its training diverged, or it is damaged\n"
            "  take an earlier checkpoint, or another file"
        )


def check_no_nan(values: Mapping[str, Tensor], name: str) -> None:
    """As `check_sound` where there is no model to ask, and an infinite number may be meant."""
    odd = [key for key, value in values.items() if value.is_floating_point() and not _finite(value, value.dtype)]
    if odd := [key for key in odd if values[key].isnan().any()]:
        raise UserError(f"checkpoint {name}: NaN in {_listed(odd)}: its training diverged, or it is damaged")


def _listed(keys: Sequence[str]) -> str:
    return f"{', '.join(keys[:3])}{f' and {len(keys) - 3} more tensors' if len(keys) > 3 else ''}"


def _finite(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether all numbers are finite as that dtype. A sum tells soon; it may be too large where no number is."""
    value = value.detach() if value.is_meta else value.detach().to(dtype)
    return value.is_meta or bool(value.sum().isfinite()) or bool(value.isfinite().all())
