"""Matching distillation (TSP, arXiv 2011.10881, section 3.1): a trained model says which query is for which object.

The student is trained with the pairs of the teacher's last stage at all of its stages.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detrex_ext.checkpoint import find_weights, load_state
from detrex_ext.config import build
from detrex_ext.criterion import detr_rule
from detrex_ext.errors import UserError
from detrex_ext.inference import build_for_inference, config_in
from detrex_ext.matching import GivenMatcher, Matcher, resolve, stack_sets
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.postprocess import main_sets
from detrex_ext.runtime import HookBase, LazyCall
from detrex_ext.structures import Pairs, Targets
from detrex_ext.trust import check_trusted, drop_unknown_training

logger = logging.getLogger(__name__)
OVERLAY = "--overlay distill train.teacher=RUN"


def main_rule(cfg: DictConfig) -> DictConfig:
    """The config's rule of group main, on its own; one that is given its pairs matches as DETR's does.

    Raises:
        UserError: there is none.
    """
    rule = OmegaConf.select(cfg, "model.rules.main")
    if rule is None:
        raise UserError("model.rules.main: the config has no such rule, by which objects are matched with queries")
    if "GivenMatcher" in str(OmegaConf.select(rule, "matcher._target_")):
        return LazyCall(detr_rule)(softmax="Softmax" in str(rule.terms))
    return OmegaConf.create(OmegaConf.to_container(rule, resolve=True), flags={"allow_objects": True})


class Teacher:
    """A trained model in evaluation mode, outside of any module tree: its matches are the same whenever it is asked.

    Args:
        model: a detector that predicts.
        matcher: of its training; Hungarian, for instance.
    """

    def __init__(self, model: Detector, matcher: Matcher) -> None:
        self.model, self.matcher = model.eval().requires_grad_(False), matcher

    @torch.no_grad()
    def __call__(self, batched_inputs: Sequence[Mapping[str, Any]], targets: Targets) -> Pairs:
        """The pairs of its last stage for the objects of a batch, as it is augmented for the student."""
        device = self.model.device
        with torch.autocast(device.type, enabled=False):
            images, _ = self.model.inputs(list(batched_inputs))
            last = main_sets(self.model.core(images.images_B3HW, images.valid_hw_B2))[-1]
            return resolve([self.matcher.match(stack_sets([last]), targets)], device)[0].cls


class TeacherHook(HookBase):
    """The teacher speaks while the training runs: ``Targets.pairs`` are filled for every batch."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    def before_train(self) -> None:
        """The model asks it from now on."""
        self._student().teacher = self.teacher

    def after_train(self) -> None:
        """The model asks nobody."""
        self._student().teacher = None

    def _student(self) -> Any:
        model = self.trainer.model
        return model.module if isinstance(model, DistributedDataParallel) else model


def teaching_hooks(path: str | None, student: nn.Module, class_names: Sequence[str]) -> list[TeacherHook]:
    """The hook of ``train.teacher``; none where it names nothing.

    Args:
        path: run folder or checkpoint of the teacher; what its config may name: see ``docs/security.md``.
        student: the model that is trained.
        class_names: of the student.

    Raises:
        UserError: a teacher that nobody listens to, or a student without one; one that cannot be read, is of other
            classes, or has other queries.
    """
    matchers = [rule.matcher for rule in getattr(student, "rules", {}).values()]
    listens = any(isinstance(m, GivenMatcher) and m.source == "targets" for m in matchers)
    if not path:
        if listens:
            raise UserError(f"a rule takes its pairs from a teacher, but train.teacher names none\n  {OVERLAY}")
        return []
    if not listens:
        raise UserError(f"train.teacher={path}: no rule takes its pairs\n  {OVERLAY} lets model.rules.main do so")
    teacher = load_teacher(path, class_names, student.device)
    _check_queries(path, teacher.model, student)
    return [TeacherHook(teacher)]


def load_teacher(path: str, class_names: Sequence[str], device: torch.device) -> Teacher:
    """See :func:`teaching_hooks`."""
    found = find_weights(path)
    cfg = config_in(found.data, found.path)
    check_trusted(cfg, found.path, ("model",))
    drop_unknown_training(cfg)
    names = list(map(str, found.data.get("class_names") or ()))
    if names != list(class_names):
        known = ", ".join(names[:8]) or "no names of classes"
        raise UserError(f"train.teacher: {found.path} knows {known}; the student {', '.join(class_names[:8])}")
    matcher = build(main_rule(cfg), "model.rules.main").matcher
    model = build_for_inference(cfg, len(names))
    load_state(model, found.state(), strict=True, name=found.path).check_whole(found.path)
    logger.info("teacher: %s; its pairs by %s", found, matcher)
    return Teacher(model.to(device), matcher)


def _check_queries(path: str, teacher: nn.Module, student: nn.Module) -> None:
    """Query k of the student takes the object of query k of the teacher."""
    sizes = [_number(m.queries) for m in (teacher, student)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"train.teacher={path}: it has {sizes[0]} queries, the student {sizes[1]}\n"
            "  query k of the student answers for the object of query k of the teacher: give it as many"
        )


def _number(source: Any) -> int | None:
    """Queries of a host's own source; None where they are made of the memory alone."""
    while hasattr(source, "source"):
        source = source.source
    try:
        rows = source.rows()
    except (ValueError, NotImplementedError):
        rows = None
    return getattr(source, "num_queries", None) if rows is None else len(rows.weight)
