"""`python -m detrex_ext check`: is this annotation file, with its pictures, fit for training?"""

from __future__ import annotations

import argparse
import json


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m detrex_ext check",
        description="Check COCO annotation files and their pictures. Exit code 1 if a file has errors.",
    )
    parser.add_argument("annotations", nargs="+", metavar="JSON", help="COCO annotation file")
    parser.add_argument("--images", metavar="DIR", help="picture folder (default: looked for beside the JSON)")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document")
    parser.add_argument("--headers-only", action="store_true", help="open pictures without decoding them (faster)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the check.

    Returns:
        0 without errors, 1 with.

    Raises:
        UserError: a file cannot be read at all.
    """
    args = build_parser().parse_args(argv)
    from detrex_ext.data.checks import check_dataset

    reports = [check_dataset(path, args.images, decode=not args.headers_only) for path in args.annotations]
    if args.as_json:
        documents = [report.to_dict() for report in reports]
        print(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2, default=str))
    else:
        print("\n\n".join(report.text() for report in reports))
    return 1 if any(report.errors for report in reports) else 0
