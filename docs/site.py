"""The pages of the site: the Markdown files of the whole repository at their own places, so that their links hold.

A hook of `mkdocs.yml`, run by `make docs`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/**/*.md", "projects/*/README.md", "benchmarks/**/*.md", "tests/parity/README.md")
_LINK = re.compile(r"\]\(([^)\s:#]+)")


def pages() -> list[str]:
    """Paths of the Markdown files, from the root."""
    return sorted({path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern)})


def linked(names: list[str]) -> list[str]:
    """Paths of the other files that pages link to."""
    found = set()
    for name in names:
        for link in _LINK.findall((ROOT / name).read_text(encoding="utf-8")):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
            if path not in names and not path.startswith("..") and (ROOT / path).is_file():
                found.add(path)
    return sorted(found)


def title_of(name: str) -> str:
    """The first heading of a page."""
    text = (ROOT / name).read_text(encoding="utf-8")
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    return heading[1] if heading else name


def on_config(config, **_):
    """Puts the pages that a pattern of ``nav`` names into its place, and those that nothing names at the end."""
    nav = [_spread(entry) for entry in config["nav"]]
    others = sorted(set(pages()) - set(_named(nav)))
    config["nav"] = [*nav, {"More": [{title_of(name): name} for name in others]}] if others else nav
    return config


def _named(nav):
    for entry in nav:
        for what in entry.values():
            yield from _named(what) if isinstance(what, list) else [what]


def _spread(entry):
    (title, what), = entry.items()
    if isinstance(what, list):
        return {title: [_spread(inner) for inner in what]}
    if "*" not in what:
        return entry
    names = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob(what.replace("**.md", "**/*.md")))]
    return {title: [{title_of(name): name} for name in names]}


def on_files(files, config):
    """Takes the repository's root for the folder that pages lie in."""
    from mkdocs.structure.files import File

    for file in list(files):
        if file.src_uri.endswith((".md", ".py", ".png")):
            files.remove(file)
    names = pages()
    for name in [*names, *linked(names)]:
        files.append(File(name, str(ROOT), config["site_dir"], config["use_directory_urls"]))
    return files
