"""The annotation files of a training are read once."""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from pathlib import Path

from training import in_process, train


def log_opened(file: str) -> None:
    """Appends the name of each JSON file that this process opens from now on."""

    def hook(event: str, args: tuple) -> None:
        if event == "open" and str(args[0]).endswith(".json"):
            log.write(f"{args[0]}\n")
            log.flush()

    log = open(file, "a")
    sys.addaudithook(hook)


def test_each_annotation_file_is_opened_once(shapes_data, tmp_path):
    opened = tmp_path / "opened.txt"
    more = ("train.max_iter=4", "train.eval_period=2")
    assert in_process(train, shapes_data, tmp_path / "out", more, sabotage=partial(log_opened, str(opened))) == 0
    counts = Counter(Path(line) for line in opened.read_text().splitlines())
    assert {name: counts[shapes_data / name] for name in ("train.json", "val.json")} == {"train.json": 1, "val.json": 1}
