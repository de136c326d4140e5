"""The official DAC-DETR, whole, against our model filled from its file; ``DETREX_EXT_DAC`` names a checkout of it."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.checkpoint import load_state, load_weights
from detrex_ext.criterion import SetCriterion
from detrex_ext.matching import OneToManyMatcher
from detrex_ext.modeling.backbones import ResNet
from detrex_ext.modeling.decoders import DeformableDecoder
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.encoders import DeformableEncoder
from detrex_ext.modeling.necks import ChannelMapper
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.modeling.preprocess import Preprocess
from detrex_ext.modeling.queries import DenoisingQueries, TwoStageQueries
from detrex_ext.strategies import DivideAndConquer

from .peer_dac import (
    NUM_CLASSES,
    build,
    compare,
    criterion,
    double_by_default,
    in_double,
    losses_by_our_names,
    nested,
    objects,
    official_package,
    our_rules,
    skip_without_checkout,
    theirs,
)

skip_without_checkout()
STAGES, Q, K = 6, 40, NUM_CLASSES


@pytest.fixture(scope="module")
def official():
    with official_package() as models:
        yield models


def our_model(queries, ffn):
    backbone, levels = ResNet(18, freeze_at=0), {"res3": 128, "res4": 256, "res5": 512}
    source = TwoStageQueries(K, queries, 256, content="mixed")
    sizes = {"num_points": 2, "ffn_dim": ffn, "dropout": 0.0}
    return Detector(
        Preprocess(),
        backbone,
        ChannelMapper(levels, 256, 4),
        DeformableEncoder(num_layers=1, **sizes),
        DenoisingQueries(source, K, 256, box_noise_scale=0.4),
        DeformableDecoder(K, num_layers=STAGES, refine=True, look_forward_twice=True, **sizes),
        Postprocess(),
        K,
    )


def test_the_whole_model_from_its_own_file(official, tmp_path):
    """Their weights file in ours; the same pictures, noise and objects: all sets, all 75 losses, all gradients."""
    torch.manual_seed(0)
    peer = build(official, Q, STAGES, 64)
    with torch.no_grad():
        for name, p in peer.named_parameters():
            if not name.startswith("backbone"):
                p.add_(0.05 * torch.randn_like(p))
            if "class_embed" in name and name.endswith("bias"):
                p.normal_()  # scores around one half, so that there are candidates
    torch.save({"model": peer.state_dict(), "epoch": 11}, tmp_path / "checkpoint.pth")
    ours = our_model(Q, 64)
    report = load_weights(ours, tmp_path / "checkpoint.pth")
    assert report.complete and not report.unexpected and not report.dropped
    peer, ours = peer.double(), ours.double().train()

    g, sizes = torch.Generator().manual_seed(5), [(64, 96), (64, 64)]
    images = torch.randn(2, 3, 64, 96, generator=g, dtype=torch.float64)
    images[1, :, :, 64:] = 0
    targets = objects((4, 7), g)
    torch.manual_seed(7)
    with in_double():
        outputs = peer(nested(images, sizes), theirs(targets))
        wanted = criterion(official)(outputs, theirs(targets), theirs(targets, 3))
    torch.manual_seed(7)
    ours.strategies = {"dac": DivideAndConquer(OneToManyMatcher(tau=1.5))}
    with double_by_default():
        sets = ours.core(images, torch.tensor(sizes, dtype=torch.float64), targets)
    losses = SetCriterion(our_rules())(sets, targets)

    for group, path, key in (("main", "plain", ""), ("main", "aux", "_cdecoder")):
        for i in range(STAGES):
            (one,) = (s for s in sets if (s.stage, s.group, s.path) == (i, group, path))
            stage = {**outputs, **(outputs["aux_outputs"][i] if i < STAGES - 1 else {})}
            torch.testing.assert_close(one.logits_BQK, stage[f"pred_logits{key}"], rtol=0, atol=1e-12)
            torch.testing.assert_close(one.boxes_BQ4, stage[f"pred_boxes{key}"], rtol=0, atol=1e-12)
    assert compare(losses.stats, wanted, STAGES, 1e-10) == 75
    sum(value for _, value in losses_by_our_names(wanted, STAGES)).backward()
    sum(losses.values()).backward()
    gradients = {k: p.grad for k, p in peer.named_parameters(remove_duplicate=False) if p.grad is not None}
    theirs_in_ours = our_model(Q, 64).double()
    load_state(theirs_in_ours, {**peer.state_dict(), **gradients})
    compared = 0
    for a, b in zip(ours.parameters(), theirs_in_ours.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.detach(), rtol=1e-9, atol=1e-10 * float(b.detach().abs().max()))
            compared += 1
    assert compared == len(gradients) - 56  # heads have two names
