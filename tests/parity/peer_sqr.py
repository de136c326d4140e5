"""The official query recollection on a CPU, from a checkout of it: ``DETREX_EXT_SQR=/path/to/SQR``.

As AdaMixer, it is a fork of mmdetection 2.x. Its two AdaMixer decoders run over the checkout's own stages, assigner and
losses; its Deformable-DETR head, transformer and decoder over layers read from their description (``reference.py``),
without an encoder. The forms called fast repeat the memory for every set, the slow ones run set by set.
"""

from __future__ import annotations

import os
import re
import types
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from . import reference
from .peer_adamixer import Official, _BaseModule, stand_ins
from .reference import Scene
from .reference_adamixer import Dims, State

VARIABLE = "DETREX_EXT_SQR"
ROOT = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
# the slices of the list of all sets so far that each stage takes, as its configs have them
START_Q, END_Q = [0, 0, 1, 2, 4, 7, 12], [1, 2, 4, 7, 12, 20, 33]
Sets = list[tuple[Tensor, Tensor]]


class _Cascade(nn.Module):
    """What the decoders use of mmdet's base: heads, and an assigner and a sampler for each."""

    def __init__(
        self, num_stages: int, stage_loss_weights: Any, bbox_head: nn.ModuleList, train_cfg: Any, **_: Any
    ) -> None:
        super().__init__()
        self.bbox_head, self.train_cfg = bbox_head, [train_cfg] * num_stages
        self.bbox_assigner, self.bbox_sampler = [train_cfg.assigner] * num_stages, [train_cfg.sampler] * num_stages


class RecollectingAdaMixer(Official):
    """The official AdaMixer, whose stages the checkout's two recollecting decoders run in training."""

    def __init__(self, dims: Dims) -> None:
        super().__init__(dims, ROOT)
        with stand_ins(ROOT) as (load, stub, registry):
            stub("mmdet.core", bbox2result=None, bbox2roi=None, bbox_xyxy_to_cxcywh=self._boxes.bbox_xyxy_to_cxcywh)
            stub("mmdet.core.bbox.samplers", PseudoSampler=registry["PseudoSampler"])
            stub("mmdet.models.roi_heads.cascade_roi_head", CascadeRoIHead=_Cascade)
            self.sampler = registry["PseudoSampler"]()
            names = [f"adamixer_decoder_Qrecycle{end}" for end in ("", "_optimize")]
            for name in names:
                load(f"mmdet.models.roi_heads.{name}")
            self._decoders = [registry[name.replace("adamixer_decoder", "AdaMixerDecoder")] for name in names]

    def recollect(
        self,
        features: list[Tensor],
        sizes: list[tuple[int, int]],
        objects: tuple[list[Tensor], list[Tensor]],
        fast: bool,
        slices: tuple[list[int], list[int]] = (START_Q, END_Q),
    ) -> tuple[Sets, dict[str, Tensor]]:
        """Logits and boxes (xyxy, pixels) of every set in the order they are made, and the losses by stage."""
        maps = self.neck([f.contiguous() for f in features])
        metas = [{"img_shape": (*size, 3)} for size in sizes]
        xyzr, content, whwh = self.rpn_head.forward_train(maps, metas)
        heads = self.roi_head.bbox_head
        decoder = self._decoders[fast](
            num_stages=len(heads),
            stage_loss_weights=[1.0] * len(heads),
            bbox_head=heads,
            train_cfg=types.SimpleNamespace(pos_weight=1, assigner=self.assigner, sampler=self.sampler),
            start_q=slices[0],
            end_q=slices[1],
        )
        stage, found = decoder._bbox_forward, []

        def watched(*args: Any) -> dict[str, Any]:
            out = stage(*args)
            pairs = (out[k].split(len(sizes)) for k in ("cls_score", "decode_bbox_pred"))
            found.extend(zip(*pairs, strict=True))
            return out

        decoder._bbox_forward = watched
        labels, boxes = objects
        return found, decoder.forward_train(maps, xyzr, content, metas, boxes, labels, imgs_whwh=whwh)


