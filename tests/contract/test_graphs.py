"""Prediction recorded as CUDA graphs: what may not happen in a recorded pass, seen without a GPU."""

from __future__ import annotations

import logging

import pytest
import torch
from no_values import without_values
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detrex_ext.errors import UserError
from detrex_ext.gpu_check import predicting, speed
from detrex_ext.gpu_check.table import NotHere, Options
from detrex_ext.modeling import graphs
from detrex_ext.modeling.graphs import Graphs
from detrex_ext.predictor import Predictor
from detrex_ext.structures.placing import Constants, moved, placed
from detrex_ext.testing import example_batch

from .hosts import ALL_HOSTS, CLASSES, COUNTED, HOSTS

QUICK = ("dino", "tsp-fcos")


class OneDevice(TorchDispatchMode):
    """Refuses tensors of two devices in an operator: a recorded copy would read memory of the host long reused."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor) and x.ndim]
        assert len({x.device.type for x in tensors}) < 2, f"{func} copies"
        return out


def cells():
    for host in ALL_HOSTS:
        if host not in COUNTED:
            yield pytest.param(host, marks=[] if host in QUICK else [pytest.mark.slow])


@pytest.mark.parametrize("host", list(cells()))
def test_a_pass_that_was_made_before_needs_nothing_of_the_host(host, monkeypatch):
    monkeypatch.setenv("DETREX_EXT_MS_DEFORM", "torch")  # Triton wants a real GPU
    with without_values(), torch.no_grad():
        with torch.device("cuda"):
            model = ALL_HOSTS[host]().eval()
        images, _ = model.inputs(example_batch(model.num_classes))
        constants, tensors = Constants(), (images.images_B3HW, images.valid_hw_B2)
        with constants.kept():
            first = model.core(*tensors)
        with pytest.raises(AssertionError, match="copies"), OneDevice():
            model.core(*tensors)
        with constants.again(), OneDevice():
            second = model.core(*tensors)
    assert [s.boxes_BQ4.shape for s in first] == [s.boxes_BQ4.shape for s in second]


def test_constants_are_those_of_the_same_place_and_others_are_refused():
    constants, like = Constants(), torch.zeros(1, device="meta")
    with constants.kept():
        sent = placed([1.0, 2.0], like), moved(torch.zeros(3), "meta")
        assert moved(torch.zeros(3), "cpu").device.type == "cpu"  # is sent nowhere
    with constants.again():
        assert placed([1.0, 2.0], like) is sent[0] and moved(torch.zeros(3), "meta") is sent[1]
        with pytest.raises(RuntimeError, match="sends more"):
            placed([1.0], like)
    for other in (torch.zeros(3), torch.zeros(2, dtype=torch.int64)):
        with constants.again(), pytest.raises(RuntimeError, match="where it sent"):
            moved(other, "meta")
    with pytest.raises(KeyError), constants.again():
        raise KeyError
    assert placed([1.0, 2.0], like) is not sent[0]


class Tape:
    """Recorded without a GPU: notes sizes, and gives what the pass gave when it was recorded, over the new images."""

    def __init__(self, core, images, valid, pool):
        self.core = core
        self.inputs = images.clone(), valid.clone()
        self.sets = core(*self.inputs)
        made.append(tuple(images.shape))

    def __call__(self, images, valid):
        assert images.shape == self.inputs[0].shape
        for kept, new in zip(self.sets, self.core(images, valid), strict=True):
            kept.logits_BQK.copy_(new.logits_BQK)
            kept.boxes_BQ4.copy_(new.boxes_BQ4)
        return self.sets


made: list[tuple] = []


@pytest.fixture
def taped(monkeypatch):
    made.clear()
    monkeypatch.setattr(graphs, "Recorded", Tape)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "a pool")


def photo(number, height=64, width=96):
    g = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (height, width, 3), generator=g, dtype=torch.uint8).numpy()


@pytest.mark.usefixtures("taped")
def test_a_size_is_recorded_when_it_comes_again_and_answers_are_those_of_each_image():
    model = HOSTS["detr"]().requires_grad_(False)
    names = [str(k) for k in range(CLASSES)]
    plain, recorded = Predictor(model, names), Predictor(model, names, cuda_graphs=True)
    images = [photo(0), photo(1, 48), photo(2), photo(3), photo(4, 48), photo(5)]
    found, wanted = recorded.predict(images, 0), plain.predict(images, 0)
    assert made == [(1, 3, 64, 96), (1, 3, 48, 96)]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=0, atol=1e-3)
    assert len({round(float(x.scores[0]), 6) for x in found}) == len(found)  # and not one for all


class Counted(nn.Module):
    """A core that tells how it was called."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def core(self, images, valid):
        self.calls += 1
        return []


@pytest.mark.usefixtures("taped")
def test_no_more_sizes_are_recorded_than_allowed(caplog):
    model = Counted()
    run = Graphs(model, most=2)
    with caplog.at_level(logging.INFO):
        for width in (8, 9, 10, 8, 9, 10, 10, *range(11, 99), *range(11, 99)):
            run(torch.zeros(1, 3, 4, width), torch.ones(1, 2))
    assert [shape[3] for shape in made] == [8, 9] and caplog.text.count("2 sizes are recorded") == 1
    assert len(run._once) == 3  # what comes later is not remembered
    strided = torch.zeros(1, 4, 8, 3).permute(0, 3, 1, 2)
    assert run(strided, torch.ones(1, 2)) == [] and len(made) == 2  # the same shape in other memory is another size


@pytest.mark.parametrize("error", [RuntimeError("\noperation not permitted when capturing\nmore"), RuntimeError("")])
def test_what_cannot_be_recorded_is_told_in_one_message(error, taped, monkeypatch):
    def broken(*_):
        raise error

    monkeypatch.setattr(graphs, "Recorded", broken)
    run, batch = Graphs(Counted()), (torch.zeros(1, 3, 4, 8), torch.ones(1, 2))
    run(*batch)
    with pytest.raises(UserError, match="cannot be recorded as a CUDA graph: (operation not permitted|RuntimeError)"):
        run(*batch)
    with pytest.raises(UserError, match="cuda_graphs=True: Linear has no core to record"):
        Graphs(nn.Linear(1, 1))


@pytest.mark.usefixtures("taped")
def test_the_check_of_a_gpu_tells_what_is_recorded_from_what_is_not(monkeypatch):
    with pytest.raises(NotHere, match="only a CUDA device"):
        predicting.recorded((48, 64), 1, "fp32", Options("cpu", quick=True))
    monkeypatch.setattr(Options, "on_gpu", True)
    monkeypatch.setattr(speed, "measured", lambda work, batch, options: {"held": None, "sets": bool(work())})
    row = predicting.recorded((48, 64), 1, "fp32", Options("cpu", quick=True))
    assert row["scores_differ"] < 1e-5 and row["sets"] and made == [(1, 3, 48, 64)]
    monkeypatch.setattr(Tape, "__call__", lambda self, images, valid: self.sets)  # a graph that never looks again
    assert predicting.recorded((48, 64), 1, "fp32", Options("cpu", quick=True))["scores_differ"] > 1e-4
    with pytest.raises(NotHere, match="a compilation takes more"):
        predicting.recorded((48, 64), 1, "fp32", Options("cpu", quick=True), compiled=True)
