"""All losses of a step.

Shape legend: N sets, V values: one for each set and term of the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from detrex_ext.errors import UserError
from detrex_ext.matching import Stack, resolve, stack_sets
from detrex_ext.matching.stack import stack_key, tags
from detrex_ext.structures import LossDict, SupervisedSet, Targets
from detrex_ext.structures.placing import placed

from .normalizers import divisors
from .recall import token_recall
from .rules import Rule, rules_by_group
from .supervision import Supervision


class SetCriterion:
    """Supervises every set by the first rule that fits it.

    Sets of one rule and shape are stacked, and each loss is computed once for the whole stack. All host-side
    assignment problems of a step share one copy from the device, all normalizers one all-reduce.

    Args:
        rules: in order of precedence; or a dict by group (:func:`rules_by_group`).
        check_finite: raise on a loss that is NaN or infinite; costs one synchronization on an accelerator.
    """

    def __init__(self, rules: Sequence[Rule] | Mapping[str, Rule], check_finite: bool = True) -> None:
        self.rules = list(rules_by_group(rules).values() if isinstance(rules, Mapping) else rules)
        self.check_finite = check_finite

    def __call__(
        self,
        sets: Sequence[SupervisedSet],
        targets: Targets,
        effective: tuple[float, float] | None = None,
        progress: float = 0.0,
    ) -> LossDict:
        """Losses of all sets.

        Args:
            sets: predictions, logits (B, Q, K) and boxes (B, Q, 4).
            targets: objects of the B images, on the predictions' device.
            effective: (objects, images) of all micro-batches and ranks of an optimizer step, see
                :mod:`~detrex_ext.criterion.normalizers`; None: this batch's own, summed over ranks.
            progress: of the training, 0 to 1, for matchers and losses that go by it (``Stack.progress``).

        Returns:
            Weighted losses ``loss_{term}[_{group}][_{path}]``, summed over stages, whose sum is to be minimized.
            ``stats`` holds their detached shares, ``stage{s}/loss_...``, and of chosen tokens ``recall/...``.

        Raises:
            UserError: no rule fits a set.
            ValueError: a label is not a class of the logits.
            FloatingPointError: a matching cost or (``check_finite``) a loss is NaN or infinite.
        """
        if not sets:
            return LossDict()
        with torch.autocast(sets[0].logits_BQK.device.type, enabled=False):
            jobs = self._supervise(sets, targets, progress)
            terms = [(rule, s, name, term) for rule, s in jobs for name, term in rule.terms.items()]
            by = divisors([(term.normalizer, s) for _, s, _, term in terms], effective)
            values_V = torch.cat([t.loss(s) * (t.weight / d) for (_, s, _, t), d in zip(terms, by, strict=True)])
            values_V = _weigh(values_V, [rule.stage_weight(one.stage) for rule, s, *_ in terms for one in s.stack.sets])
            owners = [(one, name) for _, s, name, _ in terms for one in s.stack.sets]
            if self.check_finite:
                _check_finite(values_V, owners)
            losses = _gather(values_V, [_loss_name(one, name) for one, name in owners])
            stats = _gather(
                values_V.detach(), [f"stage{one.stage}/{_loss_name(one, name)}" for one, name in owners]
            )
        return LossDict(losses, {**stats, **token_recall(sets, targets, effective)})

    def rule(self, s: SupervisedSet) -> int:
        """Index of the rule that supervises a set.

        Raises:
            UserError: none fits.
        """
        for index, rule in enumerate(self.rules):
            if rule.fits(s):
                return index
        listed = "\n".join(f"  {rule}" for rule in self.rules) or "  (none)"
        raise UserError(f"no rule fits the set of {tags(s)}; the rules (model.rules, then strategies') are\n{listed}")

    def _supervise(
        self, sets: Sequence[SupervisedSet], targets: Targets, progress: float = 0.0
    ) -> list[tuple[Rule, Supervision]]:
        """Stack, match, and put together what the losses need."""
        stacked: dict[tuple, list[SupervisedSet]] = {}
        for s in sets:
            stacked.setdefault((self.rule(s), *stack_key(s)), []).append(s)
        objects = {False: targets}
        if any(self.rules[key[0]].objectness for key in stacked):
            zeros = tuple(torch.zeros_like(x) for x in targets.labels)
            objects[True] = Targets(zeros, targets.boxes, targets.image_hw_B2, targets.pairs)
        jobs = [(self.rules[key[0]], stack_sets(members, progress)) for key, members in stacked.items()]
        for rule, stack in jobs:
            _check_labels(objects[rule.objectness], stack)
        with torch.no_grad():
            answers = [rule.matcher.match(stack, objects[rule.objectness]) for rule, stack in jobs]
            assignments = resolve(answers, sets[0].logits_BQK.device)
        return [
            (rule, Supervision(stack, assignment, objects[rule.objectness]))
            for (rule, stack), assignment in zip(jobs, assignments, strict=True)
        ]


def _check_labels(targets: Targets, stack: Stack) -> None:
    """On the CPU, where looking costs nothing; indexing on an accelerator asserts by itself."""
    classes = stack.shape[3] - stack.softmax
    if targets.num and targets.labels_G.device.type == "cpu" and int(targets.labels_G.max()) >= classes:
        raise ValueError(
            f"the batch has an object of class {int(targets.labels_G.max())}, but {stack.name(0)} predicts {classes} "
            f"classes (0 to {classes - 1}): model.num_classes disagrees with the data"
        )


def _weigh(values_V: Tensor, weights: list[float]) -> Tensor:
    if all(w == 1 for w in weights):
        return values_V
    return values_V * placed(weights, values_V)


def _loss_name(s: SupervisedSet, term: str) -> str:
    group = "" if s.group == "main" else f"_{s.group}"
    path = "" if s.path == "plain" else f"_{s.path}"
    return f"loss_{term}{group}{path}"


def _gather(values_V: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Sums of the values of each name."""
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    index = placed([order[name] for name in names], values_V, torch.int64)
    sums = values_V.new_zeros(len(order)).index_add(0, index, values_V)
    return dict(zip(order, sums.unbind(), strict=True))


def _check_finite(values_V: Tensor, owners: list[tuple[SupervisedSet, str]]) -> None:
    if torch.isfinite(values_V).all():
        return
    bad = (~torch.isfinite(values_V)).nonzero()[:, 0].tolist()
    s, name = owners[bad[0]]
    raise FloatingPointError(
        f"loss_{name} of {tags(s)} is {values_V[bad[0]].item()} ({len(bad)} of {len(owners)} losses are not finite)"
    )
