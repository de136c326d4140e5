"""TSP-FCOS: which points are chosen, what is made of them, and nothing of the others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from detrex_ext.engine import rng
from detrex_ext.layers.position import sine_map
from detrex_ext.modeling.encoders import FoIEncoder
from detrex_ext.modeling.encoders.flatten import flatten_levels
from detrex_ext.modeling.encoders.points import Points
from detrex_ext.modeling.encoders.towers import ModulatedConv
from detrex_ext.modeling.queries import TokenQueries
from detrex_ext.structures import Features, Targets

STRIDES = (8, 16, 32, 64, 128)


def encoder(**options):
    torch.manual_seed(0)
    sizes = {"channels": 64, "dim": 16, "num_heads": 2, "ffn_dim": 8, "dropout": 0.0, "num_layers": 2, "num_convs": 1}
    made = FoIEncoder(4, **{**sizes, "num_tokens": 20, "token_keep": 1.0, **options})
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made.eval()


def features_of(sizes, channels=64, seed=0):
    """Maps of a batch of images of these sizes, padded to a multiple of 32."""
    g = torch.Generator().manual_seed(seed)
    padded = [-(-max(s) // 32) * 32 for s in zip(*sizes, strict=True)]
    shapes, h, w = [], padded[0] // 8, padded[1] // 8
    for _ in STRIDES:
        shapes.append((h, w))
        h, w = -(-h // 2), -(-w // 2)
    maps = [torch.randn(len(sizes), channels, *shape, generator=g) for shape in shapes]
    return Features.from_maps(maps, torch.tensor(sizes, dtype=torch.float32), tuple(padded))


def objects(*boxes, sizes):
    """Objects of class 0 of the first image, cxcywh."""
    none = torch.zeros(0, 4)
    per_image = (torch.tensor(boxes).reshape(-1, 4), *[none] * (len(sizes) - 1))
    labels = tuple(torch.zeros(len(b), dtype=torch.int64) for b in per_image)
    return Targets(labels, per_image, torch.tensor(sizes, dtype=torch.float32))


def points_in_pixels(mem):
    return mem.prior.points_BQ2 * mem.image_hw_B2.flip(1)[:, None]


def test_tokens_are_features_at_the_points_with_the_best_scores():
    made, features = encoder(), features_of([(96, 128), (80, 100)])
    points, inputs = Points.of(features, STRIDES), {}
    made.encoder.register_forward_pre_hook(lambda _, args: inputs.update(tokens=args[0], pos=args[1]))
    mem, sets = made(features)
    assert not sets and mem.tokens_BSC.shape == (2, 20, 16)
    runs = (made.class_tower, made.box_tower)
    towers = [flatten_levels([run(m).permute(0, 2, 3, 1) for m in features.maps]) for run in runs]
    logits = flatten_levels([made.class_embed(made.class_tower(m)).permute(0, 2, 3, 1) for m in features.maps])
    scores = logits.sigmoid().amax(-1).masked_fill(points.pad_BP, -1)
    index = scores.topk(20, 1).indices
    assert torch.equal(points_in_pixels(mem).round(), points.points_P2[index])
    assert torch.equal(mem.prior.strides_BQ, points.strides_P[index])
    both = torch.cat(towers, -1).gather(1, index[..., None].expand(-1, -1, 128))
    torch.testing.assert_close(inputs["tokens"], made.enc_proj_norm(made.enc_proj(both)))
    valid = points.valid_BL2
    maps = []
    for level, m in enumerate(features.maps):
        column, row = torch.arange(m.shape[3]), torch.arange(m.shape[2])[:, None]
        pad = (row >= valid[:, level, 1, None, None]) | (column >= valid[:, level, 0, None, None])
        maps.append(sine_map(pad, 8) + made.level_embeds[level])
    at = flatten_levels(maps).gather(1, index[..., None].expand(-1, -1, 16))
    torch.testing.assert_close(inputs["pos"], at, rtol=0, atol=1e-6)


def test_the_points_are_those_of_fcos():
    features = features_of([(64, 96)])
    points = Points.of(features, STRIDES)
    assert len(points) == 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1
    assert points.points_P2[:3].tolist() == [[4, 4], [12, 4], [20, 4]]
    assert points.points_P2[points.levels_P == 4].tolist() == [[64, 64]]
    assert points.starts == (0, 96, 120, 126, 128)


class Sizes(TorchDispatchMode):
    """Numbers of elements of all that is made."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not out._is_view():
            self.made.append(out.numel())
        return out


def test_nothing_of_the_tokens_width_is_made_for_all_points():
    """Neither both towers side by side, nor one of all levels, nor position codes."""
    size = [(512, 512)]
    made, features = encoder(dim=512, num_heads=8, num_tokens=50, num_layers=1), features_of(size)
    everywhere = len(Points.of(features, STRIDES)) * 128  # elements of both towers; codes have four times as many
    with torch.no_grad(), Sizes() as sizes:
        made(features)
    assert features.maps[0].numel() in sizes.made and max(sizes.made) < everywhere
    with Sizes() as sizes:
        made.train()(features, objects((0.5, 0.5, 0.4, 0.4), sizes=size))
    assert max(sizes.made) < everywhere
    with Sizes() as sizes, torch.no_grad():
        encoder(num_tokens=None).eval()(features)
    assert max(sizes.made) >= everywhere


