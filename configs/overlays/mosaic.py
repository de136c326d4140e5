"""Mosaic and mixup in any config: `--overlay mosaic`, with `dataset.mosaic`, `dataset.mixup` and `dataset.plain_from`.

They come first, or after a resize that comes first.
"""

from omegaconf import OmegaConf

from detrex_ext.config import target_name
from detrex_ext.data import MixUp, Mosaic
from detrex_ext.runtime import LazyCall as L


def apply(cfg, mosaic=0.5, mixup=0.5, plain_from=0.8):
    """Shares of the samples until that progress of the training; a config that has the parts gets the numbers alone."""
    for key, value in dict(mosaic=mosaic, mixup=mixup, plain_from=plain_from).items():
        OmegaConf.update(cfg, f"dataset.{key}", value, force_add=True)
    mapper = cfg.dataloader.train.mapper
    for name in ("augmentation", "augmentation_with_crop"):
        steps = list(mapper.get(name) or ())
        targets = [target_name(step) for step in steps]
        if steps and "Mosaic" not in targets:
            parts = [L(Mosaic)(prob="${dataset.mosaic}", until="${dataset.plain_from}"),
                     L(MixUp)(prob="${dataset.mixup}", until="${dataset.plain_from}")]  # fmt: skip
            first = int(targets[0].startswith("Resize"))
            mapper[name] = [*steps[:first], *parts, *steps[first:]]
    return cfg
