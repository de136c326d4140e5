"""Query sets on the token axis: taking some of them, and picking tokens of one."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from detrex_ext.structures import Given, Pairs, Prior, Queries, Slot, cat

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


def one_set(**parts):
    torch.manual_seed(0)
    extra = {"row": torch.randn(2, 5), "code": torch.randn(2, 5, 3, 2)}
    slot = Slot(5, "enc", "aux", point=True)
    return Queries(torch.randn(2, 5, 6), torch.rand(2, 5, 4), (slot,), extra=extra, **parts)


def test_tokens_are_picked_image_by_image():
    index = torch.tensor([[4, 0, 4], [1, 2, 3]])
    prior = Prior(boxes_BQ4=torch.rand(2, 5, 4), strides_BQ=torch.rand(2, 5))
    whole = one_set(given={"enc": Given(scale=3.0, prior=prior, valid_BQ=torch.rand(2, 5) > 0.5)})
    taken = whole.pick(index)
    assert taken.slots == (Slot(3, "enc", "aux", point=True),)
    given, was = taken.given["enc"], whole.given["enc"]
    assert given.scale == 3.0 and given.prior.points_BQ2 is None
    for after, before in (
        (taken.content_BTC, whole.content_BTC),
        (taken.ref_BT4, whole.ref_BT4),
        *((taken.extra[k], whole.extra[k]) for k in whole.extra),
        (given.prior.boxes_BQ4, prior.boxes_BQ4),
        (given.prior.strides_BQ, prior.strides_BQ),
        (given.valid_BQ, was.valid_BQ),
    ):
        assert torch.equal(after, torch.stack([x[rows] for x, rows in zip(before, index, strict=True)]))
    assert cat(taken.retag(path="x"), whole).content_BTC.shape == (2, 8, 6)


def test_a_mask_is_cut_to_tokens_picked_for_all_images():
    whole = one_set(masks={0: torch.rand(5, 5) > 0.5})
    index = torch.tensor([3, 1])
    taken = whole.pick(index)
    assert torch.equal(taken.content_BTC, whole.content_BTC[:, index])
    assert all(taken.masks[0][i, j] == whole.masks[0][a, b] for i, a in enumerate(index) for j, b in enumerate(index))


def test_picking_what_has_no_answer_is_refused():
    index = torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match="of one set, these are 4"):
        queries().pick(index)
    with pytest.raises(ValueError, match=r"the same for all images.*masks=\{\}"):
        one_set(masks={0: torch.ones(5, 5, dtype=torch.bool)}).pick(index)
    with pytest.raises(ValueError, match="given pairs"):
        one_set(given={"enc": Given(pairs=Pairs.empty())}).pick(index)
