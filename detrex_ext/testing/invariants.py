"""Named checks, what breaks them, and those that hosts and strategies share."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from detrex_ext.modeling.detector import Detector

from .batch import example_batch


class BrokenInvariant(AssertionError):
    """A host or a strategy breaks the contract; ``names`` are the invariants it breaks."""

    def __init__(self, broken: dict[str, str]) -> None:
        self.names = tuple(broken)
        super().__init__("\n".join(f"broken invariant '{name}': {why}" for name, why in broken.items()))


class _Broken(Exception):
    pass


def hold(condition: bool, why: str) -> None:
    """The condition of a check, and what is wrong where it does not hold."""
    if not condition:
        raise _Broken(why)


def held(checks: dict[str, Callable[[], None]]) -> list[str]:
    """Run checks; their names, or :class:`BrokenInvariant`."""
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


def supervision_checks(model: Detector, batch: list, objects: tuple[int, ...], seed: int) -> dict[str, Callable]:
    """What a model owes its losses, whatever host and strategy it is made of."""

    def losses(data: list[dict]) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return model.train()(data)

    def rules() -> None:
        found = losses(batch)
        hold(all(bool(v.isfinite()) for v in found.values()), "a loss is not finite")

    def same_losses() -> None:
        empty = example_batch(model.num_classes, (0,) * len(objects), seed=seed)
        a, b = set(losses(batch)), set(losses(empty))
        hold(a == b, f"losses depend on the data: {sorted(a ^ b)} is there only with or only without objects")

    def gradients() -> None:
        model.zero_grad()
        sum(losses(batch).values()).backward()
        named = [(n, p.grad) for n, p in model.named_parameters() if p.requires_grad]
        missing = [n for n, g in named if g is None]
        bad = [n for n, g in named if g is not None and not g.isfinite().all()]
        hold(not missing, f"no gradient reaches {missing[:5]}")
        hold(not bad, f"the gradient is not finite at {bad[:5]}")

    return {"every set has a rule": rules, "same losses on every batch": same_losses, "finite gradients": gradients}


@contextlib.contextmanager
def as_found(model: Detector) -> Iterator[Detector]:
    """A copy without dropout whose buffers (batch norm statistics) may change; random state as it was after it."""
    twin = copy.deepcopy(model)
    for m in twin.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
        elif isinstance(m, nn.MultiheadAttention):
            m.dropout = 0.0
        elif isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.momentum = 0.0
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        yield twin
