"""A config file of detrex as it lies, trained by this project: `--config-file THEIRS.py --overlay from_detrex`.

Model, schedule, optimizer and options of `train` stay detrex's, and of the data the batch and the number of workers.
The data set is named by `--data DIR` or the four paths under `dataset`, and its classes are counted. The file imports
detrex and detectron2, so both must be importable. Lay it before other overlays.
"""

from omegaconf import OmegaConf

from detrex_ext import get_config
from detrex_ext.config import target_name, upgrade
from detrex_ext.errors import UserError
from detrex_ext.integrations import as_guest


def apply(cfg):
    """`train` gets the keys that it lacks, with the shipped values."""
    if "model" not in cfg or target_name(cfg.model) in ("Detector", "from_detrex"):
        raise UserError("the overlay from_detrex is for a config file of detrex; this one needs none")
    theirs = cfg.dataloader.train
    data = get_config("common/data/coco_detr.py")
    cfg.model, cfg.dataset, cfg.dataloader = as_guest(cfg.model), data.dataset, data.dataloader
    cfg.model.num_classes = None  # read from the data
    for key in ("total_batch_size", "num_workers"):
        if key in theirs:
            cfg.dataloader.train[key] = theirs[key]
    cfg.train = OmegaConf.merge(get_config("common/train.py").train, upgrade(cfg).train)
    return cfg
