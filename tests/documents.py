"""The commands that the documents tell people to type."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("projects/*/README.md"),
                    *ROOT.glob("benchmarks/**/*.md")])  # fmt: skip
VERB_OF_TOOL = {"train_net.py": "train", "check_dataset.py": "check", "plot_curves.py": "plot",
                "convert_checkpoint.py": "convert"}  # fmt: skip
# a training in seconds, whatever was typed before it
CUT = (
    "train.minutes=null train.max_iter=2 train.eval_period=0 train.report=false dataset.short_edge=64 "
    "dataset.long_edge=64 dataloader.train.total_batch_size=2 dataloader.train.num_workers=0 "
    "dataloader.test.num_workers=0 train.amp.enabled=false train.device=cpu"
).split()


def commands(document: Path) -> list[list[str]]:
    """The shell words of each command in the document's bash blocks and in its inline code."""
    text = document.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL)
             for line in block.replace("\\\n", " ").splitlines()]  # fmt: skip
    lines += re.findall(r"`((?:python|make|torchrun) [^`]*)`", text)
    lines += re.findall(r"^ {4}((?:python|torchrun) .*)$", text, re.MULTILINE)
    words = [shlex.split(line, comments=True) for line in lines]
    return [w for w in words if w]


def of_verbs(document: Path) -> list[tuple[str, list[str]]]:
    """(verb, arguments) of each command that runs one of this package's verbs."""
    found = []
    for words in commands(document):
        for i, word in enumerate(words):
            if re.fullmatch(r"(\./)?tools/\w+\.py", word):
                name = word.split("/")[-1]
                found.append((VERB_OF_TOOL.get(name, name[:-3]), words[i + 1 :]))
            elif word == "detrex_ext" and words[i - 1] == "-m" and len(words) > i + 1:
                found.append((words[i + 1], words[i + 2 :]))
    return found
