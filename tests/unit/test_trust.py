"""Configs of checkpoints and run folders that would run code: each would make a file, and is refused."""

from __future__ import annotations

import sys

import pytest
from omegaconf import OmegaConf

from detrex_ext.cli import dispatch
from detrex_ext.config import LazyConfig
from detrex_ext.config.yaml_text import NameOnly
from detrex_ext.errors import UserError
from detrex_ext.inference import for_evaluation
from detrex_ext.trust import check_trusted, known_object

CALL = '{_target_: os.system, command: "touch MARK"}'
SAFE = "torch.nn.Identity"
ATTACKS = {
    "a call": f"model: {{encoder: {CALL}}}",
    "deep": f"model: {{_target_: {SAFE}, x: {{y: [{{z: {CALL}}}]}}}}",
    "a tuple": f"model: {{x: !!python/tuple [1, {CALL}]}}",
    "through a module": f"model: {CALL.replace('os.system', 'torch.nn.functional.os.system')}",
    "a function": "model: {_target_: torch.nn.functional.relu}",
    "a target of a call": f"model: {{_target_: {CALL}}}",
    "a value": f"model: {{_target_: {SAFE}, norm_layer: !!python/name:os.system }}",
    "a value in a list": f"model: {{_target_: {SAFE}, x: [1, !!python/name:os.system ]}}",
    "the target as a value": 'model: {_target_: !!python/name:os.system , command: "touch MARK"}',
    "a program": "model: {_target_: detrex_ext.__main__.dispatch}",
    "a program as a value": f"model: {{_target_: {SAFE}, x: !!python/name:torch.utils.bottleneck.__main__.main }}",
    "elsewhere": f"model: {{encoder: '${{dataset.x}}'}}\ndataset: {{x: {CALL}}}",
    "elsewhere by steps": f"model: {{encoder: '${{a.b}}'}}\na: '${{c}}'\nc: {{b: '${{d}}'}}\nd: {CALL}",
    "all of it elsewhere": f"model: '${{dataset.x}}'\ndataset: {{x: {CALL}}}",
    "what is removed later": (
        'model: {strategies: {z: torch.nn.Identity}, encoder: {_target_: "${oc.select:model.strategies.z,os.system}"}}'
    ),
    "the key is removed later": (
        f'model: {{rules: {{z: 1}}, encoder: "${{oc.select:model.rules.z,${{dataset.x}}}}"}}\ndataset: {{x: {CALL}}}'
    ),
    "what is set later": (
        f"model: {{num_classes: null, encoder: '${{t.${{model.num_classes}}}}'}}\nt: {{None: 1, '4': {CALL}}}"
    ),
    "the whole model by a resolver": f"model: '${{oc.select:model.strategies,${{x}}}}'\nx: {CALL}",
    "escaped": r"model: {x: ['\${oc.create:y}']}",
    "a made name": "model: {_target_: '${a}.${b}'}\na: os\nb: system",
    "of data": f"model: {{}}\ndataloader: {{test: {{dataset: {CALL}}}}}",
    "of data by a reference": f"model: {{}}\ndataloader: '${{x}}'\nx: {{test: {{mapper: {{augmentation: [{CALL}]}}}}}}",
    "where nothing is called": f"model: {{}}\ndataset: {{x: {CALL}}}\ntrain: {{}}",
}


def _read(text, tmp_path):
    return LazyConfig.loads(text.replace("MARK", str(tmp_path / "mark")), known_object)


def test_nothing_of_torch_but_its_modules_is_imported():
    assert "torch.utils.bottleneck" not in sys.modules and "antigravity" not in sys.modules
    for name in ("torch.utils.bottleneck", "torch.utils.bottleneck.__main__", "antigravity", "detrex_ext.__main__"):
        assert known_object(f"{name}.x") == NameOnly(f"{name}.x")
    assert "torch.utils.bottleneck" not in sys.modules and "antigravity" not in sys.modules
    assert known_object("torch.nn.ReLU").__name__ == "ReLU"


@pytest.mark.parametrize("name", ATTACKS)
def test_what_runs_code_is_refused(name, tmp_path):
    cfg = _read(ATTACKS[name], tmp_path)
    with pytest.raises(UserError, match="x.pth: its config (would|cannot)|cannot be imported"):
        for_evaluation(cfg, "x.pth")
    if name not in ("of data", "where nothing is called"):
        with pytest.raises(UserError, match="--trust|cannot be"):
            check_trusted(cfg, "x.pth")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "text",
    [
        f"model: {{_target_: {SAFE}, dim: 8, x: '${{model.dim}}', y: '${{.z}}', z: 1}}",
        f"model: {{_target_: {SAFE}, act: !!python/name:torch.nn.ReLU , path: '${{oc.env:HOME}}/x'}}",
        f"model: {{_target_: {SAFE}, encoder: '${{other.part}}'}}\nother: {{part: {{_target_: torch.nn.ReLU}}}}",
        f"model: {{_target_: {SAFE}, rules: {CALL}, strategies: {{a: {CALL}}}}}",
        f"model: {{_target_: {SAFE}}}\noptimizer: {{f: !!python/name:nowhere.f }}",
    ],
)
def test_parts_references_and_what_is_not_built_are_taken(text, tmp_path):
    cfg = _read(text, tmp_path)
    check_trusted(cfg, "x.pth")
    kept = for_evaluation(cfg, "x.pth") if "${" not in text else None
    assert kept is None or not (kept.model.get("rules") or kept.model.get("strategies"))


def test_names_are_not_imported_and_come_through_a_copy(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nf = print")
    monkeypatch.syspath_prepend(tmp_path)
    text = "model: {act: !!python/name:torch.nn.ReLU }\noptimizer: {f: !!python/name:stranger.f }\n"
    cfg = LazyConfig.loads(text, known_object)
    assert cfg.optimizer.f == NameOnly("stranger.f") and cfg.model.act.__name__ == "ReLU"
    assert not (tmp_path / "mark").exists()
    again = LazyConfig.loads(LazyConfig.dumps(cfg), known_object)
    assert again == cfg
    assert LazyConfig.loads(LazyConfig.dumps(cfg)).optimizer.f is print and (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "verb",
    [
        ["analyze", "model", "RUN"],
        ["analyze", "stages", "RUN"],
        ["analyze", "queries-per-object", "RUN"],
        ["analyze", "attention-sparsity", "RUN"],
        ["analyze", "matching-stability", "RUN"],
        ["analyze", "attention", "RUN", "RUN/a.png"],
        ["convert", "RUN", "RUN/out.pth", "--config-file", "RUN"],
    ],
    ids=lambda v: " ".join(v[:2]),
)
def test_a_run_folder_runs_nothing_unless_it_is_trusted(verb, tmp_path, capsys, monkeypatch):
    (tmp_path / "foreign.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nclass Part: pass")
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    cfg = OmegaConf.create({"train": {"output_dir": str(run), "init_checkpoint": ""}, "dataset": {}})
    cfg.model = {"_target_": "foreign.Part"}
    (run / "config.yaml").write_text(LazyConfig.dumps(cfg))
    monkeypatch.delitem(sys.modules, "foreign", raising=False)
    arguments = [word.replace("RUN", str(run)) for word in verb]
    assert dispatch(arguments) == 2
    assert "would call 'foreign.Part'" in capsys.readouterr().err
    assert not (tmp_path / "mark").exists()
    assert dispatch([*arguments, "--trust"]) == 2  # it is looked at, and is no model
    assert (tmp_path / "mark").exists()
