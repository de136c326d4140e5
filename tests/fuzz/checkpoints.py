"""Checkpoints drawn from a seed: changed values, tensors and bytes; and what loading makes of each.

As a program it prints counts: ``PYTHONPATH=. python tests/fuzz/checkpoints.py [COUNT [FIRST]]``.
"""

from __future__ import annotations

import copy
import io
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from limits import answer, program  # noqa: E402
from values import DEEP, ODD, put  # noqa: E402

import detrex_ext  # noqa: E402
from detrex_ext.checkpoint import Checkpointer, RunFolder, convert  # noqa: E402
from detrex_ext.config import LazyConfig, load_config  # noqa: E402
from detrex_ext.inference import build_for_inference  # noqa: E402

NARROW = ["model.num_classes=3", "model.decoder.num_layers=1"]


class Run:
    """A folder with two checkpoints of a narrow model, of which the newer one is changed."""

    def __init__(self, path: Path) -> None:
        self.path, cfg = path / "run", load_config("small", (), NARROW)
        self.path.mkdir()
        self.model = build_for_inference(cfg)
        names = {"class_names": ["a", "b", "c"], "category_ids": [1, 2, 3], "seed": 3, "evaluated": "ema_state"}
        extra = {**names, "config": LazyConfig.dumps(cfg), "threshold": {"score": 0.3, "classes": {"a": 0.2}}}
        ema = {key: value.clone() for key, value in self.model.state_dict().items()}
        checkpointer = Checkpointer(self.model, str(self.path), extra={**extra, "ema_state": ema})
        for iteration in (3, 5):
            checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        self.file = self.path / "model_0000005.pth"
        self.content = self.file.read_bytes()
        self.data = torch.load(self.file, weights_only=True)

    def __call__(self, content: bytes) -> tuple[str, str, str]:
        """(what predicting, converting and going on say)."""
        self.file.write_bytes(content)
        (self.path / "last_checkpoint").write_text(self.file.name)
        return answer(self.load), answer(self.convert), answer(self.resume)

    def load(self) -> None:
        detrex_ext.load(self.file, device="cpu")

    def convert(self) -> None:
        convert(self.file, self.path / "out.pth")

    def resume(self) -> None:
        saved = RunFolder(self.path).newest()
        Checkpointer(copy.deepcopy(self.model), "").apply(saved)


def _odd_value(rng: random.Random, data: dict) -> None:
    key = rng.choice([key for key in data if key != "model"])
    data[key] = copy.copy(rng.choice((*ODD, torch.ones(3), torch.ones(()), {"a": torch.ones(2)})))


def _odd_place(rng: random.Random, data: dict) -> None:
    put(rng, data, copy.copy(rng.choice((*ODD, torch.ones(2)))))


def _tensor(change: Callable[[torch.Tensor], Any], part: str = "", least: int = 1) -> Callable:
    def mutate(rng: random.Random, data: dict) -> None:
        state = data[part or rng.choice(("model", "ema_state"))]
        keys = [key for key, value in state.items() if value.is_floating_point() and value.dim() >= least]
        for key in rng.sample(keys, rng.choice((1, 3, len(keys)))):
            state[key] = change(state[key].clone())

    return mutate


def _with(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return change


VALUES: dict[str, Callable[[random.Random, dict], None]] = {
    "a value": _odd_value,
    "any place": _odd_place,
    "class names are a number or a text": lambda rng, data: data.update(class_names=rng.choice((5, "abc", {"a": 1}))),
    "an average that is a list": lambda rng, data: data.update(ema_state=rng.choice(([1], [torch.ones(2)], "x", 3))),
    "a config without a model": lambda rng, data: data.update(
        config=rng.choice(("model: null", "model: abc", "model:", "- 1", "{", "model: &a [*a]"))
    ),
    "deep": lambda rng, data: data.update(class_names=DEEP),
    "sparse": _tensor(lambda tensor: tensor.to_sparse()),
    "without values": _tensor(lambda tensor: tensor.to("meta")),
    "quantized": _tensor(lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)),
    "whole numbers": _tensor(lambda tensor: tensor.to(torch.int64)),
    "truth values": _tensor(lambda tensor: tensor > 0),
    "complex": _tensor(lambda tensor: tensor + 0j),
    "NaN": _tensor(_with(float("nan"))),
    "infinite": _tensor(_with(float("inf"))),
    "too large for its dtype": _tensor(lambda tensor: tensor.double().fill_(1e300)),
    "another shape": _tensor(lambda tensor: tensor[:-1]),
    "no list of tensors": lambda rng, data: data.update(model=rng.choice(([], {}, None, 3, [torch.ones(1)], {"w": 1}))),
}
SILENT = ("a value", "any place")  # what may well be taken: a text for another


