"""Our models, and batches, for comparison: narrow ones around a toy backbone, and the published one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrex_ext.modeling.decoders import DABDecoder, DeformableDecoder, DETRDecoder
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.encoders import DeformableEncoder, DenseEncoder
from detrex_ext.modeling.necks import ChannelMapper, InputProj
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.modeling.preprocess import Preprocess
from detrex_ext.modeling.queries import (
    AnchorQueries,
    DenoisingQueries,
    LearnedQueries,
    PositionQueries,
    TwoStageQueries,
)
from detrex_ext.runtime import Boxes, Instances
from detrex_ext.structures import LossDict

from .gaps import relative, within
from .reference import Dims
from .reference_dense import DenseDims
from .weights import detrex_name

VARIANTS = {
    "plain": Dims(),
    "refine": Dims(refine=True),
    "two_stage": Dims(refine=True, two_stage=True),
}
_DINO = Dims(refine=True, two_stage=True, dino=True, ffn=2048, queries=900)
DINO_VARIANTS = {
    "dino": _DINO,
    "dino_5scale": replace(_DINO, levels=5, feature_channels=(256, 512, 1024, 2048)),
}


def narrow_dims(variant: str) -> Dims:
    """A variant with 32 channels and two layers on each side."""
    full = (VARIANTS | DINO_VARIANTS)[variant]
    return replace(
        full, channels=32, heads=4, points=3, encoder_layers=2, decoder_layers=2, ffn=48, classes=7, queries=20,
        feature_channels=(8, 12, 16, 20)[: len(full.feature_channels)],
    )  # fmt: skip


class ToyBackbone(nn.Module):
    """Fixed maps of an image at strides up to 32: what it computes does not matter, both sides share it."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        for i, c in enumerate(channels):
            kernel = torch.randn(c, 3, 3, 3, generator=generator, dtype=torch.float64) / 5
            self.register_buffer(f"kernel{i}", kernel.float(), persistent=False)

    def forward(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        kernels = list(self.buffers())
        strides = [32 // 2**i for i in range(len(kernels))][::-1]
        maps = [F.conv2d(images_B3HW, k, stride=s, padding=1) for k, s in zip(kernels, strides, strict=True)]
        return dict(zip(level_names(len(maps)), maps, strict=True))


def level_names(count: int) -> tuple[str, ...]:
    """Names of the last ``count`` stages of a backbone."""
    return tuple(f"res{i}" for i in range(6 - count, 6))


def narrow_model(
    dims: Dims, dtype: torch.dtype, parity_padding: bool, rules: dict[str, Any] | None = None, **decoder: Any
) -> Detector:
    """Our model of these sizes, dropout 0; ``decoder`` are further options of it."""
    shared: dict[str, Any] = {"dim": dims.channels, "num_heads": dims.heads, "num_levels": dims.levels}
    shared |= {"num_points": dims.points, "ffn_dim": dims.ffn, "dropout": 0.0}
    queries = LearnedQueries(dims.queries, dims.channels)
    if dims.two_stage:
        queries = TwoStageQueries(dims.classes, dims.queries, dims.channels)
    more = decoder
    if dims.dino:
        options = {"content": "learned", "score": "max", "supervise": "selected"}
        source = TwoStageQueries(dims.classes, dims.queries, dims.channels, **options)
        queries = DenoisingQueries(source, dims.classes, dims.channels)
        more = {"position": "reference", "look_forward_twice": True, "post_norm": True, **decoder}
    names = level_names(len(dims.feature_channels))
    return Detector(
        preprocess=Preprocess(parity_padding=parity_padding),
        backbone=ToyBackbone(dims.feature_channels),
        neck=ChannelMapper(dict(zip(names, dims.feature_channels, strict=True)), dims.channels, dims.levels),
        encoder=DeformableEncoder(**shared, num_layers=dims.encoder_layers),
        queries=queries,
        decoder=DeformableDecoder(dims.classes, **shared, num_layers=dims.decoder_layers, refine=dims.refine, **more),
        postprocess=Postprocess(),
        num_classes=dims.classes,
        rules=rules,
    ).to(dtype)


def narrow_dense(
    dims: DenseDims, dtype: torch.dtype, parity_padding: bool, rules: dict[str, Any] | None = None
) -> Detector:
    """Our DETR or DAB-DETR of these sizes, dropout 0."""
    shared: dict[str, Any] = {"dim": dims.channels, "num_heads": dims.heads, "ffn_dim": dims.ffn, "dropout": 0.0}
    encoder = {"num_layers": dims.encoder_layers, "temperature": dims.temperature}
    if dims.dab:
        encoder |= {"scale_position": True, "prelu": True}
        queries = AnchorQueries(dims.queries, dims.channels, dims.patterns)
        decoder = DABDecoder(
            dims.classes, **shared, num_layers=dims.decoder_layers, parity_padding=parity_padding
        )
    else:
        queries = PositionQueries(dims.queries, dims.channels)
        decoder = DETRDecoder(dims.classes, **shared, num_layers=dims.decoder_layers)
    return Detector(
        preprocess=Preprocess(parity_padding=parity_padding),
        backbone=ToyBackbone((dims.features,)),
        neck=InputProj(dims.features, dims.channels),
        encoder=DenseEncoder(**shared, **encoder),
        queries=queries,
        decoder=decoder,
        postprocess=Postprocess(300 if dims.dab else None),
        num_classes=dims.classes,
        rules=rules,
    ).to(dtype)


def batch(
    sizes: list[tuple[int, int]],
    objects: list[int],
    classes: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, Any]]:
    """Images of noise with boxes well inside, as detectron2's input dicts; in double images and boxes are double."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for (h, w), count in zip(sizes, objects, strict=True):
        center = torch.rand(count, 2, generator=generator) * 0.6 + 0.2
        half = torch.rand(count, 2, generator=generator) * 0.15 + 0.02
        scale = torch.tensor([w, h, w, h])
        instances = Instances((h, w))
        instances.gt_boxes = Boxes(torch.cat([center - half, center + half], -1) * scale)
        instances.gt_classes = torch.randint(0, classes, (count,), generator=generator)
        image = torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8)
        if dtype == torch.float64:
            image, instances.gt_boxes.tensor = image.double(), instances.gt_boxes.tensor.double()
        items.append({"image": image, "instances": instances, "height": h, "width": w})
    return items


def truth(items: list[dict[str, Any]], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Labels and normalized cxcywh boxes of each image, read from the pixel boxes in fp32 as both projects do."""
    labels, boxes = [], []
    for item in items:
        h, w = item["instances"].image_size
        x0, y0, x1, y1 = (item["instances"].gt_boxes.tensor / torch.tensor([w, h, w, h])).unbind(-1)
        boxes.append(torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1).to(dtype))
        labels.append(item["instances"].gt_classes)
    return labels, boxes


