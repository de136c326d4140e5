"""Group queries (Group-DETR) over any host: `--overlay group`."""

from detrex_ext.modeling.queries import GroupQueries, wrap_source
from detrex_ext.runtime import LazyCall as L


def apply(cfg, groups=11):
    """``groups`` groups of queries in training, the host's among them."""
    wrap_source(cfg.model, L(GroupQueries)(groups=groups))
    cfg.model.rules.group = "${model.rules.main}"
    return cfg
