"""benchmarks/page.py: what commands print stands below them, and nothing else of a page changes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
page = importlib.import_module("page")
sys.path.pop(0)

FENCE = "```"
TEXT = f"""# Title

By hand.

<!-- made: first -->
{FENCE}bash
echo "| a \\1 |"
python -c 'import sys; print(sys.executable)'
{FENCE}
<!-- end -->

<!-- made: second, text -->
{FENCE}bash
echo "of commit abc"
{FENCE}

old
<!-- end -->
Also by hand.
"""


def test_blocks_that_are_named_are_made_and_made_again():
    made = page.make(TEXT, ["first"])
    head, rest = made.split("```\n\n", 1)
    assert TEXT.startswith(head) and made.endswith(TEXT[TEXT.index("<!-- made: second") :])
    lines = rest.splitlines()
    assert lines[:2] == ["| a \\1 |", sys.executable] and f"commit {page.commit()}" in lines[3]
    assert page.make(made, ["first"]) == made


def test_plain_text_is_fenced_and_a_commit_that_was_printed_is_not_named_again():
    made = page.make(TEXT, ["second"])
    assert "\n```text\nof commit abc\n```\n\n*" in made and "old" not in made
    assert made.endswith("*\n<!-- end -->\nAlso by hand.\n") and made.count("commit") == TEXT.count("commit") + 1


def test_a_command_that_fails_leaves_the_page(tmp_path, monkeypatch):
    file = tmp_path / "page.md"
    file.write_text(TEXT.replace('echo "| a', 'false; echo "| a'))
    monkeypatch.setattr("sys.argv", ["page.py", str(file), "second", "first"])
    with pytest.raises(SystemExit, match="failed with 1"):
        page.main()
    found = file.read_text()
    assert "old" not in found and "false; echo" in found and "python -c" in found and sys.executable not in found
    with pytest.raises(SystemExit, match="no block third; there are first, second"):
        page.make(TEXT, ["third"])


def test_the_blocks_of_the_shipped_pages_are_read(monkeypatch, capsys):
    for file in (page.ROOT / "benchmarks").glob("*.md"):
        text = file.read_text(encoding="utf-8")
        blocks = list(page.BLOCK.finditer(text))
        assert len(blocks) == text.count("<!-- made: ") == text.count("<!-- end -->"), file.name
        assert len({m["name"] for m in blocks}) == len(blocks)
        assert all("<!--" not in m["commands"] + m["made"] for m in blocks)
