"""Checkpoints cross over: ours in detectron2's and detrex's checkpointers, theirs in ours.

A training is begun by one project's trainer and goes on in the other's, with optimizer and iteration; the weights at
the end are those of a training that was not moved.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fvcore.common.param_scheduler import MultiStepParamScheduler
from narrow import NARROW
from torch import nn

from detrex_ext.checkpoint import Checkpointer
from detrex_ext.config import load_config
from detrex_ext.engine import Trainer, hooks
from detrex_ext.engine.ema import ModelEMA
from detrex_ext.runtime import HookBase, instantiate

if importlib.util.find_spec("detectron2") is None:
    pytest.skip("detectron2's checkpointer needs detectron2", allow_module_level=True)

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer
from detectron2.engine import hooks as their_hooks

HALF, WHOLE = 4, 9
CLASSES = {
    "ours": (Trainer, Checkpointer, hooks.LRScheduler),
    "detectron2": (SimpleTrainer, DetectionCheckpointer, their_hooks.LRScheduler),
}
if importlib.util.find_spec("detrex") is not None:
    detrex = importlib.import_module("detrex.checkpoint")
    # detrex's trainer, a SimpleTrainer, is part of a script
    CLASSES["detrex"] = (SimpleTrainer, detrex.DetectionCheckpointer, their_hooks.LRScheduler)
PEERS = [name for name in CLASSES if name != "ours"]
SCHEDULE = MultiStepParamScheduler([1.0, 0.1], milestones=[6, WHOLE])


class Model(nn.Module):
    """Weights, running averages, a count, and a buffer that no file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.register_buffer("shift", torch.ones(3), persistent=False)

    def forward(self, batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": self.inner(torch.stack(batch) - self.shift).square().sum()}


class Stream:
    """Batches that depend on the iteration alone; our trainer says where to begin, theirs is told when it is made."""

    def __init__(self, start: int = 0) -> None:
        self.start = start

    def set_start(self, iteration: int) -> None:
        self.start = iteration

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        for iteration in range(self.start, 1000):
            yield list(torch.rand(5, 3, generator=torch.Generator().manual_seed(iteration)))


class SaveAt(HookBase):
    """Saves after HALF iterations, behind all other hooks, as the hooks of both projects do."""

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer = checkpointer

    def after_step(self) -> None:
        if self.trainer.iter + 1 == HALF:
            self.checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)


class Run:
    """A model with optimizer, trainer and checkpointer of one project, in a folder."""

    def __init__(self, whose: str, folder: Path, start: int = 0) -> None:
        torch.manual_seed(1)
        self.model = Model()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, weight_decay=0.1)
        trainer, checkpointer, scheduler = CLASSES[whose]
        self.trainer = trainer(self.model, Stream(start), self.optimizer)
        self.checkpointer = checkpointer(self.model, str(folder), trainer=self.trainer)
        self.trainer.register_hooks([scheduler(scheduler=SCHEDULE), SaveAt(self.checkpointer)])


def take(run: Run, whose: str) -> int:
    """Load what is newest in the run's folder; the iteration that was done last."""
    if whose == "ours":
        run.checkpointer.resume()
    else:
        run.checkpointer.resume_or_load("", resume=True)
    return run.trainer.iter


@pytest.fixture(scope="module")
def unmoved(tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights of a training that stayed where it was."""
    run = Run("ours", tmp_path_factory.mktemp("unmoved"))
    run.trainer.train(0, WHOLE)
    return run.model.state_dict()


@pytest.mark.parametrize(("first", "then"), [pair for peer in PEERS for pair in (("ours", peer), (peer, "ours"))])
def test_a_training_goes_on_in_the_other_project(first, then, unmoved, tmp_path):
    begun = Run(first, tmp_path)
    begun.trainer.train(0, WHOLE)
    going = Run(then, tmp_path, HALF)
    assert take(going, then) == HALF - 1
    saved = torch.load(tmp_path / f"model_{HALF - 1:07d}.pth", weights_only=True)
    assert all(torch.equal(v, saved["model"][k]) for k, v in going.model.state_dict().items())
    moments = zip(saved["trainer"]["optimizer"]["state"].values(), going.optimizer.state.values(), strict=True)
    assert all(torch.equal(one[k], two[k]) and one["step"] == HALF for one, two in moments for k in one)
    going.trainer.train(HALF, WHOLE)
    weights = going.model.state_dict()
    assert weights.keys() == unmoved.keys()
    assert {k: (v - unmoved[k]).abs().max().item() for k, v in weights.items()} == dict.fromkeys(weights, 0)


@pytest.mark.parametrize(("first", "then"), [pair for peer in PEERS for pair in (("ours", peer), (peer, "ours"))])
def test_weights_alone_cross_over_and_the_rest_is_handed_on(first, then, tmp_path):
    one = Run(first, tmp_path)
    nn.init.constant_(one.model.inner[0].weight, 3)
    one.checkpointer.save("model_final", iteration=7)
    two = Run(then, "")
    left = two.checkpointer.load(str(tmp_path / "model_final.pth"), checkpointables=[])
    assert left["iteration"] == 7 and "trainer" in left and two.trainer.iter == 0
    assert (two.model.inner[0].weight == 3).all()


@pytest.mark.skipif("detrex" not in PEERS, reason="detrex's averages need detrex")
def test_averaged_weights_cross_over(tmp_path):
    from detrex.modeling.ema import EMAState

    ours, theirs = Model(), Model()
    average = ModelEMA(ours, decay=0.5)
    nn.init.constant_(ours.inner[0].weight, 2)
    average.update()
    Checkpointer(ours, str(tmp_path), ema_state=average).save("model_final")
    taken = EMAState.FromModel(theirs)
    DetectionCheckpointer(theirs, str(tmp_path), ema_state=taken).load(str(tmp_path / "model_final.pth"))
    assert all(torch.equal(taken.state[k], v) for k, v in average.state_dict().items())
    # and back: theirs has the buffers that no file needs, too
    other = tmp_path / "theirs"
    other.mkdir()
    taken.state["shift"] = torch.zeros(3)
    DetectionCheckpointer(theirs, str(other), ema_state=taken).save("model_final")
    back = ModelEMA(Model())
    Checkpointer(back.model, str(other), ema_state=back).load(str(other / "model_final.pth"))
    assert back.state_dict().keys() == average.state_dict().keys()
    assert all(torch.equal(v, average.state_dict()[k]) for k, v in back.state_dict().items())


@pytest.mark.parametrize("query", ["", "?matching_heuristics=True"])
def test_every_tensor_of_a_detector_is_found_by_its_name(query, tmp_path):
    """detrex turns the matching of names on for every file."""
    torch.manual_seed(2)
    cfg = load_config("small", (), [*NARROW, "model.num_classes=2"])
    ours, theirs = instantiate(cfg.model), instantiate(cfg.model)
    Checkpointer(ours, str(tmp_path), extra={"class_names": ["a", "b"]}).save("model_final", iteration=3)
    left = DetectionCheckpointer(theirs).load(str(tmp_path / "model_final.pth") + query)
    assert left["class_names"] == ["a", "b"] and left["iteration"] == 3
    state = theirs.state_dict()
    assert len(state) > 100 and all(torch.equal(v, state[k]) for k, v in ours.state_dict().items())
