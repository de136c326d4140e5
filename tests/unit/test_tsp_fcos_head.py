"""Heads of TSP-FCOS: distances in strides to boxes, further outputs of a set."""

from __future__ import annotations

import torch

from detrex_ext.modeling.decoders import FCOSHead
from detrex_ext.modeling.queries import TokenQueries
from detrex_ext.structures import Memory, Prior

STRIDES = (8, 16, 32)


def memory(points, strides, size):
    """Tokens at points of one image of size (height, width), in pixels."""
    torch.manual_seed(0)
    wh = torch.tensor([float(size[1]), float(size[0])])
    points, strides = torch.tensor([points]), torch.tensor([strides])
    ref = torch.cat([points / wh, strides[..., None] / wh], -1)
    tokens, hw = torch.randn(1, points.shape[1], 6), torch.tensor([[float(x) for x in size]])
    prior = Prior(ref, points / wh, strides, torch.full(strides.shape, -1))
    return Memory(tokens, None, None, ((1, points.shape[1]),), (1,), torch.ones(1, 1, 2), hw, prior)


def head(**state):
    torch.manual_seed(1)
    made = FCOSHead(3, 6, STRIDES).eval()
    with torch.no_grad():
        made.scales.copy_(torch.tensor([1.0, 0.5, 2.0]))
        made.bbox_embed.bias.copy_(torch.tensor([2.0, 1.0, 3.0, 0.5]))
    return made


def test_boxes_are_distances_in_strides_times_the_levels_factor():
    points, strides = [[20.0, 12.0], [40.0, 56.0], [80.0, 16.0]], [8.0, 16.0, 32.0]
    mem, made = memory(points, strides, (64, 128)), head()
    q, _ = TokenQueries()(mem)
    (found,) = made(q, mem)
    raw = made.bbox_embed(mem.tokens_BSC).relu()
    for i, ((x, y), stride, factor) in enumerate(zip(points, strides, (1.0, 0.5, 2.0), strict=True)):
        left, top, right, bottom = (raw[0, i] * factor).tolist()
        torch.testing.assert_close(found.outputs["ltrb"][0, i], raw[0, i] * factor)
        xyxy = [x - left * stride, y - top * stride, x + right * stride, y + bottom * stride]
        cx, cy, w, h = (found.boxes_BQ4[0, i] * torch.tensor([128.0, 64.0, 128.0, 64.0])).tolist()
        torch.testing.assert_close(
            torch.tensor([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]), torch.tensor(xyxy), rtol=0, atol=1e-4
        )
    assert found.outputs["centerness"].shape == (1, 3)
    assert (found.stage, found.group, found.path) == (0, "main", "plain")
    torch.testing.assert_close(found.given.prior.points_BQ2, mem.prior.points_BQ2)


def test_outputs_do_not_go_on_with_the_queries():
    mem, made = memory([[20.0, 12.0]], [8.0], (64, 64)), head()
    q, _ = TokenQueries()(mem)
    seen = []

    class Watch:
        def plan(self, order):
            return order

        def after_stage(self, step, history, sets, queries):
            seen.append((set(queries.extra), [set(s.outputs) for s in sets]))
            return sets, queries

    made.train()(q, mem, [Watch()])
    assert seen == [({"stride"}, []), ({"stride"}, [{"ltrb", "centerness"}])]


def test_starts_unsure_and_with_a_box_at_half_precision():
    made = FCOSHead(3, 6, STRIDES)
    assert torch.allclose(made.class_embed.bias.sigmoid(), torch.tensor(0.01))
    assert (made.scales == 1).all() and (made.centerness.bias == 0).all()
    mem = memory([[20.0, 12.0], [9.0, 9.0]], [8.0, 16.0], (64, 64))
    q, _ = TokenQueries()(mem)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = made(q, mem)
    assert found.boxes_BQ4.dtype == found.outputs["ltrb"].dtype == torch.float32
