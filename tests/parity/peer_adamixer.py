"""The official AdaMixer on a CPU, from a checkout of it: ``DETREX_EXT_ADAMIXER=/path/to/AdaMixer``.

It is a fork of mmdetection 2.x, which needs mmcv with compiled operators. What AdaMixer itself uses of mmcv is little:
a registry, a base class, an attention, a feed-forward block and a convolution. Those are stood in for here by what mmcv
1.3.3 does. All else that computes is the checkout's own files: neck, query generator, head, decoder stage, costs,
assigner, sampler and losses. Names that are imported and not used are None.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor, nn

from .reference_adamixer import Dims

VARIABLE = "DETREX_EXT_ADAMIXER"
ROOT = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
STRIDES = [4, 8, 16, 32]
FILES = (
    "core.bbox.assigners.assign_result",
    "core.bbox.assigners.base_assigner",
    "core.bbox.samplers.sampling_result",
    "core.bbox.samplers.base_sampler",
    "core.bbox.samplers.pseudo_sampler",
    "core.bbox.coder.base_bbox_coder",
    "core.bbox.coder.delta_xywh_bbox_coder",
    "models.roi_heads.bbox_heads.bbox_head",
)


class _Registry(dict):
    def register_module(self) -> Callable[[type], type]:
        return lambda cls: self.setdefault(cls.__name__, cls)

    def build(self, cfg: dict[str, Any]) -> Any:
        options = dict(cfg)
        return self[options.pop("type")](**options)


class _BaseModule(nn.Module):
    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__()

    def init_weights(self) -> None:
        for child in self.children():
            if hasattr(child, "init_weights"):
                child.init_weights()


class _Attention(nn.Module):
    """mmcv 1.3.3: the residual is the first argument as given, with whatever position is in it."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn = nn.MultiheadAttention(dim, num_heads, dropout)

    def forward(self, query: Tensor, attn_mask: Tensor) -> Tensor:
        return query + self.attn(query, query, query, attn_mask=attn_mask)[0]


