"""The contract of strategies."""

from __future__ import annotations

import torch

from detrex_ext.modeling.detector import Detector
from detrex_ext.strategies import Strategy
from detrex_ext.structures import SupervisedSet, without_training_only

from .batch import example_batch
from .invariants import as_found, held, hold, supervision_checks
from .passes import entering


def check_strategy(strategy: Strategy, model: Detector, objects: tuple[int, ...] = (3, 0), seed: int = 0) -> list[str]:
    """Hold a strategy against the contract on a host.

    Args:
        strategy: the strategy.
        model: a detector with rules, narrow for speed; it is left as it was.
        objects: objects of each image of the example batch.
        seed: of images and denoising.

    Returns:
        Names of the invariants that held.

    Raises:
        BrokenInvariant: naming each that did not.
    """
    with as_found(model) as bare, as_found(model) as model:
        bare.use({})
        model.use({"checked": strategy})
        batch = example_batch(model.num_classes, objects, seed=seed)
        tolerance = 1e-10 if next(model.parameters()).dtype == torch.float64 else 1e-5

        def train_sets(which: Detector, data: list[dict]) -> list[SupervisedSet]:
            torch.manual_seed(seed)
            return which.train().forward_sets(data)

        def bare_state() -> None:
            keys = without_training_only(model.state_dict()).keys()
            hold(bare.state_dict().keys() == keys, "the state dict has other keys with it, not under training_only")

        def eval_identity() -> None:
            with torch.no_grad():
                _same_at_inference(*(which.eval().forward_sets(batch) for which in (bare, model)))

        def plain_path() -> None:
            _same_plain_path(*(train_sets(which, batch) for which in (bare, model)), tolerance)

        def isolation() -> None:
            torch.manual_seed(seed)
            leaks = _leaks(model.train(), batch)
            hold(not leaks, f"stage {leaks[0][0]}: {leaks[0][1]} sees {leaks[0][2]}" if leaks else "")

        def no_state() -> None:
            first, second = train_sets(model, batch), train_sets(model, batch)
            same = len(first) == len(second) and all(_distance(a, b) == 0 for a, b in zip(first, second, strict=True))
            hold(same, "a second pass on the same batch with the same seed gives other sets")

        checks = {"state of the bare host": bare_state, "eval identity": eval_identity, "plain path": plain_path}
        checks |= {"isolation": isolation, "no state": no_state}
        return held({**checks, **supervision_checks(model, batch, objects, seed)})


def _same_at_inference(host: list[SupervisedSet], found: list[SupervisedSet]) -> None:
    hold(len(host) == len(found), f"at inference there are {len(found)} sets instead of the host's {len(host)}")
    same = all(
        torch.equal(x.logits_BQK, y.logits_BQK) and torch.equal(x.boxes_BQ4, y.boxes_BQ4)
        for x, y in zip(host, found, strict=True)
    )
    hold(same, "outputs at inference differ from the bare host's")


def _same_plain_path(host: list[SupervisedSet], found: list[SupervisedSet], tolerance: float) -> None:
    """The host's own sets are there and unchanged; where they are not, what a strategy may have done to them."""
    a, b = ({(s.stage, s.group): s for s in sets if s.path == "plain"} for sets in (host, found))
    gone = sorted(a.keys() - b.keys())
    left_out = " and ".join(sorted({repr(group) for _, group in gone}))
    hold(
        not gone,
        f"plain sets {gone} of the bare host are gone\n  after_stage hands on less than it was given: take('main') "
        f"leaves out {left_out}. Put what you add before all of q, cat(added, q), and keep the sets of the host",
    )
    far = {k: _distance(a[k], b[k]) for k in a}
    worst = max(far, key=far.get)
    hold(
        far[worst] <= tolerance,
        f"plain set (stage, group) {worst} is {far[worst]:.2e} off the bare host's\n  denoising ('dn') and main "
        "queries share a self-attention domain and its mask, and cat() gives every argument but the last domains of "
        "its own: hand on q itself, or cat(added, q), never cat(q.take('dn'), q.take('main'))",
    )


def _distance(a: SupervisedSet, b: SupervisedSet) -> float:
    if a.logits_BQK.shape != b.logits_BQK.shape:
        return float("inf")
    if not a.logits_BQK.numel():
        return 0.0
    far = [(a.logits_BQK - b.logits_BQK).detach().abs().max(), (a.boxes_BQ4 - b.boxes_BQ4).detach().abs().max()]
    return float(max(far))


def _leaks(model: Detector, batch: list[dict]) -> list[tuple[int, str, str]]:
    """(stage, set, set it sees) for every pair that must not see each other, by gradients of a random read-out."""
    found: list[tuple[int, str, str]] = []
    mem, stages = entering(model, batch)
    for layer, q in stages:
        watched = q.replace(content_BTC=q.content_BTC.detach().requires_grad_())
        logits, boxes, _ = model.decoder.stage(layer, watched, mem)
        spans = q.spans()
        for slot, a, b in spans:
            if a == b:
                continue
            read = (logits[:, a:b] * torch.randn_like(logits[:, a:b])).sum() + boxes[:, a:b].sin().sum()
            (grad,) = torch.autograd.grad(read, watched.content_BTC, retain_graph=True)
            for other, c, d in spans:
                # a denoising set may see the matching queries of its domain; that is its source's mask, not a leak
                known = slot.path == other.path and slot.group != other.group
                known = known and slot.domain == other.domain is not None
                if (c, d) != (a, b) and c < d and not known and bool(grad[:, c:d].abs().max() > 0):
                    found.append((layer, f"{slot.group}/{slot.path}", f"{other.group}/{other.path}"))
    return found
