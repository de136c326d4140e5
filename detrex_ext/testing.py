"""The contract of hosts and strategies as functions: run them on your own (``docs/extending.md``).

Each check has a name; a broken one is reported by it. All run on a CPU in seconds on a narrow model.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from detrex_ext.modeling.detector import Detector
from detrex_ext.runtime import Boxes, Instances
from detrex_ext.strategies import Strategy
from detrex_ext.structures import Memory, Queries, SupervisedSet, cat


class BrokenInvariant(AssertionError):
    """A host or a strategy breaks the contract; ``names`` are the invariants it breaks."""

    def __init__(self, broken: dict[str, str]) -> None:
        self.names = tuple(broken)
        super().__init__("\n".join(f"broken invariant '{name}': {why}" for name, why in broken.items()))


def example_batch(
    num_classes: int, objects: tuple[int, ...] = (3, 0), size: tuple[int, int] = (64, 96), seed: int = 0
) -> list[dict[str, Any]]:
    """Pictures of noise with random objects, in detectron2's layout; every second one is a little smaller.

    Args:
        num_classes: K.
        objects: number of objects of each picture.
        size: (height, width) of the first.
        seed: of everything.
    """
    g = torch.Generator().manual_seed(seed)
    batch = []
    for i, n in enumerate(objects):
        h, w = size[0] - 8 * (i % 2), size[1] - 16 * (i % 2)
        corner = torch.rand(n, 2, generator=g) * torch.tensor([w, h]) * 0.6
        side = (0.1 + 0.25 * torch.rand(n, 2, generator=g)) * torch.tensor([w, h])
        instances = Instances((h, w))
        instances.gt_boxes = Boxes(torch.cat([corner, corner + side], 1))
        instances.gt_classes = torch.randint(0, num_classes, (n,), generator=g)
        image = torch.randint(0, 256, (3, h, w), generator=g, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": h, "width": w})
    return batch


def check_strategy(strategy: Strategy, model: Detector, objects: tuple[int, ...] = (3, 0), seed: int = 0) -> list[str]:
    """Hold a strategy against the contract on a host.

    Args:
        strategy: the strategy.
        model: a detector with rules, narrow for speed; it is left as it was.
        objects: objects of each picture of the example batch.
        seed: of pictures and denoising.

    Returns:
        Names of the invariants that held.

    Raises:
        BrokenInvariant: naming each that did not.
    """
    with _as_found(model) as bare, _as_found(model) as model:
        bare.use({})
        model.use({"checked": strategy})
        batch = example_batch(model.num_classes, objects, seed=seed)
        tolerance = 1e-10 if next(model.parameters()).dtype == torch.float64 else 1e-5

        def train_sets(which: Detector, data: list[dict]) -> list[SupervisedSet]:
            torch.manual_seed(seed)
            return which.train().forward_sets(data)

        def no_parameters() -> None:
            owned = isinstance(strategy, nn.Module) and len(list(strategy.parameters()))
            _hold(not owned, f"the strategy owns {owned} parameters; a query source may, a strategy may not")
            _hold(bare.state_dict().keys() == model.state_dict().keys(), "the state dict has other keys with it")

        def eval_identity() -> None:
            with torch.no_grad():
                a, b = bare.eval().forward_sets(batch), model.eval().forward_sets(batch)
            _hold(len(a) == len(b), f"at inference there are {len(b)} sets instead of the host's {len(a)}")
            same = all(
                torch.equal(x.logits_BQK, y.logits_BQK) and torch.equal(x.boxes_BQ4, y.boxes_BQ4)
                for x, y in zip(a, b, strict=True)
            )
            _hold(same, "outputs at inference differ from the bare host's")

        def plain_path() -> None:
            def plain(sets: list[SupervisedSet]) -> dict:
                return {(s.stage, s.group): s for s in sets if s.path == "plain"}

            a, b = plain(train_sets(bare, batch)), plain(train_sets(model, batch))
            _hold(a.keys() <= b.keys(), f"plain sets {sorted(a.keys() - b.keys())} of the bare host are gone")
            far = {k: _distance(a[k], b[k]) for k in a}
            worst = max(far, key=far.get)
            _hold(far[worst] <= tolerance, f"plain set (stage, group) {worst} is {far[worst]:.2e} off the bare host's")

        def isolation() -> None:
            torch.manual_seed(seed)
            leaks = _leaks(model.train(), batch)
            _hold(not leaks, f"stage {leaks[0][0]}: {leaks[0][1]} sees {leaks[0][2]}" if leaks else "")

        def no_state() -> None:
            first, second = train_sets(model, batch), train_sets(model, batch)
            same = len(first) == len(second) and all(
                _distance(a, b) == 0 for a, b in zip(first, second, strict=True)
            )
            _hold(same, "a second pass on the same batch with the same seed gives other sets")

        checks = {
            "no parameters": no_parameters,
            "eval identity": eval_identity,
            "plain path": plain_path,
            "isolation": isolation,
            "no state": no_state,
            **_supervision_checks(model, batch, objects, seed),
        }
        return _held(checks)


def check_host(model: Detector, objects: tuple[int, ...] = (3, 0), seed: int = 0) -> list[str]:
    """Hold a detector's decoder and query source against the contract.

    Args, Returns, Raises: as :func:`check_strategy`.
    """
    with _as_found(model) as model:
        model.use({})
        batch = example_batch(model.num_classes, objects, seed=seed)
        tolerance = 1e-10 if next(model.parameters()).dtype == torch.float64 else 1e-4

        def stages() -> None:
            with torch.no_grad():
                sets = model.eval().forward_sets(batch)
            found = [(s.stage, s.group, s.path) for s in sets]
            wanted = [(i, "main", "plain") for i in range(len(model.decoder.eval_order))]
            _hold(found == wanted, f"at inference the sets are {found}, expected one main set per stage: {wanted}")

        def boxes() -> None:
            for s in model.train().forward_sets(batch):
                if model.decoder.boxes_in_picture:
                    good = bool(((s.boxes_BQ4 >= 0) & (s.boxes_BQ4 <= 1)).all())
                else:
                    # one without a sigmoid may leave the picture a little, but not by pixels
                    centre, size = s.boxes_BQ4.chunk(2, -1)
                    good = bool(((centre.abs() <= 2) & (size >= 0) & (size <= 4)).all())
                _hold(good, f"boxes of stage {s.stage} {s.group} leave [0, 1]: predict() returns normalised cxcywh")

        def permutation() -> None:
            with torch.no_grad():
                a = model.eval().forward_sets(batch)[-1]
                b = model.forward_sets(batch[::-1])[-1]
            far = float((a.boxes_BQ4 - b.boxes_BQ4.flip(0)).abs().max())
            _hold(far <= tolerance, f"swapping the pictures changes a picture's boxes by {far:.2e}")

        def sets_alone() -> None:
            far = _alone_or_together(model)
            _hold(far <= tolerance, f"a set's outcome changes by {far:.2e} when another domain's set runs beside it")

        def scratch() -> None:
            kept = [k for q in _entering(model.train(), batch) for k in q.extra if k.startswith("_")]
            _hold(not kept, f"predict() hands scratch on to the next stage: {sorted(set(kept))}")

        def chunks() -> None:
            q, mem = _initial(model.train(), batch)
            both = cat(_another(q.take("main")), q)
            outs = []
            for chunk in (None, 1):
                model.decoder.chunk = chunk
                outs.append(model.decoder._stage(model.decoder.order[0], both, mem)[:2])
            model.decoder.chunk = None
            far = max(float((a - b).detach().abs().max()) for a, b in zip(*outs, strict=True))
            _hold(far <= tolerance, f"running domains one at a time changes the outcome by {far:.2e}")

        return _held(
            {
                "stages": stages,
                "normalised boxes": boxes,
                "permutation of images": permutation,
                "sets alone or together": sets_alone,
                "scratch dropped": scratch,
                "chunks": chunks,
                **_supervision_checks(model, batch, objects, seed),
            }
        )


def _supervision_checks(model: Detector, batch: list, objects: tuple[int, ...], seed: int) -> dict[str, Callable]:
    def losses(data: list[dict]) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return model.train()(data)

    def rules() -> None:
        found = losses(batch)
        _hold(all(bool(v.isfinite()) for v in found.values()), "a loss is not finite")

    def same_losses() -> None:
        empty = example_batch(model.num_classes, (0,) * len(objects), seed=seed)
        a, b = set(losses(batch)), set(losses(empty))
        _hold(a == b, f"losses depend on the data: {sorted(a ^ b)} is there only with or only without objects")

    def gradients() -> None:
        model.zero_grad()
        sum(losses(batch).values()).backward()
        named = [(n, p.grad) for n, p in model.named_parameters() if p.requires_grad]
        missing = [n for n, g in named if g is None]
        bad = [n for n, g in named if g is not None and not g.isfinite().all()]
        _hold(not missing, f"no gradient reaches {missing[:5]}")
        _hold(not bad, f"the gradient is not finite at {bad[:5]}")

    return {"every set has a rule": rules, "same losses on every batch": same_losses, "finite gradients": gradients}


class _Broken(Exception):
    pass


def _hold(condition: bool, why: str) -> None:
    if not condition:
        raise _Broken(why)


def _held(checks: dict[str, Callable[[], None]]) -> list[str]:
    broken = {}
    for name, check in checks.items():
        try:
            check()
        except _Broken as e:
            broken[name] = str(e)
        except Exception as e:  # a pass that ends in an error holds nothing
            broken[name] = f"{type(e).__name__}: {e}"
    if broken:
        raise BrokenInvariant(broken)
    return list(checks)


@contextlib.contextmanager
def _as_found(model: Detector) -> Iterator[Detector]:
    """A copy without dropout whose buffers (batch norm statistics) may change; random state as it was after it."""
    state = torch.get_rng_state()
    twin = copy.deepcopy(model)
    for m in twin.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
        elif isinstance(m, nn.MultiheadAttention):
            m.dropout = 0.0
        elif isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.momentum = 0.0
    try:
        yield twin
    finally:
        torch.set_rng_state(state)


def _distance(a: SupervisedSet, b: SupervisedSet) -> float:
    if a.logits_BQK.shape != b.logits_BQK.shape:
        return float("inf")
    if not a.logits_BQK.numel():
        return 0.0
    far = [(a.logits_BQK - b.logits_BQK).detach().abs().max(), (a.boxes_BQ4 - b.boxes_BQ4).detach().abs().max()]
    return float(max(far))


def _entering(model: Detector, batch: list[dict]) -> list[Queries]:
    """The queries that enter each stage of a pass, with those that leave the last."""
    seen: list[Queries] = []
    _watch(model, batch, lambda stage, layer, q, mem: seen.append(q))
    return seen


def _watch(model: Detector, batch: list[dict], look: Callable[..., None]) -> None:
    """Run a batch and call ``look(stage, layer, queries, memory)`` before each stage."""
    stage = model.decoder._stage

    def watched(layer: int, q: Queries, mem: Memory) -> tuple:
        look(stage, layer, q, mem)
        return stage(layer, q, mem)

    model.decoder._stage = watched
    try:
        model.forward_sets(batch)
    finally:
        del model.decoder._stage


def _initial(model: Detector, batch: list[dict]) -> tuple[Queries, Memory]:
    """The first queries and the memory of a batch."""
    found: list[tuple[Queries, Memory]] = []
    hook = model.decoder.register_forward_pre_hook(lambda _, args: found.append((args[0], args[1])))
    try:
        model.forward_sets(batch)
    finally:
        hook.remove()
    return found[0]


def _another(q: Queries) -> Queries:
    """Sets of the same kind with other content, as recollected ones."""
    return q.replace(content_BTC=q.content_BTC.flip(1) + 1.0).retag(path="recollect")


def _alone_or_together(model: Detector) -> float:
    """Largest change of a set's outcome in each stage when a set of another domain runs beside it."""
    q, mem = _initial(model.train(), example_batch(model.num_classes, (2, 1)))
    q = q.take("main")
    other = _another(q)
    far = 0.0
    for layer in model.decoder.order:
        logits, boxes, out = model.decoder._stage(layer, q, mem)
        both = model.decoder._stage(layer, cat(other, q), mem)
        n = q.content_BTC.shape[1]
        changes = [logits - both[0][:, -n:], boxes - both[1][:, -n:]]
        far = max(far, *(float(x.detach().abs().max()) for x in changes))
        other = both[2].select([True] * len(other.slots) + [False] * len(q.slots))
        q = out
    return far


def _leaks(model: Detector, batch: list[dict]) -> list[tuple[int, str, str]]:
    """(stage, set, set it sees) for every pair that must not see each other, by gradients of a random read-out."""
    found: list[tuple[int, str, str]] = []

    def probe(stage: Callable[..., tuple], layer: int, q: Queries, mem: Memory) -> None:
        watched = q.replace(content_BTC=q.content_BTC.detach().requires_grad_())
        logits, boxes, _ = stage(layer, watched, mem)
        spans = q.spans()
        for slot, a, b in spans:
            if a == b:
                continue
            read = (logits[:, a:b] * torch.randn_like(logits[:, a:b])).sum() + boxes[:, a:b].sin().sum()
            (grad,) = torch.autograd.grad(read, watched.content_BTC, retain_graph=True)
            for other, c, d in spans:
                # a denoising set may see the matching queries of its domain; that is its source's mask, not a leak
                known = slot.path == other.path == "plain" and slot.domain == other.domain is not None
                if (c, d) != (a, b) and c < d and not known and bool(grad[:, c:d].abs().max() > 0):
                    found.append((layer, f"{slot.group}/{slot.path}", f"{other.group}/{other.path}"))

    _watch(model, batch, probe)
    return found
