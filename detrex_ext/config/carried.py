"""A config on its way into the processes of a training."""

from __future__ import annotations

import cloudpickle
from omegaconf import DictConfig

from .lazy import LazyConfig
from .yaml_text import check_targets


class Carried:
    """A config on its way into a process: as text where it can be read again, pickled with its code where not.

    The process that has it never reads a config file. In the one that made it `cfg` is the config itself.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg

    def __reduce__(self) -> tuple:
        try:
            text = LazyConfig.dumps(self.cfg)
            check_targets(text)
            return _from_text, (text,)
        except Exception:  # a lambda, a function of the config file: whatever YAML has no words for
            return _from_pickle, (cloudpickle.dumps(self.cfg),)


def _from_text(text: str) -> Carried:
    return Carried(LazyConfig.loads(text))


def _from_pickle(data: bytes) -> Carried:
    return Carried(cloudpickle.loads(data))
