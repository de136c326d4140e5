"""Config files: how they are run, found, laid over, overridden, saved, and what a mistake in them says."""

from __future__ import annotations

import builtins
import textwrap
from types import SimpleNamespace

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from detrex_ext import config
from detrex_ext.config import find_config, find_overlay, get_config, load_config, save_config
from detrex_ext.errors import UserError
from detrex_ext.runtime import LazyCall as L
from detrex_ext.runtime import LazyConfig, instantiate


@pytest.fixture
def files(tmp_path):
    """Write config files: name -> text."""

    def write(**texts):
        for name, text in texts.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return tmp_path

    return write


# ---- running config files


def test_relative_imports_go_by_path_and_run_the_file_anew(files):
    folder = files(
        common__base="shared = dict(a=[1, 2])\nnumbers = [1]\ndef double(x):\n    return 2 * x\n",
        deep__er__cfg="""
            from ...common.base import shared, numbers, double
            shared.a[0] = 9
            from ...common.base import shared as fresh
            out = dict(numbers=numbers, doubled=double(4))
        """,
    )
    cfg = LazyConfig.load(str(folder / "deep/er/cfg.py"))
    assert cfg == {"shared": {"a": [9, 2]}, "fresh": {"a": [1, 2]}, "out": {"numbers": [1], "doubled": 8}}


def test_keys_choose_values_of_any_type(files):
    folder = files(cfg="a = dict(x=1)\nb = 3\ndef f():\n    return b\n_hidden = dict()\n")
    path = str(folder / "cfg.py")
    a, b = LazyConfig.load(path, ["a", "b"])
    assert isinstance(a, DictConfig) and b == 3
    assert LazyConfig.load(path, "f")() == 3
    assert set(LazyConfig.load(path)) == {"a"}
    with pytest.raises(KeyError):
        LazyConfig.load(path, "c")


def test_load_rel_is_relative_to_the_caller(files):
    folder = files(cfg="a = dict(x=1)\n")
    caller = folder / "caller.py"
    caller.write_text("from detrex_ext.runtime import LazyConfig\nfound = LazyConfig.load_rel('cfg.py', 'a')\n")
    namespace = {}
    exec(compile(caller.read_text(), str(caller), "exec"), namespace)
    assert namespace["found"].x == 1


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("from . import other\n", ImportError, "relative import"),
        ("from .nothing import x\n", ImportError, "does not exist"),
        ("from .other import nothing\n", ImportError, "nothing"),
        ("from .cfg import x\n", ImportError, "circle"),
        ("x = (\n", SyntaxError, "cfg.py"),
        ("x = 1 / 0\n", ZeroDivisionError, "division"),
    ],
)
def test_failures_leave_no_import_patch_behind(files, text, error, message):
    folder = files(cfg=text, other="x = dict(a=1)\n")
    before = builtins.__import__
    with pytest.raises(error, match=message) as caught:
        LazyConfig.load(str(folder / "cfg.py"))
    assert builtins.__import__ is before
    assert caught.value is not None
    assert LazyConfig.load(str(folder / "other.py")) == {"x": {"a": 1}}


def test_star_import_brings_the_public_names(files):
    folder = files(cfg="from .other import *\n", other="x = dict(a=1)\n_y = dict()\n")
    assert LazyConfig.load(str(folder / "cfg.py")) == {"x": {"a": 1}}


def test_other_extensions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must end with"):
        LazyConfig.load(str(tmp_path / "cfg.json"))


# ---- saving


def test_saved_configs_read_back_as_they_were(tmp_path):
    cfg = OmegaConf.create({"model": L(torch.nn.Linear)(in_features="${n}", out_features=2), "n": 3, "lr": 1e-5})
    save_config(cfg, tmp_path / "c.yaml")
    again = load_config(tmp_path / "c.yaml")
    assert again.lr == 1e-5 and again.model.in_features == 3
    assert instantiate(again.model).weight.shape == (2, 3)
    assert cfg.model._target_ is torch.nn.Linear
    again.n = 4
    assert again.model.in_features == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.yaml"]


def test_strategies_keep_their_order_in_text():
    cfg = load_config("small", ["sqr", "dac"])
    again = LazyConfig.loads(LazyConfig.dumps(cfg))
    assert list(config.parts(again.model.strategies)) == ["sqr", "dac"]


