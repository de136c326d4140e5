"""Declared options of what a training writes beside ``log.txt`` and ``metrics.json``."""

from __future__ import annotations

from .options_types import Option

WRITERS: dict[str, Option] = {
    "train.writers.console": Option(bool, meaning="a line on the console after log_period steps, a bar on a terminal"),
    "train.writers.tensorboard": Option(bool, meaning="TensorBoard's events.out.tfevents.*"),
    "train.writers.csv": Option(bool, meaning="metrics.csv, a row for each line of metrics.json"),
    "train.writers.wandb": Option(bool, meaning="Weights & Biases: files in output_dir/wandb; WANDB_MODE=online sends"),
}
