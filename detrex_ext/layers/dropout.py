"""Dropout that may overwrite its input."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .cpu import kernels


@kernels("dropout")
def dropout(x: Tensor, p: float, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability ``p``, scale the rest by 1 / (1 - p).

    Args:
        x: any shape.
        p: probability.
        training: False returns ``x``.
        inplace: ``x`` may be overwritten: nobody else, the backward pass of its maker included, looks at it again.

    Returns:
        The shape of ``x``.
    """
    return F.dropout(x, p) if training and p else x


class Dropout(nn.Dropout):
    """torch's module on :func:`dropout`; with ``inplace=True`` its input may be overwritten."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, which stays."""
        return dropout(x, self.p, self.training, self.inplace)
