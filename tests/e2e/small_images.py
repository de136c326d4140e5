"""An overlay: images of 64 pixels, two at a time, in this process and on the CPU, for any config."""

from __future__ import annotations

from omegaconf import DictConfig, ListConfig, OmegaConf

SIDE = 64


def _shrink(node: DictConfig | ListConfig) -> None:
    """Sets the sizes of each resizing below a node that states them itself."""
    if "short_edge_length" in node and not OmegaConf.is_interpolation(node, "short_edge_length"):
        several = not isinstance(node.short_edge_length, int)
        node.short_edge_length, node.max_size = [SIDE] if several else SIDE, SIDE
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        if not OmegaConf.is_interpolation(node, key) and OmegaConf.is_config(node[key]):
            _shrink(node[key])


def apply(cfg: DictConfig) -> DictConfig:
    """The config with small images."""
    _shrink(cfg.dataloader)
    if "short_edge" in cfg.get("dataset", {}):
        cfg.dataset.short_edge = cfg.dataset.long_edge = SIDE
    cfg.dataloader.train.total_batch_size = 2
    cfg.dataloader.train.num_workers = cfg.dataloader.test.num_workers = 0
    cfg.train.amp.enabled = False
    cfg.train.device = "cpu"
    return cfg
