"""Heads over regions, as a decoder of one stage without attention (TSP-RCNN, arXiv 2011.10881).

Shape legend: B images, T regions, C channels, K object classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder

from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from detrex_ext.layers.mlp import MLP
from detrex_ext.structures import Memory, Queries

from ..sizes import require_classes
from .set_head import SetHead
from .staged import OUTPUT

_CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))  # as the loss of the deltas has it


class RegionHead(SetHead):
    """A linear head for classes and "no object", and an MLP for how each class moves the region.

    The boxes of a set are those of each region's best class. Further outputs: ``deltas`` (B, T, K, 4), by which center
    and size change (Faster R-CNN, arXiv 1506.01497, equation 2), and ``class_boxes`` (B, T, K, 4), what they make of
    the region, normalized xyxy. Keys: ``class_embed.*``, ``bbox_embed.*``.

    Args:
        num_classes: K.
        dim: C.
        class_agnostic: one box for all classes; the outputs then have one in the place of K.
    """

    softmax = True

    def __init__(self, num_classes: int, dim: int = 512, class_agnostic: bool = False) -> None:
        require_classes(num_classes)
        super().__init__()
        self.dim, self.class_agnostic = dim, class_agnostic
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.bbox_embed = MLP(dim, dim, 4 if class_agnostic else 4 * num_classes, 3)
        for head, std in ((self.class_embed, 0.01), (self.bbox_embed.layers[-1], 0.001)):
            nn.init.normal_(head.weight, std=std)
            nn.init.zeros_(head.bias)

    def predict(self, layer: int, x: Queries, mem: Memory) -> tuple[Tensor, Tensor, Queries]:
        """See :meth:`StagedDecoder.predict`; references stay."""
        logits, ref = self.class_embed(x.content_BTC), box_cxcywh_to_xyxy(x.ref_BT4)
        deltas = self.bbox_embed(x.content_BTC).to(ref.dtype)
        class_boxes = _CODER.decode_single(deltas.flatten(0, 1), ref.flatten(0, 1)).view(*deltas.shape[:2], -1, 4)
        best_BT1 = logits[..., :-1].argmax(-1, keepdim=True) % class_boxes.shape[2]
        boxes = class_boxes.gather(2, best_BT1[..., None].expand(-1, -1, -1, 4))[:, :, 0]
        outputs = {"deltas": deltas.view_as(class_boxes), "class_boxes": class_boxes}
        extra = {**x.extra, **{OUTPUT + name: value for name, value in outputs.items()}}
        return logits, box_xyxy_to_cxcywh(boxes), x.replace(extra=extra)