def _flip(rng: random.Random, content: bytes) -> bytes:
    out = bytearray(content)
    out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _block(fill: Callable[[int], bytes]) -> Callable[[random.Random, bytes], bytes]:
    def change(rng: random.Random, content: bytes) -> bytes:
        start = rng.randrange(0, len(content) - 4096, 4096)
        return content[:start] + fill(4096) + content[start + 4096 :]

    return change


BYTES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "a flipped bit": _flip,
    "4 KiB of zeros": _block(bytes),
    "4 KiB of garbage": _block(os.urandom),
    "cut": lambda rng, content: content[: rng.randrange(len(content))],
    "longer": lambda rng, content: content + os.urandom(rng.randrange(1, 5000)),
    "two blocks exchanged": lambda rng, content: content[:8192] + content[12288:16384] + content[8192:12288]
    + content[16384:],
}  # fmt: skip


def mutant(seed: int, run: Run) -> tuple[str, bytes]:
    """(kind, contents) of a checkpoint."""
    rng = random.Random(seed)
    kind = [*VALUES, *BYTES][seed % (len(VALUES) + len(BYTES))]
    if kind in BYTES:
        return kind, BYTES[kind](rng, run.content)
    data, out = copy.deepcopy(run.data), io.BytesIO()
    VALUES[kind](rng, data)
    torch.save(data, out)
    return kind, out.getvalue()


def same(run: Run) -> bool:
    """Whether a file that is taken holds what was saved: a byte between the tensors may have been changed."""
    data = torch.load(run.file, weights_only=True)
    return all(torch.equal(value, data["model"][key]) for key, value in run.data["model"].items())


def holds_nan(run: Run) -> bool:
    """Whether the part that is used has a NaN."""
    part = torch.load(run.file, weights_only=True)[run.data["evaluated"]]
    return any(value.is_floating_point() and bool(value.isnan().any()) for value in part.values())


def check(kind: str, answers: tuple[str, str, str], run: Run) -> str:
    """What must not be, in words."""
    loaded, converted, resumed = answers
    if {*answers} - {"taken", "refused"}:
        return "no message"
    if kind in BYTES and "taken" in (loaded, converted) and not same(run):
        return "damage was taken"
    if kind in BYTES and resumed != "taken":
        return "the one before was not taken"
    if kind == "NaN" and converted == "taken" and holds_nan(run):
        return "NaN was converted"
    if kind not in (*BYTES, *SILENT, "a config without a model", "deep") and "taken" == loaded:
        part = run.data["evaluated"]
        changed = torch.load(run.file, weights_only=True).get(part)
        whole = isinstance(changed, dict) and all(
            key in changed and torch.equal(value, changed[key]) for key, value in run.data[part].items()
        )
        return "" if whole else "it was taken"
    return ""


def run(count: int, first: int = 0) -> tuple[Counter, list[str]]:
    """Counts by kind and answers, and what must not be, in words."""
    counts, wrong = Counter(), []
    with tempfile.TemporaryDirectory() as path:
        run = Run(Path(path))
        assert run(run.content) == ("taken",) * 3
        for seed in range(first, first + count):
            kind, content = mutant(seed, run)
            answers = run(content)
            counts[kind, " ".join(answers)[:60]] += 1
            if problem := check(kind, answers, run):
                wrong.append(f"seed {seed}, {kind}: {problem}: {answers}")
    return counts, wrong


if __name__ == "__main__":
    program(run, 500)
