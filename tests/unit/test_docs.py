"""What the documents tell people to type exists: files, verbs, flags, config keys, make targets."""

from __future__ import annotations

import argparse
import ast
import importlib
import itertools
import re
from pathlib import Path

import pytest
from documents import DOCUMENTS, ROOT, commands, of_verbs

from detrex_ext.config import shipped_configs
from detrex_ext.config.options_keys import KEYS

PACKAGE = ROOT / "detrex_ext"
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

# `VERB` and `...` stand for whatever the reader fills in
CASES = [pytest.param(d, v, a, id=f"{d.relative_to(ROOT)}-{i}-{v}") for d in DOCUMENTS
         for i, (v, a) in enumerate(of_verbs(d)) if v.islower() and "..." not in a]  # fmt: skip


def help_of(verb: str, capsys: pytest.CaptureFixture[str], *what: str) -> str:
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"detrex_ext.cli.{verb}").main([*what, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_there_are_commands_to_check() -> None:
    assert {case.values[1] for case in CASES} >= {"train", "predict", "check", "plot"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.relative_to(ROOT).as_posix())
def test_files_and_targets_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|^ {4}.*?$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    linked = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", prose)
    missing = [link for link in linked if not (document.parent / link).exists()]
    named = re.findall(r"(?<![\w/.-])((?:tools|configs|docs|tests|projects|benchmarks)/[\w/.-]+\.(?:py|md|png))", text)
    missing += [name for name in named if not (ROOT / name).exists()]
    rooms = "|".join(path.name for path in PACKAGE.iterdir() if path.is_dir())
    missing += [name for name in re.findall(rf"`((?:{rooms})/[\w/]+\.py)`", text) if not (PACKAGE / name).exists()]
    missing += [f"make {w[1]}" for w in commands(document) if w[0] == "make" and len(w) > 1 and w[1] not in TARGETS]
    assert not missing


def names_defined(path: Path) -> set[str]:
    """Classes, `Class.member`s and `function()`s of a file."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(f"{node.name}()")
        elif isinstance(node, ast.ClassDef):
            body = [getattr(n, "name", None) or getattr(getattr(n, "target", None), "id", None) for n in node.body]
            body += [n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "self"]
            found |= {node.name, *(f"{node.name}.{name}" for name in body)}
    return found


def test_the_glossary_names_classes_where_they_are() -> None:
    entries = re.split(r"\n\n(?=\*\*)", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"))[1:]
    assert len(entries) > 30
    missing = []
    for entry in entries:
        term = entry.split("**")[1]
        files = re.findall(r"`(\w+/[\w/]+\.py)`", entry)
        named = {n for n in re.findall(r"`([A-Z]\w+(?:\.\w+)?|\w+\(\))`", entry) if not n.isupper()}
        known = set().union(*(names_defined(PACKAGE / file) for file in files))
        missing += [f"{term}: {name} is not in {files}" for name in sorted(named - known)]
    assert not missing


@pytest.mark.parametrize("document, verb, arguments", CASES)
def test_flags_exist(document: Path, verb: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    what = arguments[:1] if verb == "analyze" or arguments[:1] in (["memory"], ["scaling"]) else []
    known = set(re.findall(r"--[\w-]+", help_of(verb, capsys, *what)))
    used = {word.split("=")[0] for word in arguments if word.startswith("--")}
    assert used <= known, f"{document.name}: {verb} has no {sorted(used - known)}"


class Parsed(Exception):
    """The arguments of a command are understood; nothing of it is run."""


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outermost parser of a command raises ``Parsed`` where it would hand its arguments to the command."""
    depth = [0]

    def wrapped(original):
        def parse(*args, **options):
            depth[0] += 1
            try:
                found = original(*args, **options)
            finally:
                depth[0] -= 1
            if depth[0]:
                return found
            raise Parsed

        return parse

    for name in ("parse_args", "parse_known_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, wrapped(getattr(argparse.ArgumentParser, name)))


@pytest.mark.parametrize("document, verb, arguments", CASES)
def test_commands_are_understood(document: Path, verb: str, arguments: list[str], only_parsed: None) -> None:
    """By the verb's own parser: flags, their values, choices, and how many words it takes."""
    arguments = ["step" if word == "SUITE" else word for word in arguments if word != "--help"]
    words = itertools.takewhile(lambda word: not re.fullmatch(r"\|\|?|&&|;|\d?>.*|<.*", word), arguments)
    with pytest.raises(Parsed):
        importlib.import_module(f"detrex_ext.cli.{verb}").main([word.rstrip(";") for word in words])


@pytest.mark.parametrize("typed, understood", [
    ("train --config-file small train.max_iter=3", True), ("train --num-gpus many", False),
    ("predict run a.png --precision bf17", False), ("analyze stages small", True), ("analyze stagse small", False),
    ("export run --format onxx", False), ("plot", False),
])  # fmt: skip
def test_what_no_parser_understands_is_found(typed: str, understood: bool, only_parsed: None, capsys) -> None:
    verb, *arguments = typed.split()
    with pytest.raises(Parsed if understood else SystemExit):
        importlib.import_module(f"detrex_ext.cli.{verb}").main(arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.relative_to(ROOT).as_posix())
def test_keys_and_overlays_in_the_text_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    if document.name == "CHANGELOG.md":
        pytest.skip("it tells of former names")
    # of the tables that tell what others' names are here, what is ours
    text = re.sub(r"^\| [^|]* \|", "|", text, flags=re.MULTILINE) if document.name == "migration.md" else text
    named = re.findall(r"`\+*((?:train|dataset)\.[\w.]+)(?:=[^`]*)?`", text)
    known = {key for name in KEYS for key in (name, *(name[:i] for i, c in enumerate(name) if c == "."))}
    missing = [key for key in named if key not in known and not re.search(r"\.(py|json|sbatch)$", key)]
    overlays = [name for words in re.findall(r"--overlay ([\w,]+)(?![\w.,])", text) for name in words.split(",")]
    shipped = {path.stem for path in (ROOT / "configs" / "overlays").glob("*.py")}
    missing += [name for name in overlays if name not in shipped and not name.isupper()]
    assert not missing


def test_the_configs_that_detrex_s_are_here_exist() -> None:
    page = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*) \| (.*) \|$", page.partition("## `train_net")[0], re.MULTILINE)[1:]
    told = [ours if "`" in ours else theirs for theirs, ours in rows if ours != "not here"]
    named = [name for cell in told for name in re.findall(r"`(\w+\d+ep\w*)(?:\.py)?`", cell)]
    assert len(named) >= 16 and set(named) <= set(shipped_configs())


OF_CONFIGS = [c for c in CASES if "--config-file" in c.values[2] or c.values[1] == "analyze"]


@pytest.mark.parametrize("document, verb, arguments", OF_CONFIGS)
def test_config_keys_exist(document: Path, verb: str, arguments: list[str]) -> None:
    """Overrides are strict, so a key that a document invents raises here as it would for the reader."""
    from detrex_ext.config import load_config

    overrides = [word for word in arguments if re.match(r"^\+?[a-z][\w.]*=", word)]
    named = dict(zip(arguments, arguments[1:], strict=False))
    config = arguments[1] if verb == "analyze" else named["--config-file"]
    if config.startswith("output/"):
        pytest.skip("the folder of a training")
    overlays = named["--overlay"].split(",") if "--overlay" in named else []
    if config.endswith("THEIRS.py") or "my_overlay.py" in overlays:
        pytest.skip("a file of the reader's own")
    assert load_config(config, overlays, overrides)