class _FFN(nn.Module):
    def __init__(self, dim: int, hidden: int, num_fcs: int, act_cfg: Any, dropout: float) -> None:
        super().__init__()
        first = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.layers = nn.Sequential(first, nn.Linear(hidden, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class _ConvModule(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, **options: Any) -> None:
        super().__init__()
        assert not options.get("norm_cfg") and not options.get("act_cfg")
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def _same(*_: Any, **__: Any) -> Callable:
    return lambda f: f


@contextlib.contextmanager
def stand_ins(
    root: Path,
) -> Iterator[tuple[Callable[[str], types.ModuleType], Callable[..., types.ModuleType], _Registry]]:
    """``load`` a module of a checkout by its dotted name, ``stub`` another; nothing stays in ``sys.modules``."""
    registry = _Registry()

    def stub(name: str, **content: Any) -> types.ModuleType:
        module = sys.modules.get(name) or types.ModuleType(name)
        module.__path__ = []
        vars(module).update(content)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(stub(parent) if parent not in sys.modules else sys.modules[parent], child, module)
        return module

    def load(name: str) -> types.ModuleType:
        spec = importlib.util.spec_from_file_location(name, root / (name.replace(".", "/") + ".py"))
        module = importlib.util.module_from_spec(spec)
        parent = name.rpartition(".")[0]
        if parent not in sys.modules:
            stub(parent)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    ours = {k: v for k, v in sys.modules.items() if k.split(".")[0] not in ("mmcv", "mmdet")}
    with mock.patch.dict(sys.modules, ours, clear=True):
        stub("mmcv", jit=_same)
        stub("mmcv.ops", sigmoid_focal_loss=None)
        stub("mmcv.runner", BaseModule=_BaseModule, OptimizerHook=object, auto_fp16=_same, force_fp32=_same)
        stub(
            "mmcv.cnn",
            ConvModule=_ConvModule,
            bias_init_with_prob=lambda p: -math.log((1 - p) / p),
            build_activation_layer=lambda cfg: nn.ReLU(),
            build_norm_layer=lambda cfg, width: ("ln", nn.LayerNorm(width)),
        )
        stub("mmcv.cnn.bricks.transformer", FFN=_FFN, MultiheadAttention=_Attention)
        stub("mmdet.models.builder", HEADS=registry, NECKS=registry, LOSSES=registry, build_loss=registry.build)
        stub("six.moves", map=map, zip=zip)
        stub("mmdet.models.utils", build_transformer=None)
        stub("mmdet.core.mask.structures", BitmapMasks=None, PolygonMasks=None)
        stub("mmdet.core.bbox.builder", BBOX_ASSIGNERS=registry, BBOX_CODERS=registry, BBOX_SAMPLERS=registry)
        stub("mmdet.core.bbox.iou_calculators.builder", IOU_CALCULATORS=registry)
        stub("mmdet.core.bbox.match_costs.builder", MATCH_COST=registry)
        stub("mmdet.core.bbox.match_costs", build_match_cost=registry.build)
        stub("mmdet.utils", util_mixins=load("mmdet.utils.util_mixins"))
        stub("mmdet.models.losses", accuracy=load("mmdet.models.losses.accuracy").accuracy)
        mean = load("mmdet.core.utils.dist_utils").reduce_mean
        stub("mmdet.models.dense_heads.atss_head", reduce_mean=mean)  # which takes it from there
        stub(
            "mmdet.core",
            multi_apply=load("mmdet.core.utils.misc").multi_apply,
            build_bbox_coder=registry.build,
            multiclass_nms=None,
        )
        for name in FILES:
            load(f"mmdet.{name}")
        yield load, stub, registry


class Official(nn.Module):
    """Neck, query generator and stages under the names of the official state dict.

    Args:
        dims: sizes.
        root: the checkout.
    """

    def __init__(self, dims: Dims, root: Path | None = ROOT) -> None:
        super().__init__()
        with stand_ins(root) as (load, stub, registry):
            iou = load("mmdet.core.bbox.iou_calculators.iou2d_calculator")
            stub("mmdet.core.bbox.iou_calculators", bbox_overlaps=iou.bbox_overlaps)
            self._boxes = boxes = load("mmdet.core.bbox.transforms")
            stub("mmdet.core", bbox_overlaps=iou.bbox_overlaps, bbox_cxcywh_to_xyxy=boxes.bbox_cxcywh_to_xyxy)
            for name in ("utils", "focal_loss", "smooth_l1_loss", "iou_loss"):
                load(f"mmdet.models.losses.{name}")
            load("mmdet.core.bbox.match_costs.match_cost")
            load("mmdet.core.bbox.assigners.hungarian_assigner")
            load("mmdet.models.necks.identity_fpn")
            load("mmdet.models.dense_heads.query_generator")
            for name in ("sampling_3d_operator", "adaptive_mixing_operator", "adamixer_decoder_stage"):
                load(f"mmdet.models.roi_heads.bbox_heads.{name}")
            self._build(dims, registry)

    def _build(self, d: Dims, registry: _Registry) -> None:
        self.neck = registry["ChannelMapping"](list(d.features), d.channels, len(d.features), add_extra_convs=False)
        self.rpn_head = registry["InitialQueryGenerator"](d.queries, d.channels)
        self.rpn_head.init_weights()
        self.roi_head = nn.Module()
        self.roi_head.bbox_head = nn.ModuleList(
            registry["AdaMixerDecoderStage"](
                num_classes=d.classes,
                num_heads=d.heads,
                feedforward_channels=d.ffn,
                content_dim=d.channels,
                feat_channels=d.channels,
                in_points=d.in_points,
                out_points=d.out_points,
                n_groups=d.groups,
                bbox_coder=dict(type="DeltaXYWHBBoxCoder", clip_border=False),
                loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
                loss_bbox=dict(type="L1Loss", loss_weight=5.0),
                loss_iou=dict(type="GIoULoss", loss_weight=2.0),
            )
            for _ in range(d.stages)
        )
        for stage in self.roi_head.bbox_head:
            stage.init_weights()
        self.sampler = registry["PseudoSampler"]()
        self.assigner = registry["HungarianAssigner"](
            dict(type="FocalLossCost", weight=2.0),
            dict(type="BBoxL1Cost", weight=5.0),
            dict(type="IoUCost", iou_mode="giou", weight=2.0),
        )

    def forward(self, features: list[Tensor], sizes: list[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """Logits and boxes (xyxy, pixels) of each stage.

        Args:
            features: backbone maps.
            sizes: (height, width) of each image without padding.
        """
        maps = self.neck([f.contiguous() for f in features])
        metas = [{"img_shape": (*size, 3)} for size in sizes]
        xyzr, content, _ = self.rpn_head.forward_train(maps, metas)
        found = []
        for stage in self.roi_head.bbox_head:
            logits, delta, content = stage(maps, xyzr, content, featmap_strides=STRIDES)
            xyzr, boxes = stage.refine_xyzr(xyzr, delta)
            xyzr = xyzr.detach()
            found.append((logits, boxes))
        return found

    def losses(
        self,
        found: list[tuple[Tensor, Tensor]],
        sizes: list[tuple[int, int]],
        labels: list[Tensor],
        boxes: list[Tensor],
    ) -> list[dict[str, Tensor]]:
        """The weighted losses of each stage; ``boxes`` are xyxy in pixels."""
        whwh = boxes[0].new_tensor([[w, h, w, h] for h, w in sizes])[:, None]
        config = types.SimpleNamespace(pos_weight=1)
        out = []
        for stage, (logits, predicted) in zip(self.roi_head.bbox_head, found, strict=True):
            samples = []
            for i, size in enumerate(sizes):
                normalized = self._boxes.bbox_xyxy_to_cxcywh(predicted[i].detach() / whwh[i])
                result = self.assigner.assign(
                    normalized, logits[i].detach(), boxes[i], labels[i], {"img_shape": (*size, 3)}
                )
                samples.append(self.sampler.sample(result, predicted[i].detach(), boxes[i]))
            targets = stage.get_targets(samples, boxes, labels, config, True)
            every = whwh.expand(-1, logits.shape[1], -1)
            out.append(stage.loss(logits.flatten(0, 1), predicted.reshape(-1, 4), *targets, imgs_whwh=every))
        return out
