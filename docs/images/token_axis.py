"""Draws docs/images/token_axis.png: one token axis, many query sets in training, the bare host at inference.

    python docs/images/token_axis.py [OUTPUT]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

INK, FAINT, PAPER = "#1f2933", "#8795a1", "#ffffff"
MAIN, DENOISE, RECOLLECT, MEMORY = "#2f6db5", "#d9822b", "#2a9d8f", "#e4e9ee"
STAGES = 6
FIRST, STEP, WIDTH, HEIGHT, GAP = 3.55, 1.02, 0.62, 0.19, 0.055
LEFT, END = 0.35, FIRST + (STAGES - 1) * STEP + WIDTH
CHAIN = ["Preprocess", "Backbone", "Neck", "Encoder"]


def block(ax: Axes, x: float, y: float, w: float, h: float, color: str) -> None:
    style = "round,pad=0,rounding_size=0.045"
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=style, facecolor=color, edgecolor="none", zorder=3))


def chip(ax: Axes, x: float, y: float, text: str, w: float = 1.12) -> None:
    block(ax, x, y, w, 0.34, MEMORY)
    ax.text(x + w / 2, y + 0.165, text, ha="center", va="center", fontsize=8.5, color=INK, zorder=4)


def heading(ax: Axes, y: float, title: str, caption: str) -> None:
    ax.text(LEFT, y, title, fontsize=12, weight="bold", color=INK)
    ax.text(LEFT, y - 0.11, caption, fontsize=9, color=FAINT, va="top", linespacing=1.35)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": FAINT, "lw": 1.1, "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style, zorder=2)


def column(ax: Axes, x: float, base: float, sets: list[str]) -> float:
    """One stage: its query sets stacked on the token axis; returns the height reached."""
    for row, color in enumerate(sets):
        block(ax, x, base + row * (HEIGHT + GAP), WIDTH, HEIGHT, color)
    return base + len(sets) * (HEIGHT + GAP)


def recollected(stages: int) -> list[int]:
    """Query sets per stage under recollection with window 2: a stage gets what the two stages before it put out."""
    counts = [1, 2]
    while len(counts) < stages:
        counts.append(counts[-1] + counts[-2])
    return counts[:stages]


def host(ax: Axes, base: float) -> None:
    """The chain on the left, once per image: memory goes to every stage, the query source's sets to the first."""
    for i, name in enumerate(CHAIN):
        y = base - 0.22 + (len(CHAIN) - 1 - i) * 0.56
        chip(ax, LEFT, y, name)
        if i:
            arrow(ax, (LEFT + 0.56, y + 0.56), (LEFT + 0.56, y + 0.36))
    arrow(ax, (LEFT + 1.14, base - 0.05), (FIRST - 0.13, base - 0.05))
    arrow(ax, (2.3, base - 0.05), (2.3, base + 0.33))
    chip(ax, 1.74, base + 0.35, "Query source")
    arrow(ax, (2.88, base + 0.52), (FIRST - 0.06, base + 0.52))


def training(ax: Axes, base: float) -> None:
    counts = recollected(STAGES)
    heading(ax, base + 3.72, "TRAINING", "all query sets of a stage\nlie on one token axis")
    host(ax, base)
    for stage, count in enumerate(counts):
        x = FIRST + stage * STEP
        top = column(ax, x, base + 0.3, [DENOISE, MAIN, *[RECOLLECT] * (count - 1)])
        ax.text(x + WIDTH / 2, top + 0.07, f"{count + 1}", ha="center", fontsize=8.5, color=INK)
        ax.text(x + WIDTH / 2, base - 0.48, f"stage {stage}", ha="center", fontsize=8.5, color=INK)
        for row in range(2 * (stage > 0)):
            height = base + 0.3 + row * (HEIGHT + GAP) + HEIGHT / 2
            arrow(ax, (x - STEP + WIDTH + 0.04, height), (x - 0.04, height))
    block(ax, FIRST - 0.1, base - 0.22, END - FIRST + 0.2, 0.34, MEMORY)
    ax.text((FIRST + END) / 2, base - 0.055, "memory: projected once per stage, however many sets attend to it",
            ha="center", va="center", fontsize=8.5, color=INK, zorder=4)  # fmt: skip
    arrow(ax, (END + 0.1, base + 1.9), (END + 0.45, base + 1.9))
    block(ax, END + 0.47, base + 1.15, 1.5, 1.5, MEMORY)
    ax.text(END + 1.22, base + 2.4, "Criterion", ha="center", va="center", fontsize=8.5, color=INK, zorder=4)
    ax.text(END + 1.22, base + 1.79, "a rule per kind of\nset, one transfer to\nthe solver, one\nall-reduce",
            ha="center", va="center", fontsize=8, color="#52606d", zorder=4)  # fmt: skip


def inference(ax: Axes, base: float) -> None:
    heading(ax, base + 0.42, "INFERENCE", "the bare host: the same\nparameters, the same time")
    for stage in range(STAGES):
        x = FIRST + stage * STEP
        block(ax, x, base + 0.18, WIDTH, HEIGHT, MAIN)
        if stage:
            arrow(ax, (x - STEP + WIDTH + 0.04, base + 0.275), (x - 0.04, base + 0.275))
    arrow(ax, (END + 0.1, base + 0.275), (END + 0.45, base + 0.275))
    chip(ax, END + 0.47, base + 0.105, "Postprocess", w=1.5)


def legend(ax: Axes, x: float, y: float) -> None:
    entries = [(MAIN, "main: what inference uses"), (DENOISE, "denoising"), (RECOLLECT, "recollected, by SQR")]
    for row, (color, text) in enumerate(entries):
        block(ax, x, y - row * 0.29, 0.32, HEIGHT, color)
        ax.text(x + 0.42, y - row * 0.29 + HEIGHT / 2, text, va="center", fontsize=8.5, color=INK)


def main(output: Path) -> None:
    fig, ax = plt.subplots(figsize=(12, 5.9), dpi=130)
    fig.patch.set_facecolor(PAPER)
    training(ax, 1.75)
    inference(ax, 0.15)
    ax.plot([LEFT, END + 1.97], [1.02, 1.02], color=MEMORY, lw=1.2)
    legend(ax, FIRST, 5.2)
    ax.set_xlim(0.2, END + 2.1)
    ax.set_ylim(0.1, 5.85)
    ax.axis("off")
    fig.savefig(output, bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
    print(output)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".png"))
