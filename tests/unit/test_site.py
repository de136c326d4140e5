"""The documentation site: what its config and its hook name is there, and a build loads nothing from elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "docs" / "site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def named(nav) -> list[str]:
    return [name for entry in nav for what in entry.values()
            for name in (named(what) if isinstance(what, list) else [what])]  # fmt: skip


def test_each_page_is_in_the_navigation_once(hook):
    found = named(hook.on_config({"nav": CONFIG["nav"]})["nav"])
    assert sorted(found) == hook.pages() and len(found) > 50
    assert all((ROOT / name).is_file() for name in found)
    # warnings are errors under --strict
    assert set(CONFIG["validation"]["links"].values()) == {"warn"}


def test_pages_are_titled_by_their_headings_and_bring_what_they_link_to(hook):
    assert hook.title_of("docs/data.md") == "Your own data"
    assert {"LICENSE", "docs/images/token_axis.png"} <= set(hook.linked(hook.pages()))


def test_the_reference_names_what_there_is():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    found = set(re.findall(r"^::: (detrex_ext\.[\w.]+)", text, re.MULTILINE))
    assert {f"detrex_ext.{part}" for part in ("strategies", "structures", "matching", "criterion")} <= found
    for name in found:
        module, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(module), last), name


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs pip install 'detrex_ext[docs]'")
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']?(https?:[^\"'\s>]+)", text)
        assert not [url for url in loaded if not url.startswith(("https://squidfunk", "https://arxiv"))], page
    api = (tmp_path / "site" / "docs" / "api.html").read_text(encoding="utf-8")
    for name in ("detrex_ext.api.load", "detrex_ext.strategies.QueryRecollection", "detrex_ext.testing.check_host",
                 "detrex_ext.matching.HungarianMatcher", "detrex_ext.criterion.FocalLoss"):  # fmt: skip
        assert f'id="{name}"' in api, name
