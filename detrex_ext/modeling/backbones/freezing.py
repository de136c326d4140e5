"""Parts of a backbone that are not trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


class PartlyFrozen(nn.Module):
    """A module of which some parts are not trained and stay in evaluation mode: their statistics are constant."""

    _frozen: Sequence[nn.Module] = ()

    def freeze(self, parts: Sequence[nn.Module]) -> None:
        """Freezes these parts of the module."""
        self._frozen = tuple(parts)  # in a tuple they are not registered a second time
        for part in self._frozen:
            part.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PartlyFrozen:
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self