def test_candidates_come_first_in_training_alone():
    sizes, found = [(96, 128)], {}
    features, targets = features_of(sizes), objects((0.5, 0.5, 0.3, 0.4), sizes=sizes)

    def places(points_N2):
        return set(map(tuple, points_N2.mul(torch.tensor([128.0, 96.0])).round().tolist()))

    for boost in (True, False):
        made = encoder(gt_boost=boost, num_tokens=15)
        with torch.no_grad():  # scores away from those of candidates
            made.class_embed.weight[:, :, 1, 1] *= 3
        for training in (True, False):
            mem, sets = made.train(training)(features, targets)
            assert len(sets) == training
            found[boost, training] = places(mem.prior.points_BQ2[0])
            if training:
                every = sets[0].given.prior
                candidates = places(every.points_BQ2[0][every.candidate_gt_BQ[0] == 0])
                assert (mem.prior.candidate_gt_BQ == 0).sum() == len(candidates & found[boost, True])
            else:
                assert (mem.prior.candidate_gt_BQ == -1).all()
    assert candidates and candidates <= found[True, True]
    assert found[True, False] == found[False, False] == found[False, True] != found[True, True]


def test_points_outside_of_the_image_are_not_chosen():
    features = features_of([(96, 128), (50, 70)])
    mem, _ = encoder(num_tokens=60)(features)
    points = points_in_pixels(mem)[1]
    corner = points - mem.prior.strides_BQ[1][:, None] / 2
    assert (corner < torch.tensor([70.0, 50.0])).all() and mem.pad_BS.sum() == 0
    loose, _ = encoder(num_tokens=60, mask_padded_tokens=False)(features)
    assert loose.pad_BS is None and (points_in_pixels(loose)[1] > torch.tensor([70.0, 50.0])).any()


def test_more_tokens_than_points():
    """All points of the larger image; of the smaller one those in its padding fill up, and change nothing."""
    made, features = encoder(num_tokens=10_000), features_of([(64, 64), (20, 30)])
    P = len(Points.of(features, STRIDES))
    mem, _ = made(features)
    assert mem.tokens_BSC.shape[1] == P and not mem.pad_BS[0].any() and mem.pad_BS[1].any()
    few = int((~mem.pad_BS[1]).sum())
    assert not mem.pad_BS[1, :few].any()
    exact, _ = encoder(num_tokens=few)(features)
    torch.testing.assert_close(mem.tokens_BSC[1, :few], exact.tokens_BSC[1])
    q, _ = TokenQueries()(mem)
    assert torch.equal(q.given["main"].valid_BQ, ~mem.pad_BS)
    every, _ = encoder(num_tokens=None)(features)
    torch.testing.assert_close(every.tokens_BSC, mem.tokens_BSC)


