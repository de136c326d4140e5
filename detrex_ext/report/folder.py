"""What a run folder says of its training: config, environment, metrics, commands. Nothing of it is imported or run."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..checkpoint import RunFolder
from ..config import LazyConfig, load_config
from ..config.files import shipped_configs
from ..config.yaml_text import NameOnly
from ..errors import UserError
from ..visualization.curves import Series, read_metrics

logger = logging.getLogger(__name__)
_LOG_BYTES = 2_000_000
_MOST_VALUES = 20_000
# what every run has of its own
_OWN = ("train.output_dir", "train.seed", "dataset.train_json", "dataset.train_images", "dataset.val_json")
OWN = (*_OWN, "dataset.val_images", "model.num_classes")


@dataclass
class RunFacts:
    """A run, as far as its folder tells.

    Attributes:
        path: of the folder.
        config: flat, key -> value as text; references as they stand.
        shipped: name of the shipped config that it was started with, "" = none or not known.
        changed: key -> (shipped, here); "" for what one of them does not have.
        environment: rows of the table in the log.
        series: metrics over iterations.
        results: of the last evaluation, by task.
        non_finite: batch of a loss that was not finite, where one was kept.
        evaluated: iterations that made the weights of that; None = not known.
    """

    path: Path
    config: dict[str, str] = field(default_factory=dict)
    shipped: str = ""
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    environment: list[tuple[str, str]] = field(default_factory=list)
    series: Series = field(default_factory=dict)
    results: dict[str, dict[str, float]] = field(default_factory=dict)
    non_finite: Path | None = None
    evaluated: int | None = None

    def number(self, key: str) -> float | None:
        """A value of the config that is a number."""
        try:
            return float(self.config[key])
        except (KeyError, ValueError):
            return None

    @property
    def steps(self) -> int:
        """Iterations made, as far as the metrics go."""
        losses = self.series.get("total_loss")
        return losses[-1][0] + 1 if losses else 0

    def commands(self) -> list[tuple[str, str]]:
        """(what for, command)."""
        run, start = shlex.quote(str(self.path)), "python -m detrex_ext"
        return [
            ("go on with the training", f"{start} train --config-file {run} --resume"),
            ("evaluate", f"{start} train --config-file {run} --eval-only"),
            ("predict on images", f"{start} predict {run} IMAGES"),
            ("stages, query by query", f"{start} analyze stages {run}"),
            ("export", f"{start} export {run} --format onnx"),
            ("this page again", f"{start} report {run}"),
        ]


def read_run(path: str | Path, config_file: str = "") -> RunFacts:
    """Reads a folder; what is missing or damaged is left out.

    Args:
        path: of the run.
        config_file: what the training was started with, where the log need not be asked.
    """
    folder = RunFolder(path)
    facts = RunFacts(Path(path))
    log = _head(folder.path / "log.txt")
    facts.environment = _environment(log)
    facts.non_finite = folder.non_finite() if folder.non_finite().is_file() else None
    try:
        facts.series = read_metrics(folder.path)
    except UserError:
        logger.debug("%s: no metrics", folder.path)
    if (config := _config(folder.config)) is not None:
        facts.config = flat(config)
        named = re.search(r"Command line arguments: Namespace\(config_file='([^']*)'", log)
        facts.shipped = _shipped(config_file or (named[1] if named else ""))
    if facts.shipped:
        facts.changed = _changed(facts.shipped, facts.config)
    facts.results, facts.evaluated = _evaluation(folder.evaluation)
    if facts.evaluated is not None and facts.steps:
        facts.evaluated = min(facts.evaluated, facts.steps)  # at the end it is the number of iterations itself
    return facts


def flat(node: Any, prefix: str = "") -> dict[str, str]:
    """Every value of a config by its key, as text; calls by their name."""
    found: dict[str, str] = {}
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_interpolation()):
        items = [(str(key), node._get_node(key)) for key in node]
    elif isinstance(node, ListConfig) and not (node._is_none() or node._is_interpolation()):
        items = [(str(i), node._get_node(i)) for i in range(len(node))]
        if all(not isinstance(child, DictConfig | ListConfig) for _, child in items):
            return {prefix: f"[{', '.join(_shown(child) for _, child in items)}]"}
    else:
        return {prefix: _shown(node)}
    for key, child in items:
        found |= flat(child, f"{prefix}.{key}" if prefix else key)
        if len(found) > _MOST_VALUES:
            break
    return found if items else {prefix: "{}"}


def _shown(node: Any) -> str:
    value = node._value() if hasattr(node, "_value") else node
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return value.name if isinstance(value, NameOnly) else str(value)


def _config(path: Path) -> Any:
    try:
        return LazyConfig.loads(path.read_text(encoding="utf-8"), NameOnly)
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException, UserError) as error:
        logger.debug("%s: %s", path, error)
        return None


def _shipped(config_file: str) -> str:
    """The shipped config of that name: a file of another place that has it is most likely a copy of it."""
    stem = re.split(r"[\\/]", config_file)[-1].removesuffix(".py")
    return stem if stem in shipped_configs() else ""


def _changed(name: str, config: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    try:
        text = LazyConfig.dumps(load_config(name))
        before = flat(OmegaConf.create(LazyConfig.loads(text, NameOnly), flags={"allow_objects": True}))
    except (UserError, OmegaConfBaseException, yaml.YAMLError) as error:  # of another version
        logger.debug("%s: %s", name, error)
        return {}
    keys = [key for key in {**before, **config} if key not in OWN and before.get(key) != config.get(key)]
    return {key: (before.get(key, ""), config.get(key, "")) for key in sorted(keys)}


def _head(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _environment(log: str) -> list[tuple[str, str]]:
    """The rows of the first table of the environment in a log."""
    table = re.search(r"Environment info:\n-[- ]*\n(.*?)\n-[- ]*$", log, re.DOTALL | re.MULTILINE)
    rows = [re.split(r" {2,}", line, maxsplit=1) for line in (table[1].splitlines() if table else ())]
    return [(row[0], row[1].strip()) for row in rows if len(row) == 2][:60]


def _evaluation(path: Path) -> tuple[dict[str, dict[str, float]], int | None]:
    """Metrics by task, and the iterations after which the weights were evaluated."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        tasks = {str(task): values for task, values in record["results"].items() if isinstance(values, dict)}
        results = {t: {str(k): _number(v) for k, v in values.items()} for t, values in tasks.items()}
        at = record.get("best_iteration", record.get("iteration"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}, None
    return results, at + 1 if type(at) is int else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
