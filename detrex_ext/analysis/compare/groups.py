"""Which runs are one but for their seed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from ...checkpoint import RunFolder
from ...config.yaml_text import NameOnly, read_yaml

_SEED = re.compile(r"[-_./ ]*(seed|s)?[-_=]?\d+$", re.IGNORECASE)
# of a config: what tells runs of one group apart
_OWN = (("train", "seed"), ("train", "output_dir"), ("dataloader", "train", "seed"))


def groups_of(paths: Sequence[str | Path], names: Sequence[str]) -> list[str]:
    """Of each run the name of its group: by the configs, and by the names where a run has none."""
    keys = [_config_of(Path(path)) for path in paths]
    if None in keys:
        keys = [_SEED.sub("", name) or name for name in names]
    found: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if key not in found:
            title = _SEED.sub("", name) or name
            alone = keys.count(key) == 1
            found[key] = name if alone or title in found.values() else title
    return [found[key] for key in keys]


def _config_of(path: Path) -> str | None:
    """What a run's config says, but for its seed and folder; nothing in it is imported."""
    file = RunFolder(path.parent if path.is_file() else path).config
    try:
        config = read_yaml(file.read_text(encoding="utf-8"), NameOnly)
        for *sections, key in _OWN:
            node = config
            for section in sections:
                node = node.get(section, {})
            node.pop(key, None)
        return json.dumps(config, sort_keys=True, default=lambda value: getattr(value, "name", str(value)))
    except (OSError, ValueError, yaml.YAMLError, RecursionError, AttributeError, TypeError):
        return None
