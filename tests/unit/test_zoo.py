"""The zoo: what `zoo.json` may state, which file is taken for a name, and what is refused before it is read."""

from __future__ import annotations

import email.message
import hashlib
import io
import json
import os
import pickle
import re
import urllib.request
import urllib.response
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

import detrex_ext
from detrex_ext.checkpoint import find_weights, names_weights, read_checkpoint, resolve, zoo, zoo_entries
from detrex_ext.cli import dispatch
from detrex_ext.cli.zoo_recipes import DATA, RECIPES
from detrex_ext.config import LazyConfig, find_overlay, load_config
from detrex_ext.errors import UserError
from detrex_ext.inference import build_for_inference

ADDRESS = "https://files.example/v1"


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil-was-here",)


class Zoo:
    """A zoo of what is put into it, an empty cache, and no network."""

    def __init__(self, root: Path, monkeypatch) -> None:
        self.cache, self.file, self.items = root / "hub" / "checkpoints", root / "zoo.json", []
        self.cache.mkdir(parents=True)
        monkeypatch.setattr(zoo_entries, "FILE", self.file)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(root / "hub"))
        monkeypatch.delenv(zoo.FOLDER, raising=False)
        self.state()

    def state(self, **changes) -> None:
        self.file.write_text(json.dumps({"models": [{**item, **changes} for item in self.items]}))

    def add(self, name: str = "mine", data: object = None, content: bytes = b"", address: str = "") -> Path:
        """An entry, and its file in the cache."""
        if not content:
            held = io.BytesIO()
            torch.save({"model": {"w": torch.ones(2)}} if data is None else data, held)
            content = held.getvalue()
        item = entry(name, content, address)
        self.items.append(item)
        self.state()
        path = self.cache / item["where"].rpartition("/")[2]
        path.write_bytes(content)
        return path


def entry(name: str, content: bytes, address: str = "") -> dict:
    digest = hashlib.sha256(content).hexdigest()
    file = f"{name}-{digest[:8]}.pth"
    return {
        "name": name, "config": "quickstart", "overlays": ["sqr"], "overrides": ["train.seed=0"], "seed": 0,
        "commit": "0" * 40, "hardware": "a processor", "command": "python -m detrex_ext zoo build", "data": "shapes",
        "metric": {"AP": 12.5}, "sha256": digest, "size": len(content),
        "license": {"data": "Apache-2.0", "weights": "Apache-2.0"},
        "where": f"{address}/{file}" if address else file,
    }  # fmt: skip


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Zoo:
    monkeypatch.chdir(tmp_path)
    return Zoo(tmp_path, monkeypatch)


def refused(match: str, name: str = "zoo:mine") -> str:
    with pytest.raises(UserError, match=match) as raised:
        read_checkpoint(name)
    return str(raised.value)


def test_what_is_shipped_was_built_by_its_recipe():
    for name, one in zoo_entries.entries().items():
        recipe = RECIPES[name]
        stated = (one.config, one.overlays, one.overrides, one.data)
        assert stated == (recipe.config, list(recipe.overlays), recipe.all_overrides(), DATA)
        assert f"zoo build {name} " in one.command and one.metric["AP"] > 30


def test_the_document_lists_the_recipes_and_what_was_built():
    page = (Path(__file__).resolve().parents[2] / "docs" / "zoo.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", page, re.MULTILINE))
    built = {name: one.metric["AP"] for name, one in zoo_entries.entries().items()}
    assert list(rows) == list(RECIPES) and built
    assert {name: re.findall("AP ([0-9.]+)", row) for name, row in rows.items()} == {
        name: [f"{built[name]:.1f}"] if name in built else [] for name in RECIPES}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_training_that_begins(name):
    recipe = RECIPES[name]
    for overlay in recipe.overlays:
        assert Path(find_overlay(overlay)).is_file()
    cfg = load_config(recipe.config, recipe.overlays, recipe.all_overrides(7))
    assert (cfg.train.max_iter, cfg.train.amp.enabled, cfg.train.init_checkpoint) == (7, False, "")
    assert cfg.dataset.train_json.startswith("output/shapes/")


