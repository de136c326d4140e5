"""Dense sigmoid classification: every (query, class) entry is a negative, a few entries are corrected.

Shape legend: N sets, B images, Q queries of a set, K classes, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from detrex_ext.layers.cpu import kernels

Correction = tuple[Tensor, Callable[[Tensor], Tensor]]


def negative(x: Tensor, scale: float, gamma: float, held: bool = False) -> Tensor:
    """Focal loss of a negative entry with logit x: scale p^gamma (-log(1 - p)), elementwise.

    ``held``: p^gamma is a weight that gets no gradient.
    """
    p = x.detach().sigmoid() if held else x.sigmoid()
    return scale * p**gamma * F.softplus(x, threshold=40)


@kernels("dense_sigmoid_loss")
def dense_sigmoid_loss(
    logits_NBQK: Tensor,
    scale: float,
    gamma: float,
    weight_NBQ: Tensor | None = None,
    corrections: Sequence[Correction] = (),
    held: bool = False,
) -> Tensor:
    """Sum over each set of :func:`negative` at every entry, plus corrections at single entries.

    Args:
        logits_NBQK: class logits.
        scale: of the negatives.
        gamma: of the negatives.
        weight_NBQ: weight of each query's negatives, or None for ones. Corrections are not weighted.
        corrections: (flat entries (P,) of the logits, function from the logits there to (P,) values to add). The
            functions are differentiated in their argument only; an entry may appear in several.
        held: of the negatives.

    Returns:
        (N,) sums.
    """
    row_NBQ = negative(logits_NBQK, scale, gamma, held).sum(-1)
    sum_N = (row_NBQ if weight_NBQ is None else row_NBQ * weight_NBQ).flatten(1).sum(1)
    for entries_P, function in corrections:
        value_P = function(logits_NBQK.flatten()[entries_P])
        sum_N = sum_N.index_add(0, entries_P // max(1, logits_NBQK[0].numel()), value_P)
    return sum_N