def test_a_dataclass_is_saved_as_the_call_that_makes_it(tmp_path):
    from detrex_ext.runtime import ShapeSpec

    cfg = OmegaConf.create({"a": L(SimpleNamespace)(spec=ShapeSpec(channels=3))}, flags={"allow_objects": True})
    save_config(cfg, tmp_path / "c.yaml")
    again = load_config(tmp_path / "c.yaml")
    assert instantiate(again.a).spec == instantiate(cfg.a).spec == ShapeSpec(channels=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.yaml"]


@pytest.mark.parametrize("where", ["_target_", "factor"])
def test_what_cannot_be_read_again_is_said_and_pickled(files, where, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("detrex_ext"), "propagate", True)
    folder = files(cfg="def local(x=1):\n    return x\n")
    local = LazyConfig.load(str(folder / "cfg.py"), "local")
    node = OmegaConf.create({"a": {where: local}}, flags={"allow_objects": True})
    save_config(node, folder / "c.yaml")
    assert "local" in (folder / "c.yaml").read_text()
    assert (folder / "c.yaml.pkl").exists() and "for reading only" in caplog.text


def test_yaml_is_read_without_running_code(tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "c.yaml").write_text(f"a: !!python/object/apply:os.mkdir ['{mark}']\n")
    with pytest.raises(UserError, match="c.yaml:1: not valid YAML"):
        load_config(tmp_path / "c.yaml")
    assert not mark.exists()


# ---- messages


@pytest.mark.parametrize(
    ("text", "line", "shown", "message"),
    [
        ("x = dict()\ny = x[\n", 2, "y = x[", "SyntaxError"),
        ("x = dict()\ny = undefined + 1\n", 2, "y = undefined + 1", "NameError"),
        ("x = dict()\n\nfrom .gone import z\n", 3, "from .gone import z", "does not exist"),
        ("x = dict()\nfrom .other import gone\n", 2, "from .other import gone", "gone"),
        ("from detectron2.nothing import z\n", 1, "from detectron2.nothing import z", "No module named"),
    ],
)
def test_an_error_in_a_config_names_file_line_and_text(files, text, line, shown, message):
    path = files(cfg=text, other="y = dict()\n") / "cfg.py"
    with pytest.raises(UserError) as caught:
        load_config(path)
    said = str(caught.value)
    assert f"{path}:{line}" in said and shown in said and message in said


def test_an_error_in_an_imported_config_names_that_file(files):
    folder = files(cfg="from .base import x\n", base="x = dict()\nx.oops.y = 1\n")
    with pytest.raises(UserError) as caught:
        load_config(folder / "cfg.py")
    assert f"{folder / 'base.py'}:2" in str(caught.value) and "x.oops.y = 1" in str(caught.value)


def test_a_config_without_keys_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(UserError, match="expected a mapping"):
        load_config(tmp_path / "c.yaml")


# ---- finding


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    for name in ("configs/common/train.py", "configs/tiny.py", "projects/paper/configs/paper_r50.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("train = dict(steps=1)\n")
    overlay = tmp_path / "configs/overlays/more.py"
    overlay.parent.mkdir()
    overlay.write_text("def apply(cfg, by=10):\n    cfg.train.steps += by\n    return cfg\n")
    monkeypatch.setattr(config.files, "config_roots", lambda: (tmp_path / "configs", tmp_path / "projects"))
    return tmp_path


def test_configs_are_found_by_path_and_by_short_name(shipped, monkeypatch):
    tiny = str(shipped / "configs/tiny.py")
    for name in ("tiny", "tiny.py", "configs/tiny.py", tiny, tiny[:-3]):
        assert find_config(name) == tiny
    assert find_config("paper_r50") == str(shipped / "projects/paper/configs/paper_r50.py")
    (shipped / "run").mkdir()
    (shipped / "run/config.yaml").write_text("a: 1\n")
    assert find_config(shipped / "run") == str(shipped / "run/config.yaml")
    with pytest.raises(UserError, match="did you mean paper_r50?"):
        find_config("paper_r5")
    with pytest.raises(UserError, match="shipped: paper_r50, tiny|shipped: tiny, paper_r50"):
        find_config("")
    with pytest.raises(UserError, match="no config 'train'"):
        find_config("train")


def test_shipped_files_are_loaded_anew_each_time(shipped):
    get_config("common/train.py").train.steps = 7
    assert get_config("common/train.py").train.steps == 1
    with pytest.raises(UserError, match="did you mean common/train.py"):
        get_config("common/trian.py")


def test_overlays_apply_in_order_before_the_overrides(shipped):
    double = shipped / "double.py"
    double.write_text("def apply(cfg):\n    cfg.train.steps *= 2\n")
    assert load_config("tiny", ["more", str(double)]).train.steps == 22
    assert load_config("tiny", [str(double), "more"]).train.steps == 12
    assert load_config("tiny", [("more", {"by": 1})]).train.steps == 2
    assert load_config("tiny", ["more"], ["train.steps=5"]).train.steps == 5
    with pytest.raises(UserError, match="did you mean more"):
        find_overlay("mroe")
    double.write_text("x = 1\n")
    with pytest.raises(UserError, match="no function apply"):
        load_config("tiny", [str(double)])
    double.write_text("def apply(cfg):\n    cfg.nothing.x = 1\n")
    with pytest.raises(UserError, match="double.py:2"):
        load_config("tiny", [str(double)])


def test_the_real_folders_hold_the_shipped_configs():
    configs, projects = config.config_roots()
    assert (configs / "common").is_dir() and projects.name in ("projects", "_projects")
