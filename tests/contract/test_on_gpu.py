"""A step of every host on a GPU that need not be there: its tensors have no values, but say where they are.

An operator on tensors of two devices raises, and so does what needs a value on the host. What would wait until the GPU
has done all it was told is noted, by the place in the package: the one copy of all matching costs is the only one.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from no_values import without_values
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import detrex_ext
from detrex_ext.criterion import SetCriterion, tsp_fcos_rules, tsp_rcnn_rules
from detrex_ext.engine.ema import ModelEMA
from detrex_ext.layers.cpu import focal
from detrex_ext.matching import FCOSMatcher, RoIMatcher, base, on_device
from detrex_ext.modeling.decoders import chunks
from detrex_ext.structures import Given, Pairs, Prior, SupervisedSet, Targets
from detrex_ext.structures.placing import moved, placed
from detrex_ext.testing import example_batch
from detrex_ext.testing.invariants import as_found

from .hosts import CHUNKS, COUNTED, HOSTS, SET_HOSTS, SOLVED, STRATEGIES, host_for, restrict

PACKAGE = Path(detrex_ext.__file__).parent
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Waits(TorchDispatchMode):
    """Counts by place what waits for the GPU: copies that are not asynchronous, and CPU tensors beside those on it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in (*tree_leaves((args, kwargs)), out) if isinstance(x, Tensor)]
        if len({x.device.type for x in tensors if x.ndim}) > 1:
            asynchronous = (kwargs or {}).get("non_blocking") or args[2:] == (True,)
            if func not in COPIES or not asynchronous:
                self.found[f"{func} at {self._place()}"] += 1
        return out

    @staticmethod
    def _place() -> str:
        frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(PACKAGE)]
        own = [f for f in frames if Path(f.filename).name != "placing.py"]
        return f"{Path(own[-1].filename).relative_to(PACKAGE)}:{own[-1].lineno}" if own else "the test"


@pytest.fixture
def gpu(monkeypatch):
    """A mode in which there is a GPU, and the shapes that the step's one copy to the host brings."""
    monkeypatch.setenv("DETREX_EXT_MS_DEFORM", "torch")  # Triton wants a real one
    copied = []

    def to_host(tensors):
        copied.append([tuple(t.shape) for t in tensors])
        return [np.zeros(t.shape, np.float32 if t.is_floating_point() else np.int32) for t in tensors]

    def to_device(solved, device):
        sizes = [s.shape[1] for s in solved]
        return [Pairs(*torch.zeros(4, size, dtype=torch.int64, device=device)) for size in sizes]

    def at_entries(x_P, function):  # torch's engine of backward passes wants a real one too
        return function(x_P), torch.zeros_like(x_P)

    monkeypatch.setattr(base, "_to_host", to_host)
    monkeypatch.setattr(base, "_to_device", to_device)
    monkeypatch.setattr(focal, "_at_entries", at_entries)
    with without_values():
        yield copied


def on_gpu(host, strategy):
    with torch.device("cuda"):
        model = host_for(host, strategy).train()
        model.use({"checked": STRATEGIES[strategy](host)})
    model.criterion.check_finite = False  # waits, and says so
    return model


QUICK = ("deformable, refine", "dino", "detr", "dab, dn", "adamixer, dn")


def cells():
    """Every host with sets of all kinds; further queries and sets run one at a time with some."""
    found = [(host, "sqr + dac") for host in HOSTS]
    found += [*(("dino", name) for name in ("hybrid", "group", *CHUNKS)), ("dab", "hybrid"), ("dab", "group")]
    found += [(host, "mr + ms") for host in ("deformable++", "dino", "detr", "dab", "adamixer")]
    found += [(host, "co") for host in ("deformable", "dino", "detr", "dab, dn", "adamixer")]
    for host, strategy in found:
        quick = host in QUICK and strategy in ("sqr + dac", "hybrid")
        yield pytest.param(host, strategy, id=f"{host}-{strategy}", marks=[] if quick else [pytest.mark.slow])


@pytest.mark.parametrize("host, strategy", list(cells()))
def test_a_step_waits_for_the_gpu_once(host, strategy, gpu):
    model = on_gpu(host, strategy)
    batch = example_batch(model.num_classes, (3, 1))
    with Waits() as waits:
        losses = model(batch)
    assert {v.device.type for v in (*losses.values(), *losses.stats.values())} == {"cuda"}
    assert not waits.found, "\n".join(f"{n} x {what}" for what, n in waits.found.items())
    assert len(gpu) == 1 and gpu[0]
    model.preprocess.parity_padding = True
    with Waits() as waits, torch.no_grad():
        sets = model.eval().forward_sets(batch)
    assert sets[-1].boxes_BQ4.device.type == "cuda" and not waits.found, "\n".join(waits.found)


@pytest.mark.parametrize("strategy", ["sqr + dac", "hybrid"])
def test_matching_by_the_kernel_copies_nothing_to_the_host(strategy, gpu, monkeypatch):
    solver = pytest.importorskip("detrex_ext.matching.triton_solver")
    monkeypatch.setattr(on_device, "usable", lambda device: True)
    queries = {"dtype": torch.int32, "device": "cuda"}
    monkeypatch.setattr(solver, "solve", lambda cost_NGQ, counts: torch.zeros(cost_NGQ.shape[:2], **queries))
    model = on_gpu("dino", strategy)
    with Waits() as waits:
        losses = model(example_batch(model.num_classes, (3, 1)))
    assert {v.device.type for v in losses.values()} == {"cuda"} and not waits.found, "\n".join(waits.found)
    assert gpu == [[]]


