"""Flags, launching, logging and the set-up of a run."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from detrex_ext.cli.arguments import default_argument_parser
from detrex_ext.engine import collect_env_info, default_setup, launch, launching, ranks, setup_logger
from detrex_ext.engine.start import logged_later
from detrex_ext.errors import UserError
from detrex_ext.layers import cpu
from detrex_ext.runtime import comm, devices

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def logging_as_before():
    names = ("detrex_ext", "fvcore", "detectron2", "detrex_ext_test")
    loggers = [logging.getLogger(name) for name in names]
    before = [(list(x.handlers), x.level, x.propagate) for x in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        for handler in logger.handlers:
            if handler not in handlers:
                handler.close()
        logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate


# ---- flags


def test_flags_and_overrides_come_in_any_order():
    parse = default_argument_parser().parse_args
    args = parse("a.b=1 --resume c=-2 --overlay sqr,dac --num-gpus 2 +d=1 --overlay x --config-file f.py".split())
    assert args.opts == ["a.b=1", "c=-2", "+d=1"] and args.overlay == ["sqr", "dac", "x"]
    assert args.resume and not args.eval_only and args.num_gpus == 2 and args.config_file == "f.py"
    bare = parse([])
    assert (bare.opts, bare.overlay, bare.num_gpus, bare.num_machines, bare.machine_rank) == ([], [], 1, 1, 0)
    assert parse([]).overlay == []


def test_an_unknown_flag_is_an_error(capsys):
    with pytest.raises(SystemExit) as caught:
        default_argument_parser().parse_args(["a=1", "--resum-it"])
    assert caught.value.code == 2 and "--resum-it" in capsys.readouterr().err


# ---- launching


def test_one_process_is_a_plain_call():
    assert launch(lambda a, b: (a, b), 1, args=(1, 2), device="cpu") == (1, 2)
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for GPUs that are not there")
@pytest.mark.parametrize(("gpus", "device"), [(2, "cuda"), (2, None), (1, "cuda")])
def test_missing_gpus_are_one_message(gpus, device):
    with pytest.raises(UserError, match=f"--num-gpus {gpus}.*no GPU") as caught:
        launch(print, gpus, device=device)
    assert "train.device=cpu" in str(caught.value)


def test_impossible_numbers_are_refused():
    with pytest.raises(UserError, match="at least one process"):
        launch(print, 0, device="cpu")
    with pytest.raises(UserError, match="0..machines-1"):
        launch(print, 1, num_machines=2, machine_rank=2, device="cpu")
    with pytest.raises(UserError, match="--dist-url tcp://"):
        launch(print, 1, num_machines=2, device="cpu")


def test_a_gpu_by_number_is_the_current_one_of_the_one_process(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert devices.own_device("cuda:1", "train.device", 1) == torch.device("cuda:1") == taken[0]
    assert devices.own_device("cuda", "train.device", 2) == torch.device("cuda") and len(taken) == 1
    with pytest.raises(UserError, match="train.device=cuda:1 with 2 processes.*\n.*train.device=cuda$"):
        devices.own_device("cuda:1", "train.device", 2)


def test_a_process_takes_its_gpu_before_it_joins_the_others(monkeypatch):
    done = []
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: done.append(backend))
    for name in ("create_local_process_group", "synchronize"):
        monkeypatch.setattr(comm, name, lambda *_: None)
    ranks.join_group("cuda", 1, 2, launching.DEFAULT_TIMEOUT)
    assert done == [1, "nccl"]


_SCRIPT = """
    import json, pathlib, sys, warnings
    import torch
    from detrex_ext.errors import UserError
    from detrex_ext.runtime import comm, create_ddp_model, launch

    def work(folder, fail):
        rank = comm.get_rank()
        out = {
            "world": comm.get_world_size(), "local": comm.get_local_rank(),
            "gathered": comm.all_gather({"rank": rank}), "to_main": comm.gather(rank),
        }
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            model = create_ddp_model(torch.nn.Linear(2, 1), broadcast_buffers=False)
        out["told"] = [str(w.message) for w in told if "broadcast_buffers" in str(w.message)]
        out["synced"] = model.broadcast_buffers
        model(torch.full((1, 2), float(rank))).sum().backward()
        out["grad"] = model.module.weight.grad.tolist()
        pathlib.Path(folder, f"{rank}.json").write_text(json.dumps(out))
        if fail and rank == 1:
            raise UserError("what\\n  what to do")
        comm.synchronize()

    if __name__ == "__main__":
        try:
            launch(work, 2, args=(sys.argv[1], sys.argv[2] == "fail"), device="cpu")
        except UserError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
