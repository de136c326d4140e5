"""The overlays that restrict the matching of two-stage hosts, and what they are laid together with."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.config import find_config, load_config
from detrex_ext.errors import UserError
from detrex_ext.matching import FCOSMatcher, GivenMatcher, RoIMatcher
from detrex_ext.runtime import instantiate
from detrex_ext.testing import example_batch

HOSTS = ["deformable_detr_r50_two_stage_50ep", "dino_r50_4scale_12ep", "deformable_detr_plus_r50_12ep"]
SIZES = {"dim": 32, "out_channels": 32, "ffn_dim": 32, "num_layers": 2, "dropout": 0.0, "num_queries": 12, "number": 4}
KINDS = {"fcos_rule": FCOSMatcher, "roi_rule": RoIMatcher}


def model_of(name, *overlays, overrides=()):
    cfg = load_config(find_config(name), [("tiny", SIZES), *overlays], ["model.num_classes=4", *overrides])
    torch.manual_seed(0)
    return instantiate(cfg.model).train()


@pytest.mark.parametrize("overlay", KINDS)
@pytest.mark.parametrize("name", HOSTS)
def test_proposals_and_queries_are_matched_by_it(name, overlay):
    usual, ruled = model_of(name), model_of(name, overlay)
    batch = example_batch(4, (5, 0))
    found = ruled(batch)
    sum(found.values()).backward()
    assert found.keys() == usual(batch).keys() and all(v.isfinite() for v in found.values())
    kinds = {group: type(rule.matcher) for group, rule in ruled.rules.items()}
    assert kinds == {"main": KINDS[overlay], "enc": KINDS[overlay], **({"dn": GivenMatcher} if "dn" in kinds else {})}
    assert usual.state_dict().keys() == ruled.state_dict().keys()
    with torch.no_grad():
        answers = [m.eval().forward_sets(batch)[-1].logits_BQK for m in (usual, ruled)]
    assert torch.equal(*answers)


def test_their_options():
    rules = model_of(HOSTS[0], ("fcos_rule", {"radius": 2.5, "box_loss_on": "candidates"})).rules
    assert (rules["enc"].matcher.radius, rules["main"].matcher.box_on, rules["main"].matcher.eos) == (
        2.5, "candidates", 1.0,
    )  # fmt: skip
    assert rules["main"].matcher.strides == (8, 16, 32, 64)
    rules = model_of(HOSTS[0], "roi_rule", overrides=["model.rules.main.matcher.threshold=0.7"]).rules
    assert (rules["main"].matcher.threshold, rules["enc"].matcher.threshold) == (0.7, 0.3)
    assert all(rules[group].matcher.low_quality for group in ("main", "enc"))


def test_the_rule_of_points_knows_the_strides_of_its_host():
    for name in (HOSTS[0], "dino_r50_5scale_12ep", "quickstart"):
        cfg = load_config(find_config(name), ["fcos_rule"], ["model.num_classes=4"])
        model = instantiate(cfg.model).eval()
        _, memory, _ = model.encode(torch.rand(1, 3, 64, 64), torch.tensor([[64.0, 64.0]]))
        assert all(model.rules[group].matcher.strides == memory.strides for group in ("main", "enc"))


@pytest.mark.parametrize("overlay", KINDS)
def test_what_they_are_laid_over(overlay):
    for name in ("deformable_detr_r50_50ep", "dab_detr_r50_50ep", "detr_r50_300ep", "adamixer_r50_12ep"):
        with pytest.raises(UserError, match=f"{overlay} needs a two-stage host"):
            model_of(name, overlay)
    for more in ("sqr", "dac", "ice"):
        losses = model_of(HOSTS[1], overlay, more)(example_batch(4, (3, 1)))
        assert all(v.isfinite() for v in losses.values())
    with pytest.raises(ValueError, match="decides itself how many queries an object takes"):
        model_of(HOSTS[1], overlay, "hybrid")
    with pytest.raises(ValueError, match="group 'group'.*does not say"):
        model_of(HOSTS[1], overlay, "group")(example_batch(4, (3, 1)))
