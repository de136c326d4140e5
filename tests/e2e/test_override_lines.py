"""No override ends in a traceback, hangs, or gives a value that cannot be meant: `train` up to its first step."""

from __future__ import annotations

import pytest
import torch
import training
from override_lines import HOSTS, VALUES, Start, lines, shown

# what any text, and any sign, may be given to
NAMES = ("train.output_dir",)
MEANT = {
    ("train.seed", "1000000000000"), ("dataloader.train.seed", "1000000000000"),
    ("train.clip_grad.params.norm_type", "inf"),
}  # fmt: skip
SIGNED = ("seed", "first_size_logit", "offset")
ABSURD = {"1000000000000", "100000000000000000000", "nan", "inf", "y" * 5000}

NAMED = [
    ("train.clip_grad.params.max_norm=-1", "max_norm=-1.0: expected at least 0"),
    ("train.checkpointer.max_to_keep=-1", "max_to_keep=-1: expected at least 0"),
    ("model.postprocess.top_k=0", "top_k=0: expected at least 1"),
    ("train.model_ema.decay=5", "decay=5.0: expected"),
    ("train.best_checkpoint.metric=nope", "metric=nope: the evaluation gives no such metric"),
    ("lr_multiplier.warmup_iters=-5", "warmup_iters=-5: expected at least 0"),
    ("model.queries.source.num_queries=0", "num_queries=0: expected at least 1"),
    ("dataloader.train.max_unreadable=-1", "max_unreadable=-1: expected at least 0"),
    ("train.log_period=null", "train.log_period=null: expected a whole number"),
    ("train.device=null", "train.device=null: expected a text"),
    ("optimizer.lr=null", "optimizer.lr=null: expected a number"),
    ("optimizer=null", "optimizer=null: expected a section"),
    ("model=null", "model=null: expected a section"),
    ("lr_multiplier=null", "lr_multiplier=null: expected a section"),
    ("dataset.short_edge=auto", "dataset.short_edge (override 21 of 21): expected int, found str 'auto'"),
    ("train.seed=12345678901234567890", "expected at most 9,223,372,036,854,775,807"),
    ("dataloader.train.total_batch_size=1000000000000", "total_batch_size=1000000000000: expected at most 65,536"),
    ("+model.backbone.freeze_at=2", "BasicResNet has no option 'freeze_at'"),
    ("train.best_checkpoint.metric=bbox/ap", "did you mean bbox/AP"),
    ("dataset.val_images=" + "y" * 5000, "File name too long"),
]


@pytest.fixture
def start(shapes_data, tmp_path):
    return Start(shapes_data, tmp_path)


@pytest.mark.parametrize("line, message", NAMED, ids=[shown(line) for line, _ in NAMED])
def test_named_lines_end_in_one_message(start, line, message):
    what, said = start(line)
    assert what == "refused" and message in said, (what, said)


def test_what_a_person_may_choose_the_best_by(start):
    more = ("dataloader.evaluator.stages=true", "dataloader.evaluator.nms=0.8")
    for metric in ("bbox/AP50", "bbox/AP-circle", "stages/AP_stage2", "stages/grief", "bbox_nms/AP"):
        assert start(f"train.best_checkpoint.metric={metric}", "small", *more)[0] == "accepted", metric
    assert start("train.best_checkpoint.metric=stages/grief")[0] == "refused"
    off = ("train.best_checkpoint.enabled=false",)
    assert start("train.best_checkpoint.metric=nope", "small", *off)[0] == "accepted"


def check(start: Start, drawn: list[tuple[str, str]]) -> None:
    wrong = []
    for host, line in drawn:
        what, message = start(line, host)
        key, _, value = line.partition("=")
        meant = value not in ABSURD or key in NAMES or (key, value) in MEANT
        meant = meant and (value != "-1" or key in NAMES or key.endswith(SIGNED))
        if what not in ("accepted", "refused") or (what == "accepted" and not meant):
            wrong.append(f"{what} {host} {shown(line)} {message[:200]}")
    assert not wrong, "\n".join(wrong)


def test_a_sample_of_drawn_lines(start):
    check(start, lines(40, seed=1))


@pytest.mark.slow
def test_a_line_for_every_key_of_three_hosts(start):
    drawn = lines(1000)
    assert len(set(drawn)) == 1000 and {host for host, _ in drawn} == set(HOSTS)
    assert {line.partition("=")[2] for _, line in drawn} == set(VALUES)
    check(start, drawn)


def test_a_norm_of_zero_clips_nothing(shapes_data, tmp_path):
    short = ("train.max_iter=3", "train.eval_period=0", "train.best_checkpoint.enabled=false", "dataset.val_json=''")
    norms = {"zero": "train.clip_grad.params.max_norm=0", "off": "train.clip_grad.enabled=false",
             "one": "train.clip_grad.params.max_norm=1e-4"}  # fmt: skip
    weights = {}
    for name, override in norms.items():
        training.train(shapes_data, tmp_path / name, (*short, override))
        weights[name] = torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
    training.assert_equal(weights["zero"], weights["off"])
    with pytest.raises(AssertionError):
        training.assert_equal(weights["zero"], weights["one"])
    assert "max_norm=0: gradients are not clipped" in (tmp_path / "zero" / "log.txt").read_text()


@pytest.mark.parametrize("kept, files", [("0", 4), ("null", 4), ("1", 1)])
def test_how_many_checkpoints_stay(shapes_data, tmp_path, kept, files):
    short = ("train.max_iter=4", "train.checkpointer.period=1", f"train.checkpointer.max_to_keep={kept}",
             "dataset.val_json=''")  # fmt: skip
    training.train(shapes_data, tmp_path / "out", short)
    assert len(list((tmp_path / "out").glob("model_0*.pth"))) == files