"""


@pytest.mark.parametrize(("through", "end"), [("launch", "fail"), ("torchrun", "well")])
def test_two_processes(through, end, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(_SCRIPT))
    command = [sys.executable, "-W", "ignore"]
    if through == "torchrun":
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), str(tmp_path), end], capture_output=True, text=True, timeout=300, env=env
    )
    if end == "fail":
        assert (done.returncode, done.stderr) == (2, "what\n  what to do\n")
    else:
        assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["world"] == 2 and (first["local"], second["local"]) == (0, 1)
    assert first["gathered"] == second["gathered"] == [{"rank": 0}, {"rank": 1}]
    assert (first["to_main"], second["to_main"]) == ([0, 1], [])
    assert first["grad"] == second["grad"] == [[0.5, 0.5]]
    assert first["told"] == second["told"] == [] and not first["synced"]


@pytest.mark.slow
def test_two_jobs_of_one_user_go_on_beside_each_other(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(_SCRIPT))
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(script)]
    jobs = [subprocess.Popen([*command, str(folder), "well"], env=env) for folder in folders]
    try:
        assert [job.wait(300) for job in jobs] == [0, 0]
    finally:
        for job in jobs:
            job.kill()
    for folder in folders:
        assert [json.loads((folder / f"{rank}.json").read_text())["world"] for rank in (0, 1)] == [2, 2]


# ---- logging


def test_files_get_the_contract_form_and_handlers_are_replaced(tmp_path, capsys):
    name = "detrex_ext_test"
    setup_logger(str(tmp_path / "one"), name=name)
    logger = setup_logger(str(tmp_path / "one"), name=name)
    assert len(logger.handlers) == 2
    logging.getLogger(f"{name}.part").info("first")
    setup_logger(str(tmp_path / "two"), name=name)
    logger.warning("second")
    assert len(logger.handlers) == 2
    one, two = ((tmp_path / d / "log.txt").read_text() for d in ("one", "two"))
    assert one.endswith(f"] {name}.part INFO: first\n") and one.startswith("[") and "second" not in one
    assert two.endswith(f"] {name} WARNING: second\n")
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and out[0].endswith(f" {name}.part]: first") and "WARNING" in out[1]


def test_other_ranks_log_to_their_own_file_only(tmp_path, capsys):
    setup_logger(str(tmp_path / "run.txt"), distributed_rank=3, name="detrex_ext_test").info("hello")
    assert "hello" in (tmp_path / "run.txt.rank3").read_text() and capsys.readouterr().out == ""


def test_detectron2_is_abbreviated(capsys):
    logging.getLogger("detectron2").setLevel(logging.INFO)
    setup_logger().info("x")
    assert " d2]: x" in capsys.readouterr().out


# ---- set-up


class OldConfig(dict):
    """As detectron2's yacs configs are: a mapping that omegaconf does not take."""

    __getattr__ = dict.__getitem__


def test_a_config_of_another_kind_gives_its_folder_and_a_random_seed(tmp_path):
    cfg = OldConfig(OUTPUT_DIR=str(tmp_path / "run"), MODEL=OldConfig(DEVICE="cpu"))
    assert default_setup(cfg, {}) >= 0
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["log.txt"]


def test_set_up_writes_log_and_config_and_seeds(tmp_path):
    cfg = OmegaConf.create({"train": {"output_dir": str(tmp_path / "out"), "seed": 3}})
    args = default_argument_parser().parse_args([])
    environment = dict(os.environ)
    assert default_setup(cfg, args) == 3
    assert dict(os.environ) == environment  # a hash seed would come too late for this process
    first = (torch.rand(1).item(), np.random.rand(), random.random())
    assert default_setup(cfg, {}) == 3
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == first
    assert OmegaConf.load(tmp_path / "out/config.yaml").train.seed == 3
    log = (tmp_path / "out/log.txt").read_text()
    assert "Rank of current process: 0. World size: 1" in log and "runtime" in log
    cfg.train.seed = -1
    assert default_setup(cfg, args) != default_setup(cfg, args)


def test_environment_table_names_runtime_and_versions():
    from detrex_ext import runtime

    table = collect_env_info()
    assert torch.__version__ in table and runtime.name() in table


@pytest.mark.parametrize("on", [True, False])
def test_environment_table_says_whether_kernels_are_on(on):
    with cpu.switched(on):
        (row,) = [line for line in collect_env_info().splitlines() if line.startswith("CPU kernels")]
    assert row.split()[2] == ("on" if on else "off")


@pytest.mark.parametrize("typed", ["sqr, dac", ",sqr", "sqr,,dac", "sqr,"])
def test_a_blank_between_overlays_is_told(typed, capsys):
    with pytest.raises(SystemExit):
        default_argument_parser().parse_args(["--overlay", *typed.split()])
    assert "names are written without blanks, as sqr,dac" in capsys.readouterr().err


@pytest.mark.parametrize("again", [False, True], ids=["first", "second in one process"])
def test_what_is_warned_of_before_there_is_a_log_reaches_it_and_the_console_once(tmp_path, capsys, monkeypatch, again):
    logger = logging.getLogger("detrex_ext")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)
    if again:
        setup_logger(str(tmp_path / "before"), name="detrex_ext")
        capsys.readouterr()
    with logged_later():
        logging.getLogger("detrex_ext.checkpoint").warning("skipped: %s", "model_1.pth")
        setup_logger(str(tmp_path), name="detrex_ext")
        logging.getLogger("detrex_ext.engine").warning("told")
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("skipped: model_1.pth") == 1
    text = (tmp_path / "log.txt").read_text()
    assert text.count("detrex_ext.checkpoint WARNING: skipped: model_1.pth") == text.count("told") == 1
    with pytest.raises(UserError), logged_later():
        raise UserError("no checkpoint can be read")
    assert [type(handler).__name__ for handler in logger.handlers].count("_Early") == 0


def test_buffers_over_processes_by_the_name_that_torch_has(monkeypatch):
    from detrex_ext.runtime.standalone import comm as own

    for new, known in ((True, "forward_sync_buffers"), (False, "broadcast_buffers")):
        class DDP:
            def __init__(self, module, broadcast_buffers=None, **_):
                pass

        if new:
            DDP.__init__ = lambda self, module, broadcast_buffers=None, forward_sync_buffers=None: None
        monkeypatch.setattr(own, "DistributedDataParallel", DDP)
        given = {"broadcast_buffers": False, "bucket_cap_mb": None}
        assert own.ddp_arguments(given) == {known: False, "bucket_cap_mb": None} and len(given) == 2
        assert own.ddp_arguments({}) == {}
