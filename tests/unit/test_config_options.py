"""Declared options: what a config may not hold, how it is said, and the page that is written from the declarations."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from detrex_ext import engine
from detrex_ext.config import build, load_config, shipped_configs
from detrex_ext.config.options import check_options
from detrex_ext.config.options_docs import ROOMS, meanings_of, text
from detrex_ext.config.options_keys import KEYS
from detrex_ext.config.options_targets import arguments
from detrex_ext.config.options_types import is_numeric
from detrex_ext.errors import UserError
from detrex_ext.inference import build_for_inference
from detrex_ext.runtime import LazyCall as L
from detrex_ext.runtime import get_default_optimizer_params
from detrex_ext.runtime.standalone.calls import locate

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("small", "detr_r50_300ep", "dab_detr_r50_50ep", "deformable_detr_r50_two_stage_50ep", "dino_r50_4scale_12ep",
         "adamixer_r50_12ep")  # fmt: skip
SIGMOID = ("mal", "stable", "high_order")  # refused by a softmax
# all but the one that is for configs of detrex
OVERLAYS = sorted({path.stem for path in (ROOT / "configs" / "overlays").glob("*.py")} - {"from_detrex"})

REFUSED = [
    ("train.clip_grad.params.max_norm=-1", "max_norm=-1.0: expected at least 0.*would do: .*max_norm=0"),
    ("train.checkpointer.max_to_keep=-1", "max_to_keep=-1: expected at least 0 .files.*would do: .*max_to_keep=0"),
    ("model.postprocess.top_k=0", "top_k=0: expected at least 1.*would do: model.postprocess.top_k=1"),
    ("train.model_ema.decay=5", "decay=5.0: expected at least 0 and less than 1.*would do: .*decay=0.999"),
    ("train.model_ema.decay=2", "decay=2.0: expected at least 0 and less than 1"),
    ("lr_multiplier.warmup_iters=-5", "warmup_iters=-5: expected at least 0 .iterations.*warmup_iters=0"),
    ("model.queries.source.num_queries=0", "num_queries=0: expected at least 1.*num_queries=1"),
    ("dataloader.train.max_unreadable=-1", "max_unreadable=-1: expected at least 0 .images.*max_unreadable=0"),
    ("train.log_period=null", "log_period=null: expected a whole number, at least 1 .iterations., found null.*=20"),
    ("train.device=null", "train.device=null: expected a text, found null.*would do: train.device=cuda"),
    ("optimizer.lr=null", "optimizer.lr=null: expected a number, more than 0 .*, found null"),
    ("optimizer=null", "optimizer=null: expected a section, found null"),
    ("model=null", "model=null: expected a section, found null"),
    ("lr_multiplier=null", "lr_multiplier=null: expected a section, found null"),
    ("dataset.short_edge=auto", "dataset.short_edge.*expected.*whole number|dataset.short_edge.*int"),
    ("train.seed=12345678901234567890", "seed=12345678901234567890: expected at most 9,223,372,036,854,775,807"),
    ("dataloader.train.total_batch_size=1000000000000", "total_batch_size=1000000000000: expected at most 65,536"),
    ("+model.backbone.freeze_at=2", "backbone.freeze_at: BasicResNet has no option 'freeze_at'.*it has: stem, widths"),
    ("+model.backbone.out_feature=2", "no option 'out_feature'.*did you mean out_features"),
    ("dataloader.train.mapper.augmentation.1.prob=2", "augmentation.1.prob=2.0: expected at least 0 and at most 1"),
    ("optimizer.lr=-1", "optimizer.lr=-1.0: expected more than 0"),
    ("optimizer.lr=0", "optimizer.lr=0.0: expected more than 0"),
    ("optimizer.lr=nan", "optimizer.lr=nan: expected a finite number"),
    ("optimizer.weight_decay=inf", "weight_decay=inf: expected a finite number"),
    ("optimizer.betas=[0.9]", r"betas=\[0.9\]: expected 2 entries, found 1"),
    ("optimizer.betas=[0.9,1]", r"betas=\[0.9, 1\]: expected at least 0 and less than 1, each"),
    ("dataloader.train.num_workers=1000000", "expected at least 0 and at most 512 .processes.*num_workers=512$"),
    ("dataset.short_edge=-320", "dataset.short_edge=-320: expected at least 1 .pixels"),
    ("dataset.short_edge=300", "dataset.short_edge=300: expected at most dataset.long_edge, which is 256"),
    ("model.decoder.dropout=1", "dropout=1.0: expected at least 0 and less than 1.*would do: .*dropout=0.1"),
    ("model.decoder.num_layers=0", "num_layers=0: expected at least 1"),
    ("model.decoder.position=references", "position=references: expected one of given, reference.*position=reference$"),
    ("model.backbone.out_features=[res3,res6]", "out_features=.*: expected some of res2, res3, res4, res5"),
    ("model.backbone._target_=nowhere.Net", "_target_=nowhere.Net: expected the dotted name of a class or function; "),
    ("model.rules.main.terms.giou.weight=-2", "giou.weight=-2.0: expected at least 0"),
    ("++model.rules.main.matcher=best", "matcher=best: expected a part .a section with _target_., found the text best"),
    ("++train.amp=true", "train.amp=true: expected a section, found true$"),
    ("++model.decoder.refine=1", "refine=1: expected true or false, found 1"),
    ("++train.max_iter=90.0", "max_iter=90.0: expected a whole number.*would do: train.max_iter=90$"),
    ("dataloader.train.mapper.is_train=false", "is_train=false: expected one of true, found false"),
    ("train.model_ema.device=disk", "device=disk: expected where the average is kept: cpu"),
]  # fmt: skip

TAKEN = [
    "train.clip_grad.params.max_norm=0",
    "train.clip_grad.params.max_norm=1",
    "train.clip_grad.params.norm_type=inf",
    "train.clip_grad.params.norm_type=1.5",
    "train.checkpointer.max_to_keep=0",
    "train.checkpointer.max_to_keep=null",
    "train.seed=9223372036854775807",
    "train.seed=-5",
    "train.init_checkpoint=null",
    "model.postprocess.top_k=null",
    "model.postprocess.nms=1",
    "model.neck.norm=null",
    "model.num_classes=3",
    "model.queries.groups=0",
    "dataset.val_json=null",
    "dataset.long_edge=null",
    "dataloader.train.mapper.augmentation.0.short_edge_length=[100,200]",
    "dataloader.train.mapper.augmentation_with_crop=[]",
    "optimizer.params.weight_decay_norm=null",
    "optimizer.fused=null",
    "+train.my_own=whatever",
    "+train.clip_grad.params.error_if_nonfinite=true",
]


@functools.cache
def shipped(name: str) -> DictConfig:
    return load_config(name)


@pytest.mark.parametrize("override, message", REFUSED)
def test_values_that_cannot_be_meant_are_refused(override, message):
    with pytest.raises(UserError) as error:
        load_config("small", overrides=[override])
    assert re.search(message, str(error.value), re.S), str(error.value)
    assert "options of the config" not in str(error.value), "one mistake, one message"


@pytest.mark.parametrize("override", TAKEN)
def test_values_that_can_be_meant_are_taken(override):
    key, _, text = override.lstrip("+").partition("=")
    cfg = load_config("small", overrides=[override])
    assert OmegaConf.select(cfg, key) == yaml.safe_load(text.replace("inf", ".inf"))


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_shipped_config_passes(name):
    check_options(shipped(name))


@pytest.mark.parametrize(
    "host", [host if host[:4] in ("dino", "detr") else pytest.param(host, marks=pytest.mark.slow) for host in HOSTS]
)
def test_every_overlay_passes_over_every_host_that_takes_it(host):
    laid = []
    for overlay in OVERLAYS:
        try:
            laid.append(load_config(host, [overlay]))
        except UserError as error:
            reason = "for hosts with a sigmoid" if overlay in SIGMOID else "needs a two-stage host"
            assert overlay in (*SIGMOID, "deta", "fcos_rule", "roi_rule") and reason in str(error)
            assert overlay not in SIGMOID or host.startswith("detr_")
    assert len(laid) >= len(OVERLAYS) - 6
    for cfg in laid:
        check_options(cfg)


def test_all_mistakes_are_told_at_once_by_the_key_that_a_person_changes():
    wrong = ["dataset.short_edge=0", "train.max_iter=0", "model.decoder.dropout=2", "optimizer.lr=-1"]
    with pytest.raises(UserError) as error:
        load_config("small", overrides=wrong)
    lines = str(error.value).splitlines()
    assert lines[0] == "4 options of the config cannot be used" and len(lines) == 9
    assert {line.split("=")[0].strip() for line in lines[1::2]} == {line.split("=")[0] for line in wrong}
    assert all("would do: " in line for line in lines[2::2])


def test_a_config_of_python_is_checked_before_a_training_and_an_evaluation(tmp_path):
    cfg = load_config("small", overrides=[f"train.output_dir={tmp_path / 'run'}"])
    cfg.train.model_ema.decay = 5
    for start in (engine.train, engine.evaluate):
        with pytest.raises(UserError, match="train.model_ema.decay=5: expected at least 0 and less than 1"):
            start(cfg)
    assert not (tmp_path / "run").exists()
    cfg.model.decoder.num_layers = 0
    with pytest.raises(UserError, match="model.decoder.num_layers=0"):
        build_for_inference(cfg, 3)


class Strange(torch.nn.Module):
    """A part from elsewhere: what its arguments mean is its own affair."""

    def __init__(self, dropout: int = None, top_k: float = 0, **options):  # noqa: RUF013
        super().__init__()
        self.options = options


class Strict(torch.nn.Module):
    def __init__(self, width=3):
        super().__init__()


def test_parts_of_others_are_held_to_the_names_of_their_arguments_only():
    cfg = load_config("small")
    cfg.model.backbone = L(Strange)(dropout=7.5, top_k=None, anything="goes")
    check_options(cfg)
    cfg.model.backbone = L(Strict)(widht=3)
    with pytest.raises(UserError, match=r"backbone.widht: Strict has no option 'widht'\n  did you mean width\?"):
        check_options(cfg)


def test_a_part_that_takes_nothing_says_so():
    with pytest.raises(UserError, match=r"FlattenEncoder has no option 'dim'\n  it has: none"):
        load_config("small", overrides=["+model.encoder.dim=3"])


def test_what_a_constructor_needs_must_be_there():
    cfg = load_config("small")
    del cfg.model.neck.in_channels
    with pytest.raises(UserError, match="model.neck.in_channels: PAFPN needs it, and nothing is given"):
        check_options(cfg)


def test_the_check_is_quick_and_imports_nothing():
    cfg = load_config("dino_r50_4scale_12ep")
    taken = []
    for _ in range(5):
        start = time.process_time()
        check_options(cfg)
        taken.append(time.process_time() - start)
    assert min(taken) < 0.05
    program = (
        "import sys\n"
        "from detrex_ext.config import LazyConfig\n"
        "from detrex_ext.config.options import check_options\n"
        "check_options(LazyConfig.load('tests/data/before/dino_r50_4scale_12ep.yaml'), ('model',))\n"
        "parts = {name.split('.')[1] for name in sys.modules if name.startswith('detrex_ext.')}\n"
        "print(sorted(parts & {'engine', 'data', 'evaluation', 'analysis', 'cli', 'benchmark'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_clipping_is_said():
    clip = OmegaConf.create({"enabled": True, "params": {"max_norm": 0, "norm_type": 2}})
    assert engine.optim.clipping(clip) is None
    clip.params.max_norm = 0.1
    assert engine.optim.clipping(clip) == {"max_norm": 0.1, "norm_type": 2}
    clip.enabled = False
    assert engine.optim.clipping(clip) is None


def test_the_page_is_what_the_declarations_say():
    written = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert written == text(), "python -m detrex_ext.config.options_docs > docs/config.md"


TARGETS = {f"{package}.{name}": locate(f"{package}.{name}") for _, package, names in ROOMS for name in names.split()}


def test_the_page_has_every_constructor_of_a_shipped_config():
    known = {*TARGETS.values(), get_default_optimizer_params}

    def targets(node):
        if OmegaConf.is_config(node):
            if OmegaConf.is_dict(node) and "_target_" in node:
                target = node["_target_"]
                yield locate(target) if isinstance(target, str) else target
            for child in node.values() if OmegaConf.is_dict(node) else node:
                yield from targets(child)

    configs = [shipped(name) for name in shipped_configs()]
    configs += [load_config("dino_r50_4scale_12ep", [overlay]) for overlay in OVERLAYS]
    used = {target for cfg in configs for target in targets(cfg)}
    assert not {target for target in used - known if target is not dict}


def test_every_key_of_a_training_is_declared():
    cfg = load_config("quickstart")

    def keys(node, prefix):
        for name, child in node.items():
            yield from keys(child, f"{prefix}.{name}") if OmegaConf.is_dict(child) else [f"{prefix}.{name}"]

    undeclared = {*keys(cfg.train, "train"), *keys(cfg.dataset, "dataset")} - set(KEYS)
    assert not undeclared


@pytest.mark.parametrize("name", sorted(name for name in TARGETS if name.startswith("detrex_ext.")))
def test_every_number_has_a_range_and_every_argument_a_meaning(name):
    meanings = meanings_of(TARGETS[name])
    for argument, known in arguments(TARGETS[name])[0].items():
        option = known.option
        if is_numeric(known.kind):
            low, high = (option.least, option.above), (option.most, option.below)
            assert set(low) != {None} and set(high) != {None}, f"{name}: {argument} has no range"
        assert meanings.get(argument) or option.meaning, f"{name}: nobody says what {argument} means"


def test_declared_defaults_are_in_their_own_ranges():
    for target in TARGETS.values():
        plain = (bool, int, float, str, tuple)
        node = L(target)(**{n: a.default for n, a in arguments(target)[0].items() if isinstance(a.default, plain)})
        try:
            check_options(OmegaConf.create({"x": node}, flags={"allow_objects": True}))
        except UserError as error:
            assert "nothing is given" in str(error) and ": expected" not in str(error), str(error)


def test_a_schedule_that_cannot_be_is_one_message():
    cfg = load_config("dino_r50_4scale_12ep", overrides=["lr_multiplier.scheduler.milestones=[20,30]",
                                                       "lr_multiplier.scheduler.end=10"])  # fmt: skip
    with pytest.raises(UserError, match="lr_multiplier cannot be built: Milestone must be smaller"):
        build(cfg.lr_multiplier, "lr_multiplier")


def test_a_class_of_an_overlay_has_ranges_of_its_own(tmp_path):
    overlay = tmp_path / "mine.py"
    overlay.write_text(
        "from detrex_ext.runtime import LazyCall as L\n"
        "class Part:\n    def __init__(self, beta: int = 0.05, k=0):\n        pass\n"
        "def apply(cfg):\n    cfg.model.strategies.part = L(Part)(beta=0.05)\n    return cfg\n"
    )
    assert load_config("small", [overlay]).model.strategies.part.beta == 0.05


def test_a_module_that_breaks_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_part.py").write_text("import nowhere_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="nowhere_at_all"):
        load_config("small", (), ["model.backbone._target_=broken_part.Net"])
