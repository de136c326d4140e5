"""`python -m detrex_ext check`: is this annotation file, with its images, fit for training?"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from detrex_ext.errors import UserError

from .arguments import Parser, did_you_mean
from .outputs import check_file

_REPORT = re.compile(r'\s*(\[\s*)?\{\s*"json"\s*:')


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = Parser(
        prog="python -m detrex_ext check",
        usage="%(prog)s JSON [JSON ...] [--images DIR] [--json FILE] [--headers-only]",
        description="Check COCO annotation files and their images. Exit code 1 if a file has errors.",
    )
    parser.add_argument("annotations", nargs="*", default=[], metavar="JSON", help="COCO annotation file")
    parser.add_argument("--images", metavar="DIR", help="image folder (default: looked for beside the JSON)")
    parser.add_argument("--json", nargs="?", const="", metavar="FILE", help="write the reports; - for standard output")
    parser.add_argument("--headers-only", action="store_true", help="open images without decoding them (faster)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the check.

    Returns:
        0 without errors, 1 with.

    Raises:
        UserError: a file cannot be read at all, or that of `--json` not be written.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.json and _is_input(args.json):  # as `check --json FILE` was once written
        args.annotations, args.json = [args.json, *args.annotations], ""
    if not args.annotations:
        parser.error("name a COCO annotation file")
    if args.json == "":
        print("--json without a file is now --json - (standard output)", file=sys.stderr)
    for path in map(Path, args.annotations):
        if not path.exists():
            beside = sorted(file.name for file in path.parent.glob("*.json"))
            found = f"JSON files in {path.parent}: {', '.join(beside[:8]) or 'none'}"
            if not path.parent.is_dir():
                found = f"there is no folder {path.parent}"
            raise UserError(f"annotation file not found: {path}{did_you_mean(path.name, beside)}\n  {found}")
    to_file = args.json not in (None, "", "-")
    if to_file:
        check_file(args.json, "--json")
    from detrex_ext.data import check_dataset

    reports = [check_dataset(path, args.images, decode=not args.headers_only) for path in args.annotations]
    documents = [report.to_dict() for report in reports]
    text = json.dumps(documents[0] if len(documents) == 1 else documents, indent=2)
    if to_file:
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    as_text = args.json is None or to_file
    print("\n\n".join(report.text() for report in reports) if as_text else text)
    return 1 if any(report.errors for report in reports) else 0


def _is_input(name: str) -> bool:
    """Whether a file is there that is no report of before: it must not be written over."""
    if not Path(name).is_file():
        return False
    with open(name, encoding="utf-8", errors="replace") as file:
        start = file.read(200)
    return bool(start.strip()) and not _REPORT.match(start)
