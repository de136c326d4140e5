#!/usr/bin/env python
"""Runs a command for each thing that people expect of a detection toolkit, and writes ``docs/needs.md``.

    python benchmarks/needs.py                        # all, some minutes on a CPU
    python benchmarks/needs.py --only video,zoo       # these rows anew; the others stay as the page has them
    python benchmarks/needs.py --list

The rows and their commands are in ``needs.yaml``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from PIL import Image

from detrex_ext.data import shapes

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "needs.md"
OTHERS = ("detectron2", "detrex", "mmdet", "rf-detr", "D-FINE, DEIM", "ultralytics", "HF")
NARROW = (
    "train.device=cpu train.max_iter=2 train.eval_period=0 train.report=false train.log_period=1 dataset.short_edge=64 "
    "dataset.long_edge=64 dataloader.train.total_batch_size=4 dataloader.train.num_workers=0 "
    "dataloader.test.num_workers=0 train.amp.enabled=false model.decoder.ffn_dim=64"
)
HEAD = """# What people expect, and what is here

*Made by `python benchmarks/needs.py`: each `yes` of the second column is commands below that ended with 0 on generated
data; `partly`: some of them did. The columns of other projects were read in their code and documents, not run (y: yes,
p: partly, n: no; which versions: `benchmarks/needs.yaml`). What needs hardware that was not at hand is named.*

"""


# by whichever of the two is there
CLIP = """
ffmpeg -v error -framerate 5 -pattern_type glob -i 'shapes/images/*.png' -pix_fmt yuv420p clip.mp4 || python -c '
import av, glob, PIL.Image
clip = av.open("clip.mp4", "w")
stream = clip.add_stream("mpeg4", rate=5)
stream.width = stream.height = 64
for file in sorted(glob.glob("shapes/images/*.png")):
    clip.mux(stream.encode(av.VideoFrame.from_image(PIL.Image.open(file).convert("RGB"))))
clip.mux(stream.encode())
clip.close()'
"""


class Need(NamedTuple):
    """A row: its key, what is needed, cells of `OTHERS`, commands by what they show, what no command shows."""

    key: str
    name: str
    others: list[str]
    parts: dict[str, str] = {}
    not_run: str = ""


def needs() -> list[Need]:
    """The rows."""
    rows = yaml.safe_load((ROOT / "benchmarks" / "needs.yaml").read_text(encoding="utf-8"))
    return [Need(key, **row) for key, row in rows.items()]


NEEDS = needs()


def prepare(folder: Path) -> None:
    """The data sets and the run that commands find in their folder."""
    shapes.write(folder / "shapes", 12, 4, 64, 0)
    yolo, voc = folder / "yolo", folder / "voc"
    for split in ("train", "val"):
        data = json.loads((folder / "shapes" / f"{split}.json").read_text())
        names = [c["name"] for c in data["categories"]]
        for image in data["images"]:
            boxes = [(a["category_id"] - 1, *a["bbox"]) for a in data["annotations"] if a["image_id"] == image["id"]]
            _write_yolo(yolo, split, image["file_name"], boxes, folder)
            _write_voc(voc, image["file_name"], boxes, names, folder)
        data["categories"] = [{**c, "name": {"circle": "disc", "star": "sun"}.get(c["name"], c["name"])}
                              for c in data["categories"]]  # fmt: skip
        (folder / "other").mkdir(exist_ok=True)
        (folder / "other" / f"{split}.json").write_text(json.dumps(data))
    shutil.copytree(folder / "shapes" / "images", folder / "other" / "images")
    (yolo / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {json.dumps(names)}\n")
    code, text = run("$TRAIN --config-file small --data shapes train.output_dir=run $SHORT train.max_iter=6", folder)
    if code:
        raise SystemExit(f"the run that rows begin with ended with {code}\n{text[-2000:]}")
    run(CLIP, folder)


def _write_yolo(root: Path, split: str, name: str, boxes: list, folder: Path) -> None:
    labels = root / "labels" / split / Path(name).with_suffix(".txt").name
    images = root / "images" / split / Path(name).name
    for path in (labels, images):
        path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "shapes" / "images" / name, images)
    rows = (f"{k} {(x + w / 2) / 64:.6f} {(y + h / 2) / 64:.6f} {w / 64:.6f} {h / 64:.6f}\n" for k, x, y, w, h in boxes)
    labels.write_text("".join(rows))


def _write_voc(root: Path, name: str, boxes: list, names: list[str], folder: Path) -> None:
    root.mkdir(exist_ok=True)
    Image.open(folder / "shapes" / "images" / name).save(root / Path(name).name)
    objects = "".join(
        f"<object><name>{names[k]}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax>"
        f"<ymax>{y + h}</ymax></bndbox></object>" for k, x, y, w, h in boxes
    )  # fmt: skip
    size = "<size><width>64</width><height>64</height></size>"
    text = f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"
    (root / Path(name).with_suffix(".xml").name).write_text(text)


def run(command: str, folder: Path, seconds: int = 300) -> tuple[int, str]:
    """Exit code and output of a command in a folder; 124 where it took too long."""
    given = {"ROOT": str(ROOT), "HERE": str(folder), "TRAIN": "python -m detrex_ext train", "SHORT": NARROW,
             "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1", "MPLBACKEND": "agg",
             "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])}  # fmt: skip
    full = ["timeout", str(seconds), "bash", "-uo", "pipefail", "-c", command]
    done = subprocess.run(full, cwd=folder, env={**os.environ, **given}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")  # fmt: skip
    return done.returncode, done.stdout


def answer(need: Need, codes: Sequence[int]) -> str:
    """The cell of a row."""
    good = sum(code == 0 for code in codes)
    cell = "not tried" if not codes else "yes" if good == len(codes) else "partly" if good else "no"
    return f"{cell} ({need.not_run})" if need.not_run else cell


def section(need: Need, codes: Sequence[int]) -> str:
    """A row's commands, and how they ended."""
    lines = [f"### {need.name}: {answer(need, codes)}", f"<!-- row: {need.key} -->", ""]
    for (what, command), code in zip(need.parts.items(), codes, strict=True):
        lines += [f"{what[0].upper()}{what[1:]}: exit code {code}", "", "```text", command, "```", ""]
    return "\n".join(lines)


