"""Query sets on the token axis: what taking some of them leaves of a domain's mask."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from detrex_ext.structures import Queries, Slot

SLOTS = (Slot(3, "dn"), Slot(2, "hybrid", domain=1), Slot(4, "dn"), Slot(5))


def queries():
    torch.manual_seed(0)
    return Queries(torch.randn(2, 14, 6), torch.rand(2, 14, 4), SLOTS, {0: torch.rand(12, 12) > 0.5})


@pytest.mark.parametrize("chosen", list(product([False, True], repeat=4)))
def test_a_mask_is_cut_to_the_tokens_that_stay(chosen):
    whole, taken = queries(), queries().select(list(chosen))
    stay = torch.cat([torch.full((s.size,), on) for s, on in zip(SLOTS, chosen, strict=True)])
    assert torch.equal(taken.content_BTC, whole.content_BTC[:, stay])
    within = torch.cat([torch.full((s.size,), on) for s, on in zip(SLOTS, chosen, strict=True) if s.domain == 0])
    assert (0 in taken.masks) == bool(within.any())
    if within.any():
        assert torch.equal(taken.masks[0], whole.masks[0][within][:, within]) and taken.masks[0].is_contiguous()


def test_taking_sets_looks_at_no_value():
    """On tensors without values, whatever would need one on the host raises."""
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        whole = queries()
        empty = whole.replace(masks={0: fake.from_tensor(whole.masks[0])})
        assert empty.take("main").masks[0].shape == (5, 5)
