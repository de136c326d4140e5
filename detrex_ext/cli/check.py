"""`python -m detrex_ext check`: is this annotation file, with its images, fit for training?"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from detrex_ext.errors import UserError

from . import data_folder
from .arguments import Parser, add_overlay, did_you_mean
from .outputs import check_file, show

if TYPE_CHECKING:
    from detrex_ext.data.report import Report

_DEFAULT = "small"
_REPORT = re.compile(r'\s*(\[\s*)?\{\s*"json"\s*:')


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = Parser(
        prog="python -m detrex_ext check",
        usage="%(prog)s JSON [JSON ...] [--images DIR] [--config-file FILE] [--overlay A,B] [--fix OUT.json] "
        "[--json FILE] [--outside-images] [--headers-only]\n       %(prog)s --data DIR [--output DIR] ...",
        description="Check COCO annotation files, or a folder of any form, and their images. Exit code 1 if a file has "
        "errors; with --fix, if the mended one has.",
    )
    add = parser.add_argument
    add("annotations", nargs="*", metavar="JSON", help="COCO annotation file")
    data_folder.add_data(parser, "check all splits of")
    add("--output", metavar="DIR", help="write what --data was read as there, as COCO files (default: nowhere)")
    add("--images", metavar="DIR", help="image folder (default: looked for beside the JSON)")
    add("--config-file", default=_DEFAULT, metavar="FILE", help="config that will be trained, for its number of "
        f"queries and detections (default: {_DEFAULT})")  # fmt: skip
    add_overlay(parser)
    add("--fix", metavar="OUT.json", help="write a mended annotation file and say every kind of change")
    add("--overwrite", action="store_true", help="--fix may write over a file that is there, never over JSON")
    add("--json", nargs="?", const="", metavar="FILE", help="write the reports; - for standard output")
    add("--outside-images", action="store_true", help="file names may lead out of the image folder")
    add("--headers-only", action="store_true", help="open images without decoding them (faster)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the check.

    Returns:
        0 without errors, 1 with.

    Raises:
        UserError: a file cannot be read at all, or that of `--json` or `--fix` not be written.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.json and _is_input(args.json):  # as `check --json FILE` was once written
        args.annotations, args.json = [args.json, *args.annotations], ""
    _check_arguments(args, parser)
    for path in map(Path, args.annotations):
        _check_there(path)
    to_file = args.json not in (None, "", "-")
    if to_file:
        check_file(args.json, "--json")
    if args.fix is not None:
        _check_fix(args)
    from detrex_ext.checkpoint.files import write_json
    from detrex_ext.config import load_config
    from detrex_ext.data import check_dataset
    from detrex_ext.data.json_file import read_json
    from detrex_ext.data.limits import limits_of
    from detrex_ext.data.mend import mend

    named = args.config_file + "".join(f" --overlay {overlay}" for overlay in args.overlay)
    limits = limits_of(load_config(args.config_file, args.overlay, ()), named)
    options = {"decode": not args.headers_only, "limits": limits, "outside": args.outside_images}
    reports = [check_dataset(path, args.images, **options) for path in args.annotations]
    if args.data is not None:
        reports = _check_data(args, options)
    if args.fix is not None:
        data = read_json(args.annotations[0])
        changes = mend(data, reports[0])
        write_json(data, args.fix, indent=None)
        reports.append(check_dataset(args.fix, reports[0].images or args.images, **options))
        reports[-1].mended = list(changes.findings.values())
    documents = [report.to_dict() for report in reports]
    text = json.dumps(documents[0] if len(documents) == 1 else documents, indent=2)
    if to_file:
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    as_text = args.json is None or to_file
    show("\n\n".join(report.text() for report in reports) if as_text else text)
    return 1 if any(report.errors for report in (reports[-1:] if args.fix is not None else reports)) else 0


def _check_arguments(args: argparse.Namespace, parser: Parser) -> None:
    """Refuses neither files nor a folder, and both; tells of a spelling of before."""
    if args.data is None and not args.annotations:
        parser.error("name a COCO annotation file, or a folder by --data DIR")
    if args.data is not None and (args.annotations or args.fix is not None):
        raise UserError("check --data DIR is without JSON and --fix: --output OUT writes COCO files that --fix mends")
    if args.json == "":
        print("--json without a file is now --json - (standard output)", file=sys.stderr)


def _check_data(args: argparse.Namespace, options: dict) -> list[Report]:
    """The reports of the splits of ``--data``; named by the folder where the files are written nowhere."""
    from detrex_ext.data import check_dataset

    args.data_images = args.data_images or args.images
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        found = data_folder.prepare(args, args.output or folder, named=args.output is None)
        reports = [check_dataset(json, found.images[split], **options) for split, json in found.json.items()]
        for split, report in zip(found.json, reports, strict=True):
            if not args.output and report.json.startswith(folder):
                report.json = f"{args.data} ({split})"
    return reports


def _check_there(path: Path) -> None:
    """Raises a UserError with the names that are there where the file is not."""
    if path.exists():
        return
    beside = sorted(file.name for file in path.parent.glob("*.json"))
    found = f"JSON files in {path.parent}: {', '.join(beside[:8]) or 'none'}"
    if not path.parent.is_dir():
        found = f"there is no folder {path.parent}"
    raise UserError(f"annotation file not found: {path}{did_you_mean(path.name, beside)}\n  {found}")


def _check_fix(args: argparse.Namespace) -> None:
    """Raises a UserError where `--fix` would write over what must stay."""
    if len(args.annotations) != 1:
        raise UserError(f"--fix mends one file; found {len(args.annotations)}: run it once for each")
    check_file(args.fix, "--fix")
    if args.fix == "-":
        raise UserError("--fix -: expected a file to write")
    source = args.annotations[0]
    if os.path.exists(args.fix) and os.path.exists(source) and os.path.samefile(args.fix, source):
        raise UserError(f"--fix {args.fix}: this is the file that is checked; it is never written over\n"
                        "  name another one")  # fmt: skip
    if os.path.lexists(args.fix) and not args.overwrite:
        raise UserError(f"--fix {args.fix}: there is such a file\n  name another one, or add --overwrite")


def _is_input(name: str) -> bool:
    """Whether a file is there that is no report of before: it must not be written over."""
    if not Path(name).is_file():
        return False
    with open(name, encoding="utf-8", errors="replace") as file:
        start = file.read(200)
    return bool(start.strip()) and not _REPORT.match(start)