def test_a_batch_without_objects_is_no_other(gpu):
    model = on_gpu("dino", "sqr + dac")
    with Waits() as waits:
        model(example_batch(model.num_classes, (0, 0)))
    assert not waits.found, "\n".join(waits.found)


@pytest.mark.parametrize("host", [host for host in SET_HOSTS if host not in COUNTED])
def test_a_host_of_one_stage_never_waits(host, gpu, monkeypatch):
    """No assignment is solved on the host, unless it is Hungarian; what is drawn is drawn there."""
    with torch.device("cuda"):
        model = SET_HOSTS[host]().train()
    model.criterion.check_finite = False
    if hasattr(model.encoder, "kept"):  # a number of tokens needs a value
        monkeypatch.setattr(model.encoder, "kept", lambda count: torch.arange(count // 2))
    for objects in ((3, 1), (0, 0)):
        with Waits() as waits:
            losses = model(example_batch(model.num_classes, objects))
        assert {v.device.type for v in losses.values()} == {"cuda"}
        assert not waits.found and any(gpu) == (host in SOLVED and any(objects)), "\n".join(waits.found)
        gpu.clear()
    with Waits() as waits, torch.no_grad():
        model.eval().forward_sets(example_batch(model.num_classes, (3, 1)))
    assert not waits.found, "\n".join(waits.found)


@pytest.mark.parametrize("matcher", [FCOSMatcher(strides=(8, 16, 32, 64)), RoIMatcher(low_quality=True)])
@pytest.mark.parametrize("host", ["dino", "deformable, two-stage"])
def test_restricted_matching_copies_nothing_to_the_host(host, matcher, gpu):
    model = on_gpu(host, "none")
    restrict(model, matcher).criterion.check_finite = False
    with Waits() as waits:
        losses = model(example_batch(model.num_classes, (3, 0)))
    assert {v.device.type for v in losses.values()} == {"cuda"} and not waits.found, "\n".join(waits.found)
    assert gpu == [[]]


@pytest.mark.parametrize("rules", [tsp_fcos_rules(), tsp_fcos_rules(only_reweight_fg=False), tsp_rcnn_rules()])
@pytest.mark.parametrize("counts", [(3, 0), (0, 0)])
def test_rules_of_sparse_encoders_copy_nothing_to_the_host(rules, counts, gpu):
    B, Q, K = 2, 6, 4
    with torch.device("cuda"):
        prior = Prior(torch.rand(B, Q, 4), torch.rand(B, Q, 2), torch.ones(B, Q), torch.zeros(B, Q, dtype=torch.int64))
        given = Given(prior=prior, valid_BQ=torch.ones(B, Q, dtype=torch.bool))
        outputs = {"ltrb": torch.rand(B, Q, 4), "centerness": torch.rand(B, Q)}
        outputs |= {name: torch.rand(B, Q, K, 4) for name in ("deltas", "class_boxes")}
        labels = tuple(torch.zeros(n, dtype=torch.int64) for n in counts)
        targets = Targets(labels, tuple(torch.rand(n, 4) for n in counts), torch.ones(B, 2))
        boxes, regions = torch.rand(B, Q, 4), "centerness" not in rules["main"].terms
        logits = {"main": torch.rand(B, Q, K + regions), "token": torch.rand(B, Q, 1 if regions else K)}
        one_class = {"deltas": torch.rand(B, Q, 1, 4)}
        sets = [
            SupervisedSet(logits["main"], boxes, 0, "main", "plain", given, regions, outputs=outputs),
            SupervisedSet(logits["token"], boxes, -1, "token", "plain", given, outputs={**outputs, **one_class}),
        ]
    with Waits() as waits:
        losses = SetCriterion(rules, check_finite=False)(sets, targets)
    assert {v.device.type for v in losses.values()} == {"cuda"} and not waits.found, "\n".join(waits.found)
    assert gpu == [[]]


def test_what_waits_is_seen(gpu):
    x = torch.zeros(3, device="cuda")
    with Waits() as waits:
        x.new_tensor([1.0, 2.0])
        x[[0, 2]]
        moved(x, "cpu")
        moved(torch.zeros(2), "cuda"), placed([1.0], x), placed([1, 2], x, torch.int64)
    assert sum(waits.found.values()) == 3


def test_an_average_on_the_host_waits_for_the_weights(gpu):
    model = torch.nn.Linear(2, 3, device="cuda")
    average = ModelEMA(model, device="cpu")
    with Waits() as waits:
        average.update()
    assert sum(waits.found.values()) == 2  # not waiting would be to average what is not there yet


def test_checks_leave_the_random_numbers_of_the_device_alone(gpu, monkeypatch):
    kept = []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: kept.extend(devices) or contextlib.nullcontext())
    with as_found(on_gpu("detr", "none")):
        assert [x.type for x in kept] == ["cuda"]


def test_what_is_computed_again_shows_the_device_of_its_random_numbers(gpu, monkeypatch):
    """torch restores the random state of the devices of tensor arguments; without, dropout would be another."""
    given = []
    monkeypatch.setattr(chunks, "checkpoint", lambda run, *args, **named: given.append(args) or run(*args))
    model = on_gpu("dino", next(iter(CHUNKS)))
    model(example_batch(model.num_classes, (3, 1)))
    assert given and all(any(isinstance(x, Tensor) and x.is_cuda for x in args) for args in given)