def test_a_model_is_found_by_name_and_read(mine):
    path = mine.add()
    for name in ("zoo:mine", "zoo:MINE", "zoo://mine"):
        assert names_weights(name) and resolve(name) == str(path)
    assert read_checkpoint("zoo:mine")["model"]["w"].tolist() == [1, 1]
    assert find_weights("zoo:mine").path == "zoo:mine"


def test_the_named_folder_is_looked_at_first(mine, monkeypatch, tmp_path):
    path = mine.add()
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv(zoo.FOLDER, str(tmp_path / "shared"))
    assert resolve("zoo:mine") == str(path)
    moved = path.rename(tmp_path / "shared" / path.name)
    assert resolve("zoo:mine") == str(moved)
    monkeypatch.setenv(zoo.FOLDER, str(tmp_path / "nowhere"))
    refused("DETREX_EXT_ZOO=.*nowhere: expected a folder")


def test_a_file_called_like_a_name_is_not_taken(mine):
    mine.add()
    torch.save({"model": {"other": torch.zeros(1)}}, "zoo:mine")
    assert list(read_checkpoint("zoo:mine")["model"]) == ["w"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..\\x", "mine/../mine", "", "mine\n", "mine.pth", "C:\\mine"])
def test_a_name_leads_nowhere_else(mine, name):
    mine.add()
    refused("unknown; ", f"zoo:{name}")


def test_a_near_name_is_told(mine):
    mine.add("small_shapes")
    told = refused("did you mean small_shapes?", "zoo:smal_shape")
    assert "python -m detrex_ext zoo lists" in told


def test_what_is_not_here_is_told_with_what_to_do(mine):
    path = mine.add("small_shapes")
    path.unlink()
    told = refused("is not here, and it is a file of the release", "zoo:small_shapes")
    assert path.name in told and str(mine.cache) in told and zoo.FOLDER in told
    assert "zoo build small_shapes --output" in told


@pytest.mark.parametrize("content", [b"x" * 40, b""])
def test_truncated_and_other_files_of_that_name_are_refused(mine, content):
    path = mine.add()
    path.write_bytes(content)
    assert "delete it" in refused(f"has {len(content)} bytes, expected .*truncated, or another file")


def test_a_file_of_equal_size_and_another_digest_is_refused_unread(mine, monkeypatch):
    path = mine.add()
    evil = pickle.dumps(Evil())
    path.write_bytes(evil + b"x" * (path.stat().st_size - len(evil)))
    monkeypatch.setattr("detrex_ext.checkpoint.files.read_torch", lambda *a: pytest.fail("it was read"))
    refused("is another file, or damaged: SHA-256 [0-9a-f]{16}")


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_followed(mine, tmp_path):
    path = mine.add()
    path.rename(mine.cache / "kept.pth")
    path.symlink_to(mine.cache / "kept.pth")
    assert resolve("zoo:mine") == str(path)
    (mine.cache / "kept.pth").rename(tmp_path / "outside.pth")
    path.unlink()
    path.symlink_to(tmp_path / "outside.pth")
    refused("is a link that leads out of its folder")
    path.unlink()
    path.symlink_to(mine.cache / "nothing")
    refused("is no file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_or_folder_in_its_place_does_not_hang(mine):
    path = mine.add()
    path.unlink()
    os.mkfifo(path)
    refused("is no file")
    path.unlink()
    path.mkdir()
    refused("is no file")


def test_code_in_a_file_with_the_right_digest_is_not_run(mine):
    mine.add(data={"model": {"w": Evil()}})
    refused("(?s)system.*could run code")
    assert not Path("evil-was-here").exists()


@pytest.fixture(scope="module")
def detector():
    cfg = load_config("quickstart", (), ["model.num_classes=2", "model.decoder.num_layers=1"])
    return cfg, build_for_inference(cfg).state_dict()


def contents(detector, text: str = "") -> dict:
    cfg, state = detector
    return {"model": state, "class_names": ["a", "b"], "category_ids": [1, 2], "config": text or LazyConfig.dumps(cfg)}


def test_verbs_and_python_take_the_name(mine, detector, shapes_image, capsys):
    mine.add(data=contents(detector))
    predictor = detrex_ext.load("zoo:mine", device="cpu")
    assert predictor.class_names == ["a", "b"] and predictor.source == "zoo:mine"
    arguments = ["predict", "zoo:mine", shapes_image, "--output", "drawn", "--threshold", "0", "--device", "cpu"]
    assert dispatch(arguments) == 0 and Path("drawn/predictions.json").is_file()
    assert dispatch(["zoo", "check", "mine"]) == 0
    assert "is zoo:mine, SHA-256" in capsys.readouterr().out


@pytest.fixture
def shapes_image(tmp_path) -> str:
    from PIL import Image

    Image.new("RGB", (64, 64), (90, 120, 30)).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def test_a_config_in_the_file_that_names_foreign_code_is_refused(mine, detector):
    mine.add(data=contents(detector, 'model: {_target_: os.system, command: "touch evil-was-here"}'))
    with pytest.raises(UserError, match=r"would call 'os\.system'"):
        detrex_ext.load("zoo:mine")
    assert not Path("evil-was-here").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"config": "../evil"}, {"config": "evil.py"}, {"config": "os.system"}, {"config": ["small"]}, {"config": {}},
        {"overlays": ["../evil"]}, {"overlays": "sqr"}, {"overrides": ["model._target_=os.system"]},
        {"overrides": ["a=${oc.env:HOME}"]}, {"overrides": ["--trust"]}, {"name": "../mine"}, {"name": "Mine"},
        {"name": "zoo:mine"}, {"name": ""}, {"sha256": "0" * 64}, {"sha256": "abc"}, {"sha256": None}, {"size": -1},
        {"size": 0.5}, {"size": True}, {"size": 2**60}, {"metric": {}}, {"metric": {"AP": "high"}}, {"seed": -1},
        {"commit": "0" * 40 + "-dirty"}, {"data": "a\nb"}, {"license": "MIT"}, {"license": {"weights": "MIT"}},
        {"where": "../x.pth"}, {"where": "http://files.example/x.pth"}, {"where": "file:///etc/passwd"}, {"where": ""},
        {"where": "https://files.example/../x.pth"}, {"where": "https://u:p@files.example/x.pth"},
        {"where": "https://files.example/other-00000000.pth"}, {"extra": 1},
    ],
    ids=str,
)  # fmt: skip
def test_an_entry_that_states_what_cannot_be_is_refused(mine, changes):
    mine.add(address=ADDRESS)
    mine.state(**changes)
    refused(r"zoo\.json: model 1: ")


