"""Matching distillation (TSP, arXiv 2011.10881): `--overlay distill train.teacher=RUN`.

A trained model of the same architecture says in every step which query answers for which object, and the student is
trained with these pairs at all stages. The teacher is a run folder or a checkpoint; inference knows nothing of it.
"""

import copy

from detrex_ext.errors import UserError
from detrex_ext.matching import GivenMatcher
from detrex_ext.runtime import LazyCall as L


def apply(cfg, teacher=""):
    """``teacher`` is `train.teacher`. Other groups (proposals, denoising) keep their own matching."""
    rules = cfg.model.rules
    if "matcher" not in rules.main:
        raise UserError(
            "the overlay distill needs a rule with a matcher of its own (model.rules.main.matcher)\n"
            "  tokens of TSP are chosen by each model for itself: no query of a student is that of a teacher"
        )
    for group in rules:
        if group != "main" and rules._get_node(group)._is_interpolation():  # it refers to main's
            rules[group] = copy.deepcopy(rules[group])
        if group != "main" and "matcher" in rules[group]:
            rules[group].matcher = copy.deepcopy(rules[group].matcher)
    rules.main.matcher = L(GivenMatcher)(source="targets")
    cfg.train.teacher = teacher or cfg.train.get("teacher", "")
    return cfg
