"""Weights in the containers of others, behind the prefixes of wrapped models, and for other numbers of queries."""

from __future__ import annotations

import logging
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from detrex_ext.checkpoint import find_weights, load_state, load_weights, read_checkpoint, to_layout
from detrex_ext.checkpoint.foreign import spellings
from detrex_ext.errors import UserError
from detrex_ext.modeling.queries import (
    AnchorQueries,
    DenoisingQueries,
    GroupQueries,
    HybridQueries,
    LearnedQueries,
    PositionQueries,
    TwoStageQueries,
    WholeImageQueries,
)


class Small(nn.Module):
    """Parts by our names; ``model`` is one of them, as in a backbone of timm."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.ModuleDict({"body": nn.ModuleDict({"model": nn.Linear(3, 4)})})
        self.decoder = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def nested(path, state):
    for name in reversed(path.split(".")):
        state = {name: state, "epoch": 3}
    return state


@pytest.mark.parametrize(
    "place",
    ["model_state", "model_state_dict", "net", "weights", "params", "state_dict", "model", "model.state_dict",
     "ema.module", "ema.model", "checkpoint.model", "ema_state_dict", "params_ema"],
)  # fmt: skip
def test_the_container_is_found_and_told(tmp_path, caplog, place):
    theirs, ours = Small(1), Small(2)
    torch.save(nested(place, theirs.state_dict()), tmp_path / "x.pth")
    with caplog.at_level(logging.INFO):
        assert load_weights(ours, tmp_path / "x.pth").complete
    assert equal(theirs, ours)
    assert (f"'{place}'" in caplog.text) == (place != "model")
    assert ("averaged weights alone" in caplog.text) == ("ema" in place)


def test_trained_and_averaged_weights_are_told_apart(tmp_path, caplog):
    trained, averaged, ours = Small(1), Small(2), Small(3)
    data = {"model_state": trained.state_dict(), "ema": {"module": averaged.state_dict(), "updates": 9}}
    torch.save(data, tmp_path / "x.pth")
    with caplog.at_level(logging.INFO):
        load_weights(ours, tmp_path / "x.pth")
    assert equal(ours, trained) and "the trained weights are taken" in caplog.text
    assert "trained weights in 'model_state', averaged weights in 'ema.module'" in caplog.text
    load_weights(ours, tmp_path / "x.pth", source="ema_state")
    assert equal(ours, averaged)
    assert find_weights(tmp_path / "x.pth").part == "ema_state", "the rule of our own files holds for others too"
    assert find_weights(tmp_path / "x.pth", average=False).part == "model"


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "model.", "module.", "_forward_module.", "module._orig_mod.", "model.module._orig_mod.",
               "_forward_module.module.model."],
)  # fmt: skip
@pytest.mark.parametrize("part", ["", "decoder."])
def test_prefixes_of_all_names_or_a_part_are_taken_off(prefix, part):
    theirs, ours = Small(1), Small(2)
    state = {prefix + k if k.startswith(part) else k: v for k, v in theirs.state_dict().items()}
    report = load_state(ours, state)
    assert report.complete and equal(theirs, ours)
    assert all(word in str(report) for word in prefix.split(".")[:1]) and "without" in str(report)


def test_a_compiled_part_and_a_part_called_model():
    theirs, ours = Small(1), Small(2)
    state = {k.replace("decoder.", "decoder._orig_mod."): v for k, v in theirs.state_dict().items()}
    assert load_state(ours, state).complete and equal(theirs, ours)
    own = nn.ModuleDict({"model": nn.Linear(2, 2)})
    report = load_state(own, own.state_dict())
    assert report.complete and not report.prefixes, "a name that fits as it is stays"


def test_two_tensors_of_one_name_are_not_mixed_up():
    state = {"a": torch.zeros(1), "model.a": torch.ones(1), "module.b": torch.ones(1), "model.b": torch.zeros(1)}
    for spelled in spellings(state).values():
        assert len(spelled) == 4 and spelled["a"] == 0
    bare = spellings(state)["module."]
    assert set(bare) == {"a", "model.a", "b", "model.b"} and bare["b"] == 1
    model = nn.Module()
    model.a = nn.Parameter(torch.ones(1))
    with pytest.raises(UserError, match="(?s)not in the model.*model.a"):
        load_state(model, {"a": torch.zeros(1), "model.a": torch.ones(1)})


def test_a_file_that_does_not_fit_tells_what_was_tried(tmp_path):
    theirs = {f"module._orig_mod.student.{k}": v for k, v in Small().state_dict().items()}
    torch.save({"model_state_dict": theirs, "epoch": 1}, tmp_path / "x.pth")
    with pytest.raises(UserError) as error:
        load_weights(Small(), tmp_path / "x.pth", strict=False)
    text = str(error.value)
    assert "made by another model" in text and "found: trained weights in 'model_state_dict'" in text
    assert "tried: detrex_ext names (0 of 6), detrex_ext names without _orig_mod. (0 of 6), " in text
    assert "detrex_ext names without _orig_mod., module. (0 of 6)" in text
    torch.save(theirs, tmp_path / "bare.pth")
    with pytest.raises(UserError, match="found: a state dict, in none of model, state_dict, model_state, "):
        load_weights(Small(), tmp_path / "bare.pth", strict=False)
    torch.save({"epoch": 3, "student": {"a": 1}}, tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"(?s)no tensors; found epoch \(int\), student \(dict\).*ema.*params_ema"):
        load_weights(Small(), tmp_path / "none.pth")


def test_a_layout_is_known_behind_prefixes(tmp_path):
    from test_checkpoint_load import KINDS, Named, filled, our_shapes
    from test_checkpoint_load import equal as same

    model, other = filled(KINDS[1]), Named(our_shapes(KINDS[1]))
    state = {f"model._orig_mod.{k}": v for k, v in to_layout(model, "detrex").items()}
    torch.save({"net": state}, tmp_path / "x.pth")
    report = load_weights(other, tmp_path / "x.pth")
    assert report.complete and report.layout == "detrex Deformable-DETR" and same(model, other)


class TestHostile:
    def test_no_code_runs_wherever_it_lies(self, tmp_path, monkeypatch):
        class Evil:
            def __reduce__(self):
                return os.system, ("touch evil-was-here",)

        monkeypatch.chdir(tmp_path)
        torch.save({"ema": {"module": {"w": torch.ones(1), "x": Evil()}}}, "x.pth")
        (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model_state": {"w": np.ones(1), "x": Evil()}}))
        for name in ("x.pth", "x.pkl"):
            with pytest.raises(UserError, match="system"):
                read_checkpoint(name)
        assert not (tmp_path / "evil-was-here").exists()

    def test_what_is_no_tensor_is_left_out_and_told(self, tmp_path):
        theirs, ours = Small(1), Small(2)
        odd = {"steps": 7, "name": "x" * 10**6, "k" * 10**6: None, 3: torch.ones(1)}
        odd["sparse"] = torch.eye(2).to_sparse()
        torch.save({"weights": {**theirs.state_dict(), **odd}}, tmp_path / "x.pth")
        report = load_weights(ours, tmp_path / "x.pth")
        assert report.complete and equal(theirs, ours) and len(report.others) == 5
        assert "no tensors, left out (5):\n  steps (int)" in str(report) and len(str(report)) < 1000
        assert "sparse (sparse tensor)" in report.others

    def test_containers_without_end_and_of_other_kinds(self, tmp_path):
        circle = {}
        circle["model"] = circle
        deep = {"w": torch.ones(1)}
        for _ in range(200):
            deep = {"model": deep}
        for data in (circle, deep, {"model": 3}, {"model": [1]}, {"state_dict": {}, "model": "x"}, {"ema": None}):
            torch.save(data, tmp_path / "x.pth")
            with pytest.raises(UserError, match="x.pth: "):
                load_weights(Small(), tmp_path / "x.pth", strict=False)

    @pytest.mark.parametrize("classes", [5, "abc", {"a": 1}, None])
    def test_classes_that_are_none(self, tmp_path, classes):
        torch.save({"net": Small(1).state_dict(), "meta": {"CLASSES": classes}}, tmp_path / "x.pth")
        assert "class_names" not in read_checkpoint(tmp_path / "x.pth")
        torch.save({"net": Small(1).state_dict(), "class_names": classes}, tmp_path / "x.pth")
        assert load_weights(Small(2), tmp_path / "x.pth", classes=["a"]).complete


SOURCES = {
    "query_embedding": lambda n: LearnedQueries(n, 4),
    "query_embed": lambda n: PositionQueries(n, 4),
    "anchor_box_embed": lambda n: AnchorQueries(n, 4, num_patterns=2),
    "tgt_embed": lambda n: TwoStageQueries(3, n, 4, content="learned"),
    "content": lambda n: WholeImageQueries(n, 4),
    "source.tgt_embed": lambda n: DenoisingQueries(TwoStageQueries(3, n, 4, content="mixed"), 3, 4),
    "extra": lambda n: HybridQueries(LearnedQueries(5, 4), n),
    "others.1.query_embed": lambda n: GroupQueries(PositionQueries(n, 4), 3),
}


def detector(name, queries):
    model = nn.Module()
    model.queries = SOURCES[name](queries)
    model.decoder = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    return model


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("there, here", [(9, 6), (6, 9)])
def test_query_tables_keep_the_rows_they_share(name, there, here):
    theirs, ours = detector(name, there), detector(name, here)
    key = f"queries.{name}.weight"
    before = ours.state_dict()[key].clone()
    with pytest.raises(UserError, match=f"(?s)does not fit.*file is of {there} queries, the model of {here}"):
        load_state(ours, theirs.state_dict())
    assert torch.equal(ours.state_dict()[key], before)
    report = load_state(ours, theirs.state_dict(), strict=False)
    assert report.complete and len(ours.state_dict()[key]) == here
    assert torch.equal(ours.state_dict()[key][:6], theirs.state_dict()[key][:6])
    assert torch.equal(ours.state_dict()[key][6:], before[6:])
    told = "the first 6 queries" + (", the last 3 as before" if here > there else "")
    assert f"{key}: {there} -> {here} rows, {told}" in str(report)


def test_another_width_of_queries_is_no_number_of_queries():
    ours, theirs = detector("content", 6), detector("content", 6)
    theirs.queries.content = nn.Embedding(9, 5)
    report = load_state(ours, theirs.state_dict(), strict=False)
    assert [key for key, *_ in report.mismatched] == ["queries.content.weight"] and not report.sliced
    theirs.queries.content = nn.Embedding(0, 4)
    assert load_state(ours, theirs.state_dict(), strict=False).mismatched