@pytest.mark.parametrize("text", ["", "[]", "{}", "\xff", "[" * 10**5, '{"models": 3}', '{"models": [null]}',
                                  '{"models": NaN}', '{"models": [{"name": "x"}]}'], ids=range(9))  # fmt: skip
def test_a_damaged_list_ends_in_a_message(mine, text):
    mine.file.write_text(text, encoding="latin-1")
    refused("install detrex_ext again")
    assert dispatch(["zoo"]) == 2


def test_two_entries_of_one_name_are_refused(mine):
    mine.add()
    mine.items *= 2
    mine.state(metric={"AP": 1})
    refused("another one named mine")


def test_a_number_that_is_none_is_no_metric(mine):
    mine.add()
    mine.state(metric={"AP": float("nan")})
    refused("its 'metric' is")


class Answers(urllib.request.HTTPSHandler):
    """Answers addresses from a table of (code, body or new address)."""

    table: dict

    def https_open(self, req):
        code, what = self.table[req.full_url]
        headers = email.message.Message()
        if code == 302:
            headers["Location"], what = what, b""
        answer = urllib.response.addinfourl(io.BytesIO(what), headers, req.full_url, code)
        answer.msg = ""
        return answer


@pytest.fixture
def network(monkeypatch):
    """Address -> answer."""
    table: dict = {}
    ours = urllib.request.build_opener

    def build_opener(*handlers):
        answers = Answers()
        answers.table = table
        return ours(answers, *handlers)

    monkeypatch.setattr(urllib.request, "build_opener", build_opener)
    return table


