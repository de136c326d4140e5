"""Denoising queries filled up to one number: what is added changes neither a loss nor a gradient."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.modeling.queries import DenoisingQueries
from detrex_ext.testing import example_batch

from .hosts import STRATEGIES, host_for

CELLS = [("dino", "sqr + dac"), ("dino", "group"), ("dino", "hybrid"), ("dab, dn", "dac"), ("adamixer, dn", "none")]
SLOW = [("dino", "sqr, one set at a time"), ("deformable, no encoder, mixed, dn", "sqr + dac"), ("dab, dn", "hybrid")]


def built(host, strategy):
    torch.manual_seed(0)
    model = host_for(host, strategy).double().train()
    model.preprocess.to(torch.float64)
    model.use({"checked": STRATEGIES[strategy](host)})
    return model


def denoising(model) -> DenoisingQueries:
    return next(m for m in model.modules() if isinstance(m, DenoisingQueries))


def outcome(model, batch):
    torch.manual_seed(1)
    model.zero_grad()
    losses = model(batch)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "host, strategy", [*CELLS, *(pytest.param(*cell, marks=pytest.mark.slow) for cell in SLOW)]
)
def test_losses_and_gradients_are_those_without(host, strategy):
    model = built(host, strategy)
    for objects in ((3, 1), (0, 0)):
        batch = example_batch(model.num_classes, objects)
        denoising(model).pad_to = None
        expected, slopes = outcome(model, batch)
        denoising(model).pad_to = 32
        found, ours = outcome(model, batch)
        assert found.keys() == expected.keys() and found.stats.keys() == expected.stats.keys()
        for name, value in (*expected.items(), *expected.stats.items()):
            got = found[name] if name in found else found.stats[name]
            torch.testing.assert_close(got, value, rtol=1e-12, atol=1e-12)
        scale = max(slope.abs().max() for slope in slopes.values() if slope is not None)
        for name, slope in slopes.items():
            assert (slope is None) == (ours[name] is None), name
            if slope is not None:
                assert (ours[name] - slope).abs().max() <= 1e-12 * max(1, scale), name


def test_shapes_are_the_same_for_most_batches():
    model = built("dino", "none")
    source = denoising(model)
    source.pad_to = source.bucket
    assert source.bucket == 2 * source.number == 16
    sizes = {}
    for objects in ((0, 0), (1, 0), (3, 1), (8, 8), (9, 2)):
        images, targets = model.inputs(example_batch(model.num_classes, objects))
        q, _, _ = model.encode(images.images_B3HW, images.valid_hw_B2, targets)
        sizes[max(objects)] = (q.slots[0].size, tuple(q.masks[q.slots[0].domain].shape))
    total = model.queries.source.num_queries
    assert sizes == {n: (16, (16 + total,) * 2) for n in (0, 1, 3, 8)} | {9: (32, (32 + total,) * 2)}
    source.groups = 3
    assert source.bucket == 2 * 3 * 16


def test_no_query_sees_what_is_added_and_every_one_sees_something():
    model = built("dino", "none")
    denoising(model).pad_to = 20
    images, targets = model.inputs(example_batch(model.num_classes, (3, 1)))
    q, _, _ = model.encode(images.images_B3HW, images.valid_hw_B2, targets)
    mask, valid = q.masks[q.slots[0].domain], q.given["dn"].valid_BQ
    assert valid.shape == (2, 20) and valid[:, :12].all() and not valid[:, 12:].any()  # 2 groups of 2 x 3
    assert not mask[:12, 12:20].any() and not mask[20:, :20].any() and mask.any(1).all()
