"""Parameters for training only: a module that its owner registers under the name ``training_only``.

A strategy with parameters is an ``nn.Module``; the detector registers it as ``training_only.<name of the strategy>``. A
layer with a branch that acts in training alone registers that branch as ``self.training_only``. Such parameters are
trained, averaged and checkpointed like any other, so a resumed run finds them. A model that only predicts has none,
and a file with them loads into it as if they were not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

TRAINING_ONLY = "training_only"
_Value = TypeVar("_Value")
_Model = TypeVar("_Model", bound=nn.Module)


def is_training_only(key: str) -> bool:
    """Whether a state-dict key or a module's name lies in such a module."""
    return TRAINING_ONLY in key.split(".")


def without_training_only(state: Mapping[str, _Value]) -> dict[str, _Value]:
    """Entries of a state dict that a predicting model has, in order."""
    return {key: value for key, value in state.items() if not is_training_only(key)}


def strip_training_only(model: _Model) -> _Model:
    """The model without them, changed in place and returned."""
    for module in model.modules():
        module._modules.pop(TRAINING_ONLY, None)
    return model