def test_a_file_is_fetched_once_also_from_where_it_moved_to(mine, network):
    path = mine.add(address=ADDRESS)
    content = path.read_bytes()
    path.unlink()
    network[f"{ADDRESS}/{path.name}"] = (302, "https://elsewhere.example/x")
    network["https://elsewhere.example/x"] = (200, content)
    assert resolve("zoo:mine") == str(path) and path.read_bytes() == content
    network.clear()
    assert resolve("zoo:mine") == str(path)


@pytest.mark.parametrize(
    "answer, told",
    [
        ((200, b"short"), "what is there has 5 bytes"),
        ((200, b""), "what is there has 0 bytes"),
        ((200, bytes(10**6)), "it has more than"),
        ((404, b""), "HTTPError"),
        ((302, "http://files.example/x"), "redirected to what is not https"),
        ((302, "file:///etc/passwd"), "cannot be fetched"),
        ((302, "ftp://files.example/x"), "cannot be fetched"),
    ],
)
def test_what_else_comes_from_a_network_leaves_nothing(mine, network, answer, told):
    path = mine.add(address=ADDRESS)
    path.unlink()
    network[f"{ADDRESS}/{path.name}"] = answer
    refused(told)
    assert not list(mine.cache.iterdir())


def test_other_content_of_the_same_size_from_a_network_is_refused(mine, network):
    path = mine.add(address=ADDRESS)
    network[f"{ADDRESS}/{path.name}"] = (200, bytes(path.stat().st_size))
    path.unlink()
    refused("what is there is another file, or damaged")
    assert not list(mine.cache.iterdir())


def test_without_a_network_the_message_names_the_address(mine, monkeypatch):
    path = mine.add(address=ADDRESS)
    path.unlink()

    def offline(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", offline)
    told = refused(f"{ADDRESS}/{path.name} cannot be fetched")
    assert str(mine.cache) in told and zoo.FOLDER in told


def test_the_list_says_where_each_file_is(mine, capsys):
    path = mine.add("small_shapes")
    mine.add("absent", content=b"x").unlink()
    assert dispatch(["zoo"]) == 0
    told = capsys.readouterr().out
    assert f"file       {path}" in told and "not here: absent-" in told and "AP 12.5" in told
    path.write_bytes(b"")
    assert dispatch(["zoo", "list"]) == 0
    assert f"{path} has 0 bytes" in capsys.readouterr().out


def test_check_tells_one_file_from_another(mine, capsys, tmp_path):
    path = mine.add()
    copy = tmp_path / "copy.pth"
    copy.write_bytes(path.read_bytes())
    assert dispatch(["zoo", "check", str(copy), "zoo:mine"]) == 0
    copy.rename(tmp_path / "mine-00000000.pth").write_bytes(b"other")
    assert dispatch(["zoo", "check", str(tmp_path / "mine-00000000.pth")]) == 1
    told = capsys.readouterr().err
    assert "is no file of the zoo" in told and mine.items[0]["sha256"] in told


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["build", "smal_shapes"], "did you mean small_shapes"),
        (["build", "small_shapes"], "--output DIR"),
        (["build"], "name models, or --all"),
        (["build", "small_shapes", "--all"], "name models, or --all"),
        (["build", "small_shapes", "--output", "x", "--steps", "0"], "--steps 0"),
        (["check"], "name a file"),
        (["check", "nothing.pth"], "no such file"),
        (["check", "."], "expected a file"),
        (["check", "nothing"], "unknown"),
        (["list", "mine"], "zoo check mine"),
        (["--all"], "--all goes with build"),
        (["--steps", "0"], "--steps goes with build"),
    ],
)
def test_what_is_typed_wrongly_is_told(mine, capsys, arguments, told):
    assert dispatch(["zoo", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_name_in_place_of_a_config_is_told(mine, capsys):
    assert dispatch(["train", "--config-file", "zoo:mine"]) == 2
    assert "--config-file CONFIG train.init_checkpoint=zoo:mine" in capsys.readouterr().err
