"""Any host small enough to learn the generated shapes on a CPU in minutes: `--overlay tiny`.

The host keeps its data flow, losses and number of levels; its sizes, its backbone, the data (`python -m
detrex_ext.data.shapes output/shapes`) and the recipe become those of `quickstart.py`, at a lower learning rate. Lay it
before other overlays.
"""

from detrex_ext import get_config
from detrex_ext.modeling.backbones import BasicResNet, swap_backbone
from detrex_ext.runtime import LazyCall as L

WIDTHS = dict(res2=32, res3=64, res4=128, res5=192)
# `dim` is the whole model's; the others are of every part that has them
SIZES = dict(
    dim=128, ffn_dim=512, num_layers=3, dropout=0.0, num_queries=40, number=20, in_points=16, out_points=16,
    channels=64, num_tokens=100, num_proposals=100,
)  # fmt: skip
# attention over a whole map diverges or stands still at the rate that suits sampling, as does dynamic mixing
LEARNING_RATES = dict(DETRDecoder=2e-4, TokenHead=2e-4, DABDecoder=5e-4, AdaMixerDecoder=3e-4)


def apply(cfg, **sizes):
    """`sizes` override those of the table."""
    sizes = {**SIZES, **sizes}
    recipe = get_config("quickstart.py")
    recipe.train.output_dir = f"{cfg.train.output_dir}_tiny"
    for part in ("dataset", "dataloader", "optimizer", "lr_multiplier", "train"):
        cfg[part] = recipe[part]
    target = cfg.model.decoder._target_  # a class, or its name in a config from a file of text
    name = getattr(target, "__name__", str(target).rpartition(".")[2])
    cfg.optimizer.lr = LEARNING_RATES.get(name, 1e-3)
    if isinstance(cfg.model.neck.in_channels, int):
        # of an image of 128 px the usual map has 16 places
        cfg.model.neck.in_feature = "res4"
        swap_backbone(cfg, L(BasicResNet)(widths=list(WIDTHS.values())[:3], blocks=[1, 1, 1]), WIDTHS)
    else:
        swap_backbone(cfg, L(BasicResNet)(widths=list(WIDTHS.values())), WIDTHS)
    cfg.model.dim = sizes.pop("dim")
    parts = [cfg.model.neck, cfg.model.encoder, cfg.model.decoder, cfg.model.queries]
    while "source" in parts[-1]:
        parts.append(parts[-1].source)
    if "rpn" in cfg.model.encoder:
        parts.append(cfg.model.encoder.rpn)
    for part in parts:
        part.update({name: size for name, size in sizes.items() if name in part})
    if "num_layers" in cfg.model.encoder:
        cfg.model.encoder.num_layers = 1
    decoder = cfg.model.decoder
    for name in ("order", "eval_order"):
        if decoder.get(name):
            decoder[name] = [min(layer, sizes["num_layers"] - 1) for layer in decoder[name]]
    return cfg
