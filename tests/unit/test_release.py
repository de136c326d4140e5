"""What a release is made of: one version, workflows, images and citation that name what exists."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

import detrex_ext

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
each = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def literal(name: str):
    """A literal that setup.py assigns."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    return ast.literal_eval(next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == name))


def test_the_version_stands_in_one_place():
    places = [p for p in ROOT.iterdir() if p.is_file() and p.suffix in (".py", ".toml", ".cff", ".in", ".yml", "")]
    stating = [p.name for p in (*places, *WORKFLOWS) if detrex_ext.__version__ in p.read_text(encoding="utf-8")]
    assert not stating


def test_the_changelog_has_the_version_or_says_that_it_is_to_come():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] in ("Unreleased", detrex_ext.__version__)
    numbers = [tuple(map(int, h.split("."))) for h in headings if re.fullmatch(r"\d+\.\d+\.\d+", h)]
    assert numbers == sorted(set(numbers), reverse=True)
    assert all(number <= tuple(map(int, detrex_ext.__version__.split("."))) for number in numbers)


def steps(path: Path) -> list[dict]:
    return [step for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values() for step in job["steps"]]


@each
def test_a_workflow_is_one_and_names_what_exists(path: Path):
    text = path.read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    assert {"name", True, "permissions", "jobs"} <= set(document)  # YAML takes `on` for true
    assert document["permissions"] == {"contents": "read"}
    for job in document["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"] and all(("run" in s) != ("uses" in s) for s in job["steps"])
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(step.get("run", "") for step in steps(path))))
    unwritten = set() if (ROOT / "mkdocs.yml").exists() else {"docs"}
    assert named <= TARGETS | unwritten
    files = re.findall(r"\b((?:tests|tools|detrex_ext)/[\w/.-]+\.\w+)", text)
    assert all((ROOT / file).exists() for file in files)


@each
def test_a_workflow_runs_no_text_that_somebody_else_wrote(path: Path):
    """An expression inside a command is text of whoever names a branch or fills in a form."""
    for step in steps(path):
        assert "${{" not in step.get("run", "")
        if "uses" in step and not step["uses"].startswith("pypa/"):  # which is published as a branch
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
    assert "pull_request_target" not in path.read_text(encoding="utf-8")


def test_the_suite_runs_on_the_oldest_and_the_newest_of_python_and_torch():
    matrix = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["suite"]["strategy"]["matrix"]
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert f'python_requires=">={matrix["python"][0]}"' in text
    oldest = next(item for item in literal("REQUIRES") if item.startswith("torch>")).partition(">=")[2]
    assert [entry.split()[0] for entry in matrix["torch"]] == [f"torch=={oldest}.*", "torch"]


def test_a_release_is_tried_attested_and_published_without_a_password():
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs["publish"]["needs"] == "build" and jobs["publish"]["permissions"]["id-token"] == "write"
    used = [step.get("uses", "").partition("@")[0] for step in jobs["publish"]["steps"]]
    assert used.index("actions/attest-build-provenance") < used.index("pypa/gh-action-pypi-publish")
    assert "secrets." not in text and "make release" in text
    script = ROOT / ".ci" / "release"
    assert script.stat().st_mode & 0o100
    tried = re.findall(r"^run (\w+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert tried == ["doctor", "train", "predict", "zoo"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, comments left out and lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines)).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in joined if line.strip()]


def test_the_image_takes_what_exists_and_does_not_run_as_root():
    found = instructions(ROOT / "Dockerfile")
    let = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [shlex.split(words)[:-1] for name, words in found if name == "COPY" and "--from" not in words]
    sources = {source for words in copied for source in words}
    assert sources == let and all((ROOT / source).exists() for source in sources)
    stages = [re.search(r" AS (\w+)$", words) for name, words in found if name == "FROM"]
    origins = {shlex.split(words)[0].partition("=")[2] for name, words in found if name == "COPY" and "--from" in words}
    assert origins == {stage[1] for stage in stages if stage}
    extras = set(re.findall(r"\.whl\)\[([\w,-]+)\]", (ROOT / "Dockerfile").read_text())[0].split(","))
    assert extras <= set(literal("EXTRAS"))
    last = max(i for i, (name, _) in enumerate(found) if name == "FROM")
    users = [words for name, words in found[last:] if name == "USER"]
    assert users and users[-1] not in ("root", "0")
    assert [json.loads(words) for name, words in found if name == "ENTRYPOINT"] == [["python", "-m", "detrex_ext"]]
    assert "ADD" not in {name for name, _ in found}


def test_the_citation_names_the_package_and_its_license():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation) and citation["authors"][0]["name"]
    assert citation["title"].startswith("detrex_ext") and citation["license"] == "Apache-2.0"
    assert f'license="{citation["license"]}"' in (ROOT / "setup.py").read_text()
    assert "version" not in citation and "date-released" not in citation  # the package states it


def test_no_place_names_a_repository_that_is_not_stated():
    """No address of this project is known, so none may be made up."""
    known = ("download.pytorch.org", "www.apache.org")
    files = [ROOT / "setup.py", ROOT / "CITATION.cff", ROOT / "Dockerfile", ROOT / "docs" / "zoo.md", *WORKFLOWS]
    found = {host for file in files for host in re.findall(r"https?://([\w.-]+)", file.read_text(encoding="utf-8"))}
    assert found <= set(known)