class _Layers(nn.Module):
    """mmcv's sequence of layers: here each is a function of the weights of its name."""

    def __init__(self, d: reference.Dims, state: State) -> None:
        super().__init__()
        self.num_layers = d.decoder_layers
        self.layers = [self._layer(d, state, f"transformer.decoder.layers.{i}") for i in range(d.decoder_layers)]

    @staticmethod
    def _layer(d: reference.Dims, w: State, name: str) -> Any:
        def layer(query: Tensor, *_: Any, key_padding_mask: Tensor, reference_points: Tensor, **given: Any) -> Tensor:
            x, pos, memory = (t.transpose(0, 1) for t in (query, given["query_pos"], given["value"]))
            scene = Scene(given["spatial_shapes"].tolist(), key_padding_mask, None)
            x = reference.norm(w, f"{name}.norms.0", reference.self_attention(w, f"{name}.attentions.0", d, x, pos))
            at = (f"{name}.attentions.1", d, x, pos, reference_points, memory, scene)
            x = reference.norm(w, f"{name}.norms.1", reference.deformable_attention(w, *at))
            return reference.norm(w, f"{name}.norms.2", reference.feed_forward(w, name, x)).transpose(0, 1)

        return layer


class _Head(nn.Module):
    def __init__(self, num_query: int, num_classes: int, transformer: Any) -> None:
        super().__init__()
        self.num_query, self.cls_out_channels, self.num_reg_fcs = num_query, num_classes, 2
        self.transformer, self.embed_dims = transformer, transformer.embed_dims
        self._init_layers()

    def positional_encoding(self, mask_BHW: Tensor) -> Tensor:
        """Only an encoder would look at it."""
        B, H, W = mask_BHW.shape
        return torch.zeros(B, self.embed_dims, H, W)


class _Memory(nn.Module):
    """The place of an encoder: memory is what the neck gives."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.embed_dims = dims

    def forward(self, query: Tensor, **_: Any) -> Tensor:
        return query


class RecollectingDeformable:
    """The official Deformable-DETR head over its transformer and recollecting decoder.

    Args:
        d: sizes, without an encoder.
        state: weights, detrex's names.

    Attributes:
        leaves: the same weights by the same names; gradients gather there.
    """

    def __init__(self, d: reference.Dims, state: State) -> None:
        self.leaves = {k: v.clone().requires_grad_() for k, v in state.items() if not k.startswith("neck.")}
        with stand_ins(ROOT) as (load, stub, registry):
            options = {"xavier_init": None, "build_conv_layer": None, "Linear": nn.Linear, "constant_init": None}
            stub("mmcv.cnn", **options)
            stub("mmcv.cnn.bricks.registry", TRANSFORMER_LAYER=registry, TRANSFORMER_LAYER_SEQUENCE=registry)
            stub(
                "mmcv.cnn.bricks.transformer",
                BaseTransformerLayer=nn.Module,
                MultiScaleDeformableAttention=nn.Module,
                TransformerLayerSequence=_Layers,
                build_transformer_layer_sequence=lambda built: built,
            )
            stub("mmcv.runner.base_module", BaseModule=_BaseModule)
            stub("mmdet.models.utils.builder", TRANSFORMER=registry)
            stub("mmdet.core", multi_apply=None)
            stub("mmdet.models.dense_heads.detr_head", DETRHead=_Head)
            load("mmdet.models.utils.transformer")
            load("mmdet.models.dense_heads.QR_deformable_detr_head")
        decoder = registry["QRDeformableDetrTransformerDecoder"](
            d, self.leaves, start_q=START_Q, end_q=END_Q, return_intermediate=True
        )
        transformer = registry["DeformableDetrTransformer"](
            num_feature_levels=d.levels, encoder=_Memory(d.channels), decoder=decoder
        )
        self.head = registry["QRDeformableDETRHead"](d.queries, d.classes, transformer=transformer)

    def __call__(self, maps: list[Tensor], padded: tuple[int, int], sizes: list[tuple[int, int]], fast: bool) -> Sets:
        """Logits and boxes (normalized cxcywh) of every set in the order they are made."""
        decoder = self.head.transformer.decoder
        metas = [{"batch_input_shape": padded, "img_shape": (*size, 3)} for size in sizes]
        weights = {name: self.leaves[_detrex(name)] for name, _ in self.head.named_parameters()}
        with mock.patch.object(decoder, "forward", decoder.forward if fast else decoder.forward_slow):
            logits, boxes, _, _ = torch.func.functional_call(self.head, weights, (maps, metas))
        return list(zip(logits, boxes, strict=True))


def _detrex(name: str) -> str:
    """detrex's name of a parameter of mmdet's head."""
    box = re.match(r"reg_branches\.(\d+)\.(\d)", name)
    if box:
        name = f"bbox_embed.{box[1]}.layers.{int(box[2]) // 2}{name[box.end() :]}"
    return name.replace("cls_branches.", "class_embed.")