def page_of(codes: dict[str, Sequence[int]]) -> str:
    """The page; rows that were not run are left out."""
    rows = [need for need in NEEDS if need.key in codes]
    table = [f"| need | here | {' | '.join(OTHERS)} |", "|---" * (len(OTHERS) + 2) + "|"]
    table += [f"| {n.name} | **{answer(n, codes[n.key])}** | {' | '.join(n.others)} |" for n in rows]
    about = ("\n## The commands\n\nIn one folder with data sets `shapes`, `yolo`, `voc` and `other` and a `run`; "
             "`$TRAIN` is `python -m detrex_ext train`, `$ROOT` the checkout, and `$SHORT` makes a training short:\n\n"
             f"```text\n{NARROW}\n```\n\n")  # fmt: skip
    return HEAD + "\n".join(table) + "\n" + about + "\n".join(section(n, codes[n.key]) for n in rows).rstrip() + "\n"


def known(text: str) -> dict[str, list[int]]:
    """The exit codes that a page has, of rows that are as they were."""
    found = {}
    for part in text.split("\n### ")[1:]:
        key = re.search(r"<!-- row: (\w+) -->", part)
        commands = re.findall(r"exit code (\d+)\n\n```text\n(.*?)\n```", part, re.DOTALL)
        need = next((n for n in NEEDS if key and n.key == key[1]), None)
        if need is not None and [command for _, command in commands] == list(need.parts.values()):
            found[need.key] = [int(code) for code, _ in commands]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="ROW,ROW", default="", help="run these; the others stay as the page has them")
    parser.add_argument("--list", action="store_true", help="names of the rows")
    args = parser.parse_args()
    keys = [need.key for need in NEEDS]
    if args.list:
        print(*keys)
        return 0
    asked = args.only.split(",") if args.only else keys
    if unknown := set(asked) - set(keys):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(keys)}")
    codes = known(PAGE.read_text(encoding="utf-8")) if args.only else {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for need in NEEDS:
            if need.key not in asked:
                continue
            codes[need.key] = []
            for what, command in need.parts.items():
                code, text = run(command, Path(folder))
                codes[need.key].append(code)
                print(f"{need.key}: {what}: {code}", flush=True)
                if code:
                    print("  " + "\n  ".join(text.strip().splitlines()[-6:]), flush=True)
            PAGE.write_text(page_of(codes), encoding="utf-8")  # each row as it is done
    return 0


if __name__ == "__main__":
    sys.exit(main())
