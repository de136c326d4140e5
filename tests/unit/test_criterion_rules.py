"""Which rule a set gets, and how a config states rules."""

import pytest
import torch
from omegaconf import OmegaConf

from detrex_ext.criterion import (
    FocalLoss,
    L1Loss,
    Rule,
    SetCriterion,
    SoftmaxLoss,
    Term,
    detr_rule,
    detr_rules,
    rules_by_group,
)
from detrex_ext.criterion.normalizers import Mean, NumObjects
from detrex_ext.errors import UserError
from detrex_ext.matching import GivenMatcher, HungarianMatcher, L1Cost
from detrex_ext.runtime import LazyCall as L
from detrex_ext.runtime import instantiate
from detrex_ext.structures import SupervisedSet


def one(group="main", path="plain", stage=0):
    return SupervisedSet(torch.zeros(1, 1, 1), torch.zeros(1, 1, 4), stage, group, path)


def rule(**when):
    return detr_rule(when=when or None)


def test_the_first_rule_that_fits_wins():
    early = rule(group=["main", "hybrid"], stage=(0, 1))
    criterion = SetCriterion([rule(group="main", path="aux"), early, rule(stage=-1), rule(group="main")])
    assert criterion.rule(one(path="aux", stage=3)) == 0
    assert criterion.rule(one(path="recollect", stage=1)) == 1
    assert criterion.rule(one(group="hybrid")) == 1
    assert criterion.rule(one(group="enc", stage=-1)) == 2
    assert criterion.rule(one(stage=5)) == 3


def test_no_rule_is_an_error_that_names_the_set_and_the_rules():
    with pytest.raises(UserError, match=r"group 'dn', path 'plain', stage 2") as error:
        SetCriterion([rule(group="main"), rule(stage=-1)]).rule(one("dn", stage=2))
    assert "group in ('main',)" in str(error.value) and "stage in (-1,)" in str(error.value)


def test_in_a_dict_a_rule_without_when_is_for_its_group():
    rules = rules_by_group({"main": rule(), "enc": rule(), "late": rule(stage=5), "all": rule(group=None)})
    assert rules["main"].fits(one()) and not rules["main"].fits(one("enc", stage=-1))
    assert rules["enc"].fits(one("enc", stage=-1)) and not rules["enc"].fits(one())
    assert rules["late"].fits(one("dn", stage=5)) and not rules["late"].fits(one("late"))
    assert rules["all"].fits(one("token"))
    assert rule().fits(one("anything"))


def test_the_rules_of_detr_hosts():
    rules = detr_rules(("main", "enc", "dn"), enc_objectness=True, class_weight=3.0)
    assert isinstance(rules["dn"].matcher, GivenMatcher) and isinstance(rules["main"].matcher, HungarianMatcher)
    assert [c.weight for c in rules["main"].matcher.costs] == [2.0, 5.0, 2.0]
    assert {name: t.weight for name, t in rules["dn"].terms.items()} == {"class": 3.0, "bbox": 5.0, "giou": 2.0}
    assert rules["enc"].objectness and not rules["main"].objectness
    softmax = detr_rule(softmax=True)
    assert isinstance(softmax.terms["class"].loss, SoftmaxLoss)
    assert [c.weight for c in softmax.matcher.costs] == [1.0, 5.0, 2.0]


def test_a_rule_of_other_weights():
    host = detr_rule(HungarianMatcher(), 3.0, 5.0, 7.0, softmax=True, when={"group": "main"}, stage_weights=[0, 1])
    own = host.weighted(0.5, matcher=GivenMatcher(), when={"group": "dn"})
    assert {name: term.weight for name, term in own.terms.items()} == {"class": 1.5, "bbox": 2.5, "giou": 3.5}
    assert isinstance(own.matcher, GivenMatcher) and own.fits(one("dn")) and own.stage_weights == (0.0, 1.0)
    weighed = host.weighted(2.0, class_weight=0.0)
    assert {name: term.weight for name, term in weighed.terms.items()} == {"class": 0.0, "bbox": 10.0, "giou": 14.0}
    many = NumObjects(3.0)
    divided = host.weighted(by=lambda own: own if isinstance(own, Mean) else many).terms
    assert isinstance(divided["class"].normalizer, Mean) and divided["bbox"].normalizer is many
    # the host's is as it was
    assert {name: term.weight for name, term in host.terms.items()} == {"class": 3.0, "bbox": 5.0, "giou": 7.0}
    assert isinstance(host.matcher, HungarianMatcher) and host.terms["bbox"].normalizer is not many


def test_a_config_states_rules_and_overrides_a_weight():
    cfg = OmegaConf.create({"rules": L("builtins.dict")()}, flags={"allow_objects": True})
    cfg.rules.main = L(Rule)(
        when=dict(group=["main", "hybrid"]),
        matcher=L(HungarianMatcher)(costs=[L(L1Cost)(weight=3.0)]),
        terms=L("builtins.dict")(
            **{
                "class": L(Term)(loss=L(FocalLoss)(gamma=1.0)),
                "bbox": L(Term)(loss=L(L1Loss)(), normalizer="num_pairs"),
            }
        ),
    )
    cfg.rules.dn = L(detr_rule)(matcher=L(GivenMatcher)())
    cfg.rules.main.terms["class"].weight = 4.0
    for criterion in (SetCriterion(instantiate(cfg.rules)), instantiate(L(SetCriterion)(rules=cfg.rules))):
        main, dn = criterion.rules
        assert main.fits(one("hybrid")) and not main.fits(one("dn"))
        assert main.terms["class"].weight == 4.0 and main.terms["class"].loss.gamma == 1.0
        assert main.matcher.costs[0].weight == 3.0
        assert dn.fits(one("dn")) and not dn.fits(one())
    listed = SetCriterion([instantiate(L(detr_rule)())])
    assert listed.rules[0].fits(one("dn"))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="group, path, stage; found layer"):
        rule(layer=3)
    with pytest.raises(ValueError, match="'num_boxes' is not one of num_objects"):
        Term(L1Loss(), normalizer="num_boxes")