@pytest.mark.parametrize("sizes", [[(20, 30)], [(1, 1)], [(64, 200), (200, 64)]], ids=str)
def test_images_of_any_size_and_orientation_train(sizes):
    made, features = encoder().train(), features_of(sizes)
    mem, sets = made(features, objects((0.5, 0.5, 0.9, 0.9), sizes=sizes))
    (mem.tokens_BSC.sum() + sets[0].logits_BQK.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_a_share_of_the_points_stays_in_training():
    made, features = encoder(num_tokens=100, token_keep=(0.7, 1.0)), features_of([(96, 128), (80, 100)])
    assert made(features)[0].tokens_BSC.shape[1] == 100
    made.train()
    numbers = {made(features, objects(sizes=[(96, 128), (80, 100)]))[0].tokens_BSC.shape[1] for _ in range(12)}
    assert len(numbers) > 4 and min(numbers) >= 70 and max(numbers) <= 100
    fixed = encoder(num_tokens=100, token_keep=0.3).train()
    first, second = (fixed.kept(100) for _ in range(2))
    assert len(first) == len(second) == 30 and not torch.equal(first, second)
    assert torch.equal(first.sort().values, first) and len(first.unique()) == 30
    assert encoder(token_keep=1.0).train().kept(100) is None and fixed.eval().kept(100) is None
    assert len(encoder(token_keep=0.01).train().kept(3)) == 1


def test_a_resumed_run_keeps_what_the_other_would_have_kept():
    made = encoder(token_keep=(0.2, 0.9)).train()
    made.kept(700)
    state = rng.get_state()
    would = [made.kept(700) for _ in range(3)]
    torch.manual_seed(99)
    rng.set_state(state)
    assert all(torch.equal(a, made.kept(700)) for a in would)


def test_the_whole_is_a_map_of_sets():
    """Tokens in another order, the same answers in that order."""
    made, features = encoder(), features_of([(96, 128)])
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    plain, _ = made(features)
    choose = made.choose
    made.choose = lambda *given: choose(*given)[:, order]
    mixed, _ = made(features)
    torch.testing.assert_close(mixed.tokens_BSC, plain.tokens_BSC[:, order], rtol=0, atol=1e-5)
    assert torch.equal(mixed.prior.points_BQ2, plain.prior.points_BQ2[:, order])


def test_objectness_alone():
    made = encoder(foi_head="binary").train()
    assert made.class_embed.out_channels == 1
    _, sets = made(features_of([(64, 64)]), objects((0.5, 0.5, 0.3, 0.3), sizes=[(64, 64)]))
    assert sets[0].logits_BQK.shape[-1] == 1


def resized(sizes, padded, shapes):
    """Valid rows and columns by torch's own resizing of a mask, step by step."""
    h, w = (max(s) for s in zip(*sizes, strict=True))
    mask = torch.ones(len(sizes), 1, h, w)
    for i, (a, b) in enumerate(sizes):
        mask[i, :, :a, :b] = 0
    out = []
    for shape in [((h + 1) // 2, (w + 1) // 2), (padded[0] // 4, padded[1] // 4), *shapes]:
        mask = F.interpolate(mask, size=shape)
        out.append(torch.stack([(mask[:, 0, :, 0] == 0).sum(1), (mask[:, 0, 0] == 0).sum(1)], -1))
    return torch.stack(out[2:], 1)


def test_which_cells_are_padding_in_the_code_of_tsp():
    g = torch.Generator().manual_seed(0)
    for _ in range(30):
        sizes = [tuple(torch.randint(20, 400, (2,), generator=g).tolist()) for _ in range(2)]
        features = features_of(sizes, channels=1)
        padded = [features.maps[0].shape[k] * 8 for k in (2, 3)]
        expected = resized(sizes, padded, [m.shape[2:] for m in features.maps])
        found = Points.of(features, STRIDES, parity_padding=True).valid_BL2.flip(-1)
        assert torch.equal(found, expected.float()), sizes
        inside = Points.of(features, STRIDES).valid_BL2.flip(-1)
        assert ((inside - 1) * torch.tensor(STRIDES)[:, None] < torch.tensor(sizes)[:, None]).all()
        assert (inside * torch.tensor(STRIDES)[:, None] >= torch.tensor(sizes)[:, None]).all()


def test_a_deformable_tower():
    torch.manual_seed(0)
    conv, x = ModulatedConv(4), torch.randn(2, 4, 6, 7)
    torch.nn.init.zeros_(conv.offset.weight), torch.nn.init.zeros_(conv.offset.bias)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight / 2, conv.bias, padding=1))  # a mask of sigmoid(0)
    conv.offset.bias.data[1:18:2] = 1.0  # one cell to the right
    moved = F.pad(x, (0, 2))[..., 1:]
    torch.testing.assert_close(conv(x)[..., 1:], F.conv2d(moved, conv.weight / 2, conv.bias, padding=1)[..., 1:7])
    made = encoder(deformable=True, num_convs=2).train()
    assert isinstance(made.class_tower[3], ModulatedConv) and not isinstance(made.class_tower[0], ModulatedConv)
    with torch.autocast("cpu", torch.bfloat16):
        mem, _ = made(features_of([(64, 64)]), objects(sizes=[(64, 64)]))
    mem.tokens_BSC.float().sum().backward()
    assert made.box_tower[3].offset.weight.grad.isfinite().all()


WRONG = {
    "token_keep is a share": [{"token_keep": value} for value in (0.0, 1.5, (0.9, 0.1), -1, float("nan"))],
    "foi_head must be one of classwise, binary": [{"foi_head": "both"}],
    "channels must be a multiple of 32": [{"channels": 48}, {"channels": 32}],
    "attention must be one of sdpa, math": [{"attention": "fast"}],
}


@pytest.mark.parametrize(("message", "options"), [(m, o) for m, many in WRONG.items() for o in many], ids=str)
def test_wrong_options_are_refused(message, options):
    with pytest.raises(ValueError, match=message):
        encoder(**options)


def test_parts_that_do_not_fit_say_so():
    features = features_of([(64, 64)])
    features.maps.pop()
    with pytest.raises(ValueError, match="4 maps, but strides for 5"):
        encoder()(features)


def test_features_that_are_no_numbers_choose_points_all_the_same():
    """The criterion and the predictions say that something is not finite; nothing is read out of bounds before."""
    made, features = encoder(token_keep=(0.5, 1.0)).train(), features_of([(96, 128), (64, 64)])
    features.maps[0][0] = float("nan")
    features.maps[1][1] = 1e30
    mem, _ = made(features, objects((0.5, 0.5, 0.3, 0.3), (0.2, 0.2, 0.0, 0.0), sizes=[(96, 128), (64, 64)]))
    assert len(mem.tokens_BSC) == 2 and (mem.prior.strides_BQ >= 8).all()
    assert not mem.tokens_BSC.isfinite().all()
