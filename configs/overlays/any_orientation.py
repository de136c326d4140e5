"""For images without an up and a down, as of cells or from the air: `--overlay any_orientation`.

Beside a flip from left to right, one from top to bottom, and x exchanged with y on square images.
"""

from detrex_ext.config import target_name
from detrex_ext.data import RandomFlip, RandomTranspose
from detrex_ext.runtime import LazyCall as L


def apply(cfg, prob=0.5):
    """Probability of each, behind the flip of a config; those that it has already stay as they are."""
    mapper = cfg.dataloader.train.mapper
    for name in ("augmentation", "augmentation_with_crop"):
        steps = list(mapper.get(name) or ())
        flips = [i for i, step in enumerate(steps) if target_name(step) == "RandomFlip"]
        if not steps or any(steps[i].get("vertical") for i in flips):
            continue
        parts = [L(RandomFlip)(prob=prob, horizontal=False, vertical=True)]
        if "RandomTranspose" not in map(target_name, steps):
            parts.append(L(RandomTranspose)(prob=prob))
        behind = flips[-1] + 1 if flips else int(target_name(steps[0]).startswith("Resize"))
        mapper[name] = [*steps[:behind], *parts, *steps[behind:]]
    return cfg
