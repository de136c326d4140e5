"""Dense one-to-one (DEIM, arXiv 2412.04234) over any config: `--overlay dense_o2o dataset.mosaic=0.5`.

More objects in each image, so that one-to-one matching has more to learn from: mosaic, mixup and objects blended in, in
a part of the training, and a learning rate that is flat, falls along a cosine, and is flat again. By the progress:

    0 ... mixed_from    flips and resizes alone
    ... plain_from      images are mixed; crops, zoom and color, but mosaics are not cropped
    ... bare_from       crops, zoom and color
    ... 1               flips and resizes alone

The numbers are keys of `dataset`; what is done, and in which part, stands in `dataloader.train.mapper`.
"""

from omegaconf import OmegaConf

from detrex_ext import get_config
from detrex_ext.config import apply_overlay, target_name
from detrex_ext.data import CopyBlend, During
from detrex_ext.runtime import LazyCall as L

PHASE = dict(since="${dataset.mixed_from}", until="${dataset.bare_from}")
STRONG = ("RandomCrop", "RandomAffine", "RandomChannelGain", "RandomColor")


def apply(cfg, mosaic=0.5, mixup=0.5, copy_blend=0.5, mixed_from=0.07, plain_from=0.5, bare_from=0.86, schedule=True):
    """Shares of the samples, the ends of the parts, and whether the learning rate goes with them."""
    apply_overlay(cfg, "mosaic", mosaic=mosaic, mixup=mixup, plain_from=plain_from)
    for key, value in dict(copy_blend=copy_blend, mixed_from=mixed_from, bare_from=bare_from).items():
        OmegaConf.update(cfg, f"dataset.{key}", value, force_add=True)
    mapper = cfg.dataloader.train.mapper
    lists = {name: list(mapper[name]) for name in ("augmentation", "augmentation_with_crop") if mapper.get(name)}
    if not any(target_name(step) == "CopyBlend" for steps in lists.values() for step in steps):
        if len(lists) == 2:
            lists["augmentation_with_crop"] = _only_crop(*lists.values())
        for name, steps in lists.items():
            mapper[name] = [part for step in steps for part in _in_phases(step)]
    if schedule:
        warmup = cfg.lr_multiplier.get("warmup_iters", 0)
        cfg.lr_multiplier = get_config("common/schedule.py").lr_multiplier_flat_cosine
        cfg.lr_multiplier.warmup_iters = warmup
    return cfg


def _in_phases(step):
    name = target_name(step)
    if name in ("Mosaic", "MixUp"):
        step.since = "${dataset.mixed_from}"
    if name in STRONG:
        return [L(During)(steps=[step], on_mosaics=name != "RandomCrop", **PHASE)]
    blend = L(CopyBlend)(prob="${dataset.copy_blend}", since="${dataset.mixed_from}", until="${dataset.plain_from}")
    return [step, blend] if name == "MixUp" else [step]


def _only_crop(plain, crop):
    """The second list with what it has in place of the first's middle as one step: else it is the first."""
    before = after = 0
    while before < min(len(plain), len(crop)) and plain[before] == crop[before]:
        before += 1
    while after < min(len(plain), len(crop)) - before and plain[-1 - after] == crop[-1 - after]:
        after += 1
    middle, end = crop[before : len(crop) - after], len(crop) - after
    return [*crop[:before], *([L(During)(steps=middle, on_mosaics=False, **PHASE)] if middle else []), *crop[end:]]