def compare_losses(found: LossDict, expected: dict[str, Tensor], tolerance: float, what: str = " losses") -> None:
    """Every loss of every stage, and the total, relative; ``expected`` has detrex's names: no suffix = last stage."""
    last = max((int(name.rpartition("_")[2]) + 1 for name in expected if name[-1].isdigit()), default=0)
    per_stage = {}
    for name, value in expected.items():
        term, *suffix = name.removeprefix("loss_").split("_")
        group = "".join(f"_{x}" for x in suffix if not x.isdigit())
        stage = -1 if group == "_enc" else next((int(x) for x in suffix if x.isdigit()), last)
        key = f"stage{stage}/loss_{term}{group}"
        per_stage[key] = float(value.detach())
    assert set(per_stage) == {key for key in found.stats if "/loss_" in key}
    for key, value in per_stage.items():
        within(what, relative(found.stats[key], value), tolerance)
    within(what, relative(*(sum(losses.values()) for losses in (found, expected))), tolerance)


def compare_gradients(
    model: nn.Module,
    reference: dict[str, Tensor | None],
    layers: int,
    whole: float,
    each: float,
    what: str = " gradients",
) -> None:
    """The gradient of all parameters together, and of each parameter; norms of the difference, relative.

    A parameter with less than a thousandth of the whole gradient is held to ``each`` of that thousandth.

    Args:
        model: ours, after ``backward``.
        reference: by detrex's names; None or zeros where a tensor takes no part.
        layers: of the decoder.
        whole, each: tolerances.
        what: name in the run's table.
    """
    nothing = torch.zeros(())
    errors, sizes = {}, {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            ours, theirs = p.grad, reference[detrex_name(name, layers)]
            ours, theirs = (nothing if g is None else g for g in (ours, theirs))
            errors[name], sizes[name] = float((ours - theirs).norm()), float(theirs.norm())
    total = math.hypot(*sizes.values())
    assert total > 0
    within(f"{what}, whole", math.hypot(*errors.values()) / total, whole)
    worst = max(errors, key=lambda name: errors[name] / max(sizes[name], 1e-3 * total))
    within(f"{what}, each", errors[worst] / max(sizes[worst], 1e-3 * total), each)
