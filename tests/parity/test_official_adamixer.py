"""Our AdaMixer against the official modules; ``DETREX_EXT_ADAMIXER`` names a checkout of MCG-NJU/AdaMixer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detrex_ext.modeling.decoders import AdaMixerDecoder

from .forced import computing_in
from .gaps import within
from .models import batch
from .models_adamixer import OBJECTS, SIZES, compare_losses, features_of, gradient_gap, objects_of, our_model, worst
from .peer_adamixer import ROOT, VARIABLE, Official
from .reference_adamixer import NARROW, Dims, random_state, shapes

if ROOT is None or not (ROOT / "mmdet/models/roi_heads/adamixer_decoder.py").is_file():
    pytest.skip(f"comparison with AdaMixer needs {VARIABLE} to name a checkout of it", allow_module_level=True)

FULL = Dims(stages=1, queries=20, features=(16, 24, 32, 40))


def pair(dims, dtype, seed=0):
    """The official model and ours with the same perturbed weights."""
    torch.manual_seed(seed)
    state = random_state(dims, seed, dtype)
    official = Official(dims).to(dtype)
    official.load_state_dict(state, strict=True)
    return official, our_model(dims, state, dtype)


@pytest.mark.parametrize("dims", [NARROW, FULL], ids=["narrow", "full width"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_all_stages(dims, dtype, tolerance):
    official, ours = pair(dims, dtype)
    items = batch(SIZES, OBJECTS, dims.classes)
    features, sizes = features_of(ours, items)
    with torch.no_grad(), computing_in(dtype):
        stages = official(features, sizes)
        sets = ours.eval().forward_sets(items)
    within(f"AdaMixer, {str(dtype)[-7:]}: logits and boxes", worst(sets, stages, sizes), tolerance)


@pytest.mark.parametrize("objects", [[4, 3], [0, 3], [5]], ids=str)
def test_losses_and_gradients(objects):
    official, ours = pair(replace(NARROW, stages=4), torch.float64, seed=2)
    items = batch(SIZES[: len(objects)], objects, NARROW.classes)
    features, sizes = features_of(ours, items)
    with computing_in(torch.float64):
        stages = official(features, sizes)
    found = official.losses(stages, sizes, *objects_of(items, torch.float64))
    names = {"loss_cls": "class", "loss_bbox": "bbox", "loss_iou": "giou"}
    expected = [{names[k]: v for k, v in losses.items() if k in names} for losses in found]
    compare_losses(ours, items, expected, 1e-12, "AdaMixer, float64: losses")
    theirs = {k: p.grad for k, p in official.named_parameters()}
    within("AdaMixer, float64: gradients", gradient_gap(ours, theirs), 1e-9)


def test_names_and_sizes():
    """The official state dict is what the reading in ``reference_adamixer.py`` says it is, at published sizes too."""
    with torch.device("meta"):
        assert {k: tuple(v.shape) for k, v in Official(Dims()).state_dict().items()} == shapes(Dims())


def test_start():
    """Both start alike: what is constant is equal, what is drawn has the same spread."""
    torch.manual_seed(0)
    official = Official(FULL)
    ours = AdaMixerDecoder(FULL.classes, num_layers=1)
    layer, theirs = ours.layers[0], official.roi_head.bbox_head[0]
    mixing = theirs.sampling_n_mixing
    pairs = [
        (layer.iof_tau, theirs.iof_tau),
        (layer.sampling_offsets, mixing.sampling_offset_generator[0]),
        (layer.mixing.parameter_generator, mixing.adaptive_mixing.parameter_generator[0]),
        (layer.mixing.out_proj, mixing.adaptive_mixing.out_proj),
        (layer.attentions[0].attn, theirs.attention.attn),
        (layer.attentions[0].attn.out_proj, theirs.attention.attn.out_proj),
        (layer.ffns[0].layers[0][0], theirs.ffn.layers[0][0]),
        (layer.ffns[0].layers[1], theirs.ffn.layers[1]),
        (ours.class_embed[0][0], theirs.cls_fcs[0]),
        (ours.class_embed[0][3], theirs.fc_cls),
        (ours.bbox_embed[0][0], theirs.reg_fcs[0]),
        (ours.bbox_embed[0][3], theirs.fc_reg),
    ]
    for i, (a, b) in enumerate(pairs):
        a, b = ([x] if isinstance(x, torch.Tensor) else list(x.parameters(recurse=False)) for x in (a, b))
        for x, y in zip(a, b, strict=True):
            low, high, spread = float(y.min()), float(y.max()), float(y.std())
            assert x.shape == y.shape, i
            # all are uniform or constant: the same range, the more closely the more values were drawn
            slack = (high - low) * (5 / y.numel() if y.numel() > 100 else 1.0) + 1e-6
            assert abs(float(x.min()) - low) <= slack and abs(float(x.max()) - high) <= slack, i
            assert abs(float(x.std()) - spread) <= 0.1 * spread + (0 if y.numel() > 100 else 1.0), i
