"""The one meta-architecture: batch -> preprocess -> backbone -> neck -> encoder -> queries -> decoder -> sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from detrex_ext.structures import Features, SupervisedSet, Targets

from .preprocess import Preprocess
from .sizes import require_classes, shared_size

if TYPE_CHECKING:
    from detrex_ext.criterion import Rule
    from detrex_ext.strategies import Strategy


class Detector(nn.Module):
    """A DETR-family detector with detectron2's contract.

    Args:
        preprocess, backbone, neck, encoder, queries, decoder, postprocess: the parts, in the order data flows.
        num_classes: K, object classes.
        strategies: training strategies by name; they act in training only and own no parameters.
        rules: the host's supervision by group (``main``, ``enc``, ``dn``, ...). Strategies derive theirs from it. Empty
            for a model that only predicts: nothing of the training code is then imported.
        dim: C, the width of all parts behind the backbone. A config says it here, and its parts refer to it.
        num_levels: L, feature levels of neck, encoder and decoder; None where they have no such option.
        num_heads: attention heads of encoder and decoder, for a config's parts to refer to; they may differ.

    Raises:
        UserError: parts of different width or number of levels, or an unknown number of classes.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        backbone: nn.Module,
        neck: nn.Module,
        encoder: nn.Module,
        queries: nn.Module,
        decoder: nn.Module,
        postprocess: Any,
        num_classes: int,
        strategies: Mapping[str, Strategy] | None = None,
        rules: Mapping[str, Rule] | None = None,
        dim: int | None = None,
        num_levels: int | None = None,
        num_heads: int | None = None,
    ) -> None:
        require_classes(num_classes)
        super().__init__()
        self.preprocess, self.backbone, self.neck = preprocess, backbone, neck
        self.encoder, self.queries, self.decoder = encoder, queries, decoder
        self.postprocess, self.num_classes = postprocess, num_classes
        sized = {"neck": neck, "encoder": encoder, "queries": queries, "decoder": decoder}
        self.dim = shared_size("dim", dim, **sized)
        self.num_levels = shared_size("num_levels", num_levels, **sized)
        self.num_heads = num_heads
        for kind, given in (("strategies", strategies), ("rules", rules)):
            for name, part in (given or {}).items():
                if isinstance(part, Mapping):
                    raise TypeError(
                        f"{kind}.{name} is a config, not an object: in a config a dict of parts is a call too, "
                        'L("builtins.dict")(...)'
                    )
        self.strategies: dict[str, Strategy] = {k: s for k, s in (strategies or {}).items() if s is not None}
        self.rules: dict[str, Rule] = {}
        self.criterion = None
        if rules:
            from detrex_ext.criterion import rules_by_group

            self.rules = rules_by_group(rules)
            self.use(self.strategies)

    def use(self, strategies: Mapping[str, Strategy]) -> None:
        """Train with these strategies: their rules come before the host's.

        Raises:
            ValueError: one has options that do not fit the decoder.
        """
        from detrex_ext.criterion import SetCriterion

        for strategy in strategies.values():
            strategy.check(len(self.decoder.order))
        self.strategies = dict(strategies)
        added = [r for s in self.strategies.values() for r in s.rules(self.rules)]
        self.criterion = SetCriterion([*added, *self.rules.values()])

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def core(
        self, images_B3HW: Tensor, valid_hw_B2: Tensor, targets: Targets | None = None
    ) -> list[SupervisedSet]:
        """From normalised, padded images to all sets; tensors only, so that forward, export and compile share it.

        Args:
            images_B3HW: normalised images, zero-padded right and below.
            valid_hw_B2: height and width of each image's own area, in pixels.
            targets: in training.
        """
        maps = self.neck(self.backbone(images_B3HW))
        features = Features.from_maps(list(maps), valid_hw_B2, (images_B3HW.shape[2], images_B3HW.shape[3]))
        mem, encoder_sets = self.encoder(features, targets)
        q, query_sets = self.queries(mem, targets)
        return [*encoder_sets, *query_sets, *self.decoder(q, mem, self.strategies.values())]

    def forward_sets(self, batched_inputs: list[dict[str, Any]]) -> list[SupervisedSet]:
        """What the decoder and the query sources emitted, in either mode, before criterion and post-processing."""
        return self._run(batched_inputs)[0]

    def _run(self, batched_inputs: list[dict[str, Any]]) -> tuple[list[SupervisedSet], Targets | None, Tensor]:
        images = self.preprocess(batched_inputs, self.device)
        targets = None
        if self.training:
            targets = Targets.from_instances([x["instances"] for x in batched_inputs], self.device)
        sets = self.core(images.images_B3HW, images.valid_hw_B2, targets)
        return sets, targets, images.image_hw_B2

    def forward(self, batched_inputs: list[dict[str, Any]], effective: tuple[float, float] | None = None):
        """detectron2's contract.

        Args:
            batched_inputs: dicts with ``image`` (3, h, w) RGB 0-255, in training ``instances``, at inference
                optionally ``height`` and ``width`` of the original picture.
            effective: total (objects, images) of all micro-batches of a step, for exact gradient accumulation.

        Returns:
            Training: a ``LossDict`` of weighted losses. Inference: ``[{"instances": Instances}]``.
        """
        sets, targets, image_hw_B2 = self._run(batched_inputs)
        if not self.training:
            return self.postprocess(sets, image_hw_B2, batched_inputs)
        if self.criterion is None:
            raise RuntimeError("this model was built without rules (model.rules), so it can only predict: call .eval()")
        return self.criterion(sets, targets, effective)
