"""Our AdaMixer around a toy backbone, and what its comparisons share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrex_ext.checkpoint import load_state, to_layout
from detrex_ext.config import load_config
from detrex_ext.modeling.decoders import AdaMixerDecoder
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.encoders import FlattenEncoder
from detrex_ext.modeling.necks import ChannelMapper
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.modeling.preprocess import Preprocess
from detrex_ext.modeling.queries import WholeImageQueries
from detrex_ext.runtime import instantiate

from .gaps import within
from .models import truth
from .reference_adamixer import Dims, State

SIZES, OBJECTS = [(120, 171), (150, 99)], [4, 3]
Stages = list[tuple[Tensor, Tensor]]


class ToyBackbone(nn.Module):
    """Fixed maps of an image at strides 4 to 32: what it computes does not matter, all sides share it."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        make = torch.Generator().manual_seed(7)
        for i, c in enumerate(channels):
            kernel = torch.randn(c, 3, 3, 3, generator=make, dtype=torch.float64) / 5
            self.register_buffer(f"kernel{i}", kernel.float(), persistent=False)

    def forward(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        kernels = [k for _, k in self.named_buffers()]
        return {f"res{i + 2}": F.conv2d(images_B3HW, k, stride=4 * 2**i, padding=1) for i, k in enumerate(kernels)}


def our_model(d: Dims, state: State, dtype: torch.dtype, mask_padding: bool = False) -> Detector:
    """Our model of these sizes, with weights under the official names and the rules of the shipped config."""
    names = [f"res{i + 2}" for i in range(len(d.features))]
    model = Detector(
        preprocess=Preprocess(size_divisor=32),
        backbone=ToyBackbone(d.features),
        neck=ChannelMapper(dict(zip(names, d.features, strict=True)), d.channels, shared_norm=True),
        encoder=FlattenEncoder(),
        queries=WholeImageQueries(d.queries, d.channels),
        decoder=AdaMixerDecoder(
            d.classes, d.channels, d.heads, d.groups, d.in_points, d.out_points, d.ffn, d.stages,
            mask_padding=mask_padding,
        ),
        postprocess=Postprocess(d.queries),
        num_classes=d.classes,
        rules=instantiate(load_config("adamixer_r50_12ep").model.rules),
    ).to(dtype)  # fmt: skip
    assert load_state(model, state, strict=True).complete
    return model


def features_of(model: Detector, items: list[dict[str, Any]]) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """The backbone's maps of a batch, and the size of each image."""
    images = model.preprocess(items).images_B3HW
    with torch.no_grad():
        return list(model.backbone(images).values()), [tuple(x["image"].shape[1:]) for x in items]


def objects_of(items: list[dict[str, Any]], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Labels and xyxy boxes in pixels, as they come back from what we read."""
    labels, boxes = truth(items, dtype)
    found = []
    for item, box in zip(items, boxes, strict=True):
        h, w = item["image"].shape[1:]
        corners = torch.cat([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], -1)
        found.append(corners * box.new_tensor([w, h, w, h]))
    return labels, found


def worst(sets: list, stages: Stages, sizes: list[tuple[int, int]]) -> float:
    """Largest difference of a logit, or of a box in units of the image, over all stages."""
    assert [s.stage for s in sets] == list(range(len(stages)))
    whwh = stages[0][1].new_tensor([[w, h, w, h] for h, w in sizes])[:, None]
    far = []
    for s, (logits, boxes) in zip(sets, stages, strict=True):
        low, high = (boxes / whwh).chunk(2, -1)
        far += [s.logits_BQK - logits, s.boxes_BQ4 - torch.cat([(low + high) / 2, high - low], -1)]
    return max(float(x.detach().abs().max()) for x in far)


def compare_losses(
    model: Detector,
    items: list,
    expected: list[dict[str, Tensor]],
    tolerance: float,
    what: str = " losses",
) -> None:
    """Every loss of every stage, relative; then ``backward`` on both totals."""
    found = model.train()(items)
    for stage, losses in enumerate(expected):
        for name, value in losses.items():
            ours, theirs = float(found.stats[f"stage{stage}/loss_{name}"]), float(value.detach())
            within(what, abs(ours - theirs) / max(abs(theirs), 1e-6), tolerance)
    assert len(found.stats) == sum(map(len, expected))
    sum(found.values()).backward()
    sum(v for losses in expected for v in losses.values()).backward()


def gradient_gap(model: Detector, theirs: dict[str, Tensor | None]) -> float:
    """Largest difference of a gradient's tensor, relative to the tensor's norm, or to 1e-3 of the whole gradient's."""
    ours = to_layout({k: p.grad for k, p in model.named_parameters()}, "mmdet")
    names = [k for k in theirs if "init_proposal" not in k]
    assert {k for k in ours if "init_proposal" not in k} == set(names)
    pairs = {k: (ours[k], torch.zeros_like(ours[k]) if theirs[k] is None else theirs[k]) for k in names}
    floor = 1e-3 * sum(float(b.norm()) ** 2 for _, b in pairs.values()) ** 0.5
    assert floor > 0
    return max(float((a - b).norm()) / max(float(b.norm()), floor) for a, b in pairs.values())
