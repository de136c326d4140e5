"""What this project relies on from its host, for every host present: standalone always, detectron2 when installed."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler, StepParamScheduler
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError
from torch import nn

from detrex_ext.config import LazyConfig

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ["standalone"] + (["detectron2"] if importlib.util.find_spec("detectron2") else [])


@pytest.fixture(params=HOSTS)
def host(request):
    return importlib.import_module(f"detrex_ext.runtime.{request.param}")


def test_every_name_of_the_seam_is_there(host):
    from detrex_ext import runtime

    missing = [name for name in runtime._HOST if not hasattr(host, name)]
    assert missing == []
    assert sorted(host.__all__) == sorted([*runtime._HOST, "TrainerBase"])


def test_the_seam_is_lazy():
    code = "import sys, detrex_ext.runtime; print('torch' in sys.modules, 'detectron2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_names_of_detectron2_that_live_elsewhere_are_found_at_the_seam():
    from detrex_ext import runtime

    for name, module in runtime._OURS.items():
        assert getattr(runtime, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = runtime.nothing


# ---- configs


@dataclasses.dataclass
class Point:
    x: int = 1
    y: int = 2


def test_lazy_call_describes_a_call(host):
    node = host.LazyCall(nn.Linear)(in_features=2, out_features="${.in_features}")
    assert isinstance(node, DictConfig) and node._target_ is nn.Linear
    layer = host.instantiate(node)
    assert isinstance(layer, nn.Linear) and layer.weight.shape == (2, 2)
    with pytest.raises(TypeError):
        host.LazyCall(3)
    with pytest.raises(TypeError):
        host.LazyCall(nn.Linear)(2, 3)
    with pytest.raises(ConfigAttributeError):
        _ = node.nothing


def test_nested_calls_are_made_innermost_first_and_children_are_copies(host):
    inner = host.LazyCall(nn.Linear)(in_features=2, out_features=3)
    node = host.LazyCall(nn.ModuleList)(modules=[inner, inner])
    node.modules[0].out_features = 7
    assert inner.out_features == 3
    assert [m.out_features for m in host.instantiate(node)] == [7, 3]


def test_instantiate_leaves_plain_values_alone(host):
    call = host.LazyCall(Point)(x=3)
    plain = {"a": call}
    assert host.instantiate(plain) is plain
    assert host.instantiate((call,))[0] is call
    assert isinstance(host.instantiate(ListConfig([1, 2])), ListConfig)
    assert host.instantiate([call]) == [Point(3, 2)]
    assert host.instantiate("text") == "text"
    assert host.instantiate({"_target_": "collections.Counter", "a": 2})["a"] == 2


def test_dataclass_targets_are_names_and_dataclass_configs_become_dataclasses(host):
    assert isinstance(host.LazyCall(Point)(x=1)._target_, str)
    made = host.instantiate(OmegaConf.structured(Point(5, 6)))
    assert isinstance(made, Point) and made == Point(5, 6)


def test_a_failing_call_raises_its_own_error(host):
    with pytest.raises(TypeError, match="nonsense"):
        host.instantiate(host.LazyCall(nn.Linear)(in_features=1, out_features=1, nonsense=2))
    with pytest.raises(ImportError):
        host.instantiate({"_target_": "no_such_package.thing"})


@pytest.mark.parametrize("name", HOSTS)
def test_our_lazy_config_is_of_the_hosts_type(name):
    code = (
        "from detrex_ext.runtime import LazyConfig, host\n"
        "assert issubclass(LazyConfig, host().LazyConfigBase) and LazyConfig.loads('a: 1').a == 1"
    )
    env = {**os.environ, "DETREX_EXT_RUNTIME": name, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_config_files_load_save_and_reload(host, tmp_path):
    (tmp_path / "base.py").write_text("import torch\nshared = dict(x=1)\nplain = [1]\n")
    (tmp_path / "cfg.py").write_text(
        "import torch\nfrom detrex_ext.runtime import LazyCall as L\nfrom .base import shared\n"
        "shared.x = 5\nfrom .base import shared as again\n"
        "model = L(torch.nn.Linear)(in_features='${shared.x}', out_features=3)\n"
    )
    cfg = LazyConfig.load(str(tmp_path / "cfg.py"))
    assert set(cfg) == {"shared", "again", "model"}
    assert (cfg.shared.x, cfg.again.x) == (5, 1)
    LazyConfig.save(cfg, str(tmp_path / "out.yaml"))
    again = LazyConfig.load(str(tmp_path / "out.yaml"))
    assert again.model.in_features == 5 and again.model._target_ == "torch.nn.Linear"
    assert host.instantiate(again.model).weight.shape == (3, 5)


# ---- structures


def test_box_mode_converts_every_container_and_keeps_the_input(host):
    mode = host.BoxMode
    box = [1.5, 2.0, 3.0, 4.0]
    assert mode.convert(box, mode.XYWH_ABS, mode.XYXY_ABS) == [1.5, 2.0, 4.5, 6.0]
    assert mode.convert(tuple(box), mode.XYXY_ABS, mode.XYWH_ABS) == (1.5, 2.0, 1.5, 2.0)
    array = np.array([box])
    out = mode.convert(array, mode.XYWH_ABS, mode.XYXY_ABS)
    assert isinstance(out, np.ndarray) and out.tolist() == [[1.5, 2.0, 4.5, 6.0]] and array.tolist() == [box]
    tensor = torch.tensor([box])
    assert mode.convert(tensor, mode.XYWH_ABS, mode.XYXY_ABS).tolist() == [[1.5, 2.0, 4.5, 6.0]]
    assert json.dumps({"mode": mode.XYXY_ABS}) == '{"mode": 0}'


def test_boxes(host):
    boxes = host.Boxes([[0.0, 0.0, 10.0, 20.0], [5.0, 5.0, 5.0, 9.0], [-3.0, 2.0, 40.0, 50.0]])
    assert boxes.tensor.dtype == torch.float32 and len(boxes) == 3
    assert boxes.area().tolist() == [200.0, 0.0, 43.0 * 48.0]
    assert boxes.nonempty().tolist() == [True, False, True]
    clipped = boxes.clone()
    clipped.clip((30, 20))
    assert clipped.tensor[2].tolist() == [0.0, 2.0, 20.0, 30.0] and boxes.tensor[2, 0] == -3
    assert boxes[1].tensor.shape == (1, 4) and boxes[boxes.nonempty()].tensor.shape == (2, 4)
    assert host.Boxes(torch.empty(0)).tensor.shape == (0, 4)
    joined = host.Boxes.cat([boxes, boxes[:1]])
    assert len(joined) == 4 and [row.shape for row in joined] == [(4,)] * 4
    assert len(host.Boxes.cat([])) == 0
    with pytest.raises(AssertionError):
        host.Boxes(torch.tensor([[0.0, 0.0, float("inf"), 1.0]])).clip((5, 5))


def test_instances(host):
    inst = host.Instances((4, 6), scores=torch.tensor([0.1, 0.9, 0.5]), names=["a", "b", "c"])
    inst.pred_boxes = host.Boxes(torch.arange(12.0).view(3, 4))
    assert inst.image_size == (4, 6) and len(inst) == 3
    assert inst.has("scores") and not inst.has("masks") and set(inst.get_fields()) == {"scores", "names", "pred_boxes"}
    one = inst[-1]
    assert len(one) == 1 and one.scores.item() == 0.5 and one.pred_boxes.tensor.shape == (1, 4)
    picked = inst[1:]
    assert picked.names == ["b", "c"]
    joined = host.Instances.cat([inst, picked])
    assert joined.names == ["a", "b", "c", "b", "c"] and joined.pred_boxes.tensor.shape == (5, 4)
    assert inst.to("cpu").scores.tolist() == inst.scores.tolist()
    with pytest.raises(IndexError):
        inst[3]
    with pytest.raises(AttributeError):
        _ = inst.masks
    with pytest.raises((AttributeError, AssertionError)):
        inst.image_size = (1, 1)
    with pytest.raises(AssertionError):
        inst.wrong = [1]
    with pytest.raises(NotImplementedError):
        len(host.Instances((1, 1)))
    inst.remove("names")
    assert not inst.has("names")
    assert inst[inst.scores > 0.3].pred_boxes.tensor[:, 0].tolist() == [4.0, 8.0]


def test_shape_spec(host):
    assert host.ShapeSpec(channels=3, stride=4) == host.ShapeSpec(channels=3, height=None, width=None, stride=4)


# ---- catalogs, events, comm


def test_catalogs(host):
    name = "detrex_ext_contract_data"
    host.DatasetCatalog.register(name, lambda: [{"image_id": 1}])
    try:
        assert host.DatasetCatalog.get(name) == [{"image_id": 1}] and name in host.DatasetCatalog.list()
        with pytest.raises(AssertionError):
            host.DatasetCatalog.register(name, list)
        metadata = host.MetadataCatalog.get(name).set(thing_names=["a"])
        assert metadata is host.MetadataCatalog.get(name) and metadata.thing_names == ["a"]
        assert metadata.get("nothing", 3) == 3
        metadata.thing_names = ["a"]
        with pytest.raises(AssertionError):
            metadata.thing_names = ["b"]
        with pytest.raises(AttributeError, match="nothing"):
            _ = metadata.nothing
    finally:
        host.DatasetCatalog.remove(name)
        host.MetadataCatalog.remove(name)
    with pytest.raises(KeyError):
        host.DatasetCatalog.get(name)


def test_event_storage_smooths_over_iterations(host):
    assert not host.has_event_storage()
    with host.EventStorage(10) as storage:
        assert host.get_event_storage() is storage and storage.iter == 10
        for iteration in range(30):
            storage.iter = iteration
            storage.put_scalar("loss", iteration)
            if iteration % 10 == 0:
                storage.put_scalars(lr=iteration, smoothing_hint=False)
        assert storage.latest()["loss"] == (29.0, 29)
        assert storage.latest_with_smoothing_hint(20)["loss"] == (19.5, 29)
        assert storage.latest_with_smoothing_hint(20)["lr"] == (20.0, 20)
        assert storage.count_samples("lr", 20) == 2
        with storage.name_scope("val"):
            storage.put_scalar("AP", torch.tensor(1.5), cur_iter=7)
        assert storage.latest()["val/AP"] == (1.5, 7)
        with pytest.raises(AssertionError):
            storage.put_scalar("lr", 1.0, smoothing_hint=True)
        with pytest.raises(KeyError):
            storage.history("nothing")
    with pytest.raises(AssertionError):
        host.get_event_storage()


def test_comm_is_one_process_without_a_group(host):
    comm = host.comm
    ranks = (comm.get_world_size(), comm.get_rank(), comm.get_local_rank())
    assert ranks == (1, 0, 0) and comm.is_main_process()
    comm.synchronize()
    assert comm.all_gather("x") == ["x"] and comm.gather("x") == ["x"]
    model = nn.Linear(1, 1)
    assert host.create_ddp_model(model) is model


# ---- solver


def test_learning_rate_follows_the_schedule_and_survives_the_end(host):
    schedules = {
        "step": (StepParamScheduler(4, [1.0, 0.1]), [1.0, 1.0, 0.1, 0.1]),
        "multistep": (MultiStepParamScheduler([1.0, 0.1], milestones=[3, 4]), [1.0, 1.0, 1.0, 0.1]),
        "cosine": (CosineParamScheduler(1.0, 0.0), [0.5 * (1 + np.cos(np.pi * i / 4)) for i in range(4)]),
    }
    for schedule, expected in schedules.values():
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
        multiplier = host.LRMultiplier(optimizer, schedule, max_iter=4)
        seen = []
        for _ in range(4):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            multiplier.step()
        multiplier.step()
        np.testing.assert_allclose(seen, 2 * np.array(expected), rtol=1e-6)
        assert set(multiplier.state_dict()) == {"base_lrs", "last_epoch"}


def test_warmup_climbs_to_the_schedule(host):
    schedule = host.WarmupParamScheduler(CosineParamScheduler(1.0, 0.0), 0.1, 0.5)
    half = CosineParamScheduler(1.0, 0.0)(0.5)
    assert schedule(0.0) == pytest.approx(0.1)
    assert schedule(0.25) == pytest.approx((0.1 + half) / 2)
    assert schedule(0.75) == pytest.approx(CosineParamScheduler(1.0, 0.0)(0.75))
    assert host.WarmupParamScheduler(StepParamScheduler(2, [1.0]), 0.1, 3.0)(0.5) == pytest.approx(0.55, abs=1e-4)


def test_default_optimizer_params(host):
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    model[2].bias.requires_grad = False
    groups = host.get_default_optimizer_params(
        model, base_lr=1.0, weight_decay=0.1, weight_decay_norm=0.0,
        lr_factor_func=lambda name: 0.5 if name.startswith("0.") else 1.0, overrides={"bias": {"weight_decay": 0.3}},
    )  # fmt: skip
    found = {}
    for group in groups:
        for parameter in group["params"]:
            assert parameter not in found
            found[parameter] = (group["lr"], group["weight_decay"])
    expected = {
        model[0].weight: (0.5, 0.1),
        model[0].bias: (0.5, 0.3),
        model[1].weight: (1.0, 0.0),
        model[1].bias: (1.0, 0.3),
    }
    assert found == expected
    torch.optim.AdamW(groups)


# ---- the whole of it, chosen by the environment

_TRAINING = """
    import json, sys, torch
    from detrex_ext import runtime
    from detrex_ext.runtime import (
        EvalHook, IterationTimer, LRScheduler, PeriodicWriter, TrainerBase, default_writers, get_event_storage,
        setup_logger,
    )
    from fvcore.common.param_scheduler import ConstantParamScheduler

    class Trainer(TrainerBase):
        def run_step(self):
            get_event_storage().put_scalar("total_loss", float(self.iter))

    out = sys.argv[1]
    setup_logger(out, name="detrex_ext")
    trainer = Trainer()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    trainer.register_hooks([
        IterationTimer(), LRScheduler(optimizer, ConstantParamScheduler(1.0)),
        PeriodicWriter(default_writers(out, 10), period=5),
        EvalHook(4, lambda: {"bbox": {"AP": float("nan") if trainer.iter < 4 else 50.0}}),
    ])
    trainer.train(0, 10)
    print(runtime.name())
"""


@pytest.mark.parametrize("name", HOSTS)
def test_a_training_writes_the_same_files_on_every_host(name, tmp_path):
    env = {**os.environ, "DETREX_EXT_RUNTIME": name, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_TRAINING), str(tmp_path)],
        env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == name
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [3, 4, 7, 9, 10]
    assert lines[0] == {"iteration": 3, "bbox/AP": None} and lines[-1]["bbox/AP"] == 50.0
    assert lines[1]["total_loss"] == 2.0 and lines[1]["lr"] == 0.5 and "eta_seconds" in lines[1]
    log = (tmp_path / "log.txt").read_text()
    assert "iter: 9  total_loss: 4.5" in log and "Overall training speed: 8 iterations in 0:00:00" in log


def test_a_forced_host_that_is_missing_or_unknown_is_one_message():
    from detrex_ext.errors import UserError
    from detrex_ext.runtime import _choose

    with pytest.raises(UserError, match="standalone' or 'detectron2"):
        _choose("detectron3")
    if "detectron2" not in HOSTS:
        with pytest.raises(UserError, match="install detectron2"):
            _choose("detectron2")
