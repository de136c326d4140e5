"""The one meta-architecture: batch -> preprocess -> backbone -> neck -> encoder -> queries -> decoder -> sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from detrex_ext.structures import Features, Memory, Queries, SupervisedSet, Targets

from .attach import attach
from .preprocess import Images, Preprocess
from .sizes import check_parts, require_classes, shared_size

if TYPE_CHECKING:
    from detrex_ext.criterion import Rule
    from detrex_ext.runtime import Instances
    from detrex_ext.strategies import Strategy


class Detector(nn.Module):
    """A DETR-family detector with detectron2's contract.

    Args:
        preprocess, backbone, neck, encoder, queries, decoder, postprocess: the parts, in the order data flows.
        num_classes: K, object classes.
        strategies: training strategies by name; they act in training only. What parameters they own is in
            ``training_only``.
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
        check_parts(preprocess=preprocess, backbone=backbone, postprocess=postprocess, **sized)
        self.strategies: dict[str, Strategy] = {k: s for k, s in (strategies or {}).items() if s is not None}
        self.teacher: Any = None  # no module of this one: (batched inputs, targets) -> pairs, for ``Targets.pairs``
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

        self.training_only = attach(self, strategies)
        self.strategies = dict(strategies)
        added = [r for s in self.strategies.values() for r in s.rules(self.rules)]
        self.criterion = SetCriterion([*added, *self.rules.values()])

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def encode(
        self, images_B3HW: Tensor, valid_hw_B2: Tensor, targets: Targets | None = None
    ) -> tuple[Queries, Memory, list[SupervisedSet]]:
        """All that comes before the decoder: the initial queries, the memory, and the sets emitted on the way.

        The arguments are those of :meth:`core`.
        """
        maps = self.neck(self.backbone(images_B3HW))
        features = Features.from_maps(list(maps), valid_hw_B2, (images_B3HW.shape[2], images_B3HW.shape[3]))
        mem, encoder_sets = self.encoder(features, targets)
        q, query_sets = self.queries(mem, targets)
        return q, mem, [*encoder_sets, *query_sets]

    def core(
        self,
        images_B3HW: Tensor,
        valid_hw_B2: Tensor,
        targets: Targets | None = None,
        strategies: Iterable[Strategy] | None = None,
    ) -> list[SupervisedSet]:
        """From normalized, padded images to all sets; tensors only, so that forward, export and compile share it.

        Args:
            images_B3HW: normalized images, zero-padded right and below.
            valid_hw_B2: height and width of each image's own area, in pixels.
            targets: in training.
            strategies: act instead of the model's own, and in either mode; None: its own, in training only.
        """
        q, mem, sets = self.encode(images_B3HW, valid_hw_B2, targets)
        own = self.strategies.values() if self.training else ()
        acting = tuple(own if strategies is None else strategies)
        added, q = self.begin(acting, q, mem, targets)
        return [*sets, *added, *self.decoder(q, mem, acting, act=strategies is not None)]

    def begin(
        self, strategies: Iterable[Strategy], q: Queries, mem: Memory, targets: Targets | None
    ) -> tuple[list[SupervisedSet], Queries]:
        """What strategies make of the initial queries (B, T, C) and the memory (B, S, C), and the sets they add."""
        sets: list[SupervisedSet] = []
        for s in strategies:
            added, q = s.begin(self, q, mem, targets)
            sets += added
        return sets, q

    def inputs(self, batched_inputs: list[dict[str, Any]]) -> tuple[Images, Targets | None]:
        """A batch as tensors on the model's device: padded images, and in training its objects."""
        images = self.preprocess(batched_inputs, self.device)
        if not self.training:
            return images, None
        return images, Targets.from_instances([x["instances"] for x in batched_inputs], self.device)

    def forward_sets(
        self, batched_inputs: list[dict[str, Any]], strategies: Iterable[Strategy] | None = None
    ) -> list[SupervisedSet]:
        """What the decoder and the query sources emitted, in either mode, before criterion and post-processing."""
        images, targets = self.inputs(batched_inputs)
        return self.core(images.images_B3HW, images.valid_hw_B2, targets, strategies)

    def predict_sets(
        self, batched_inputs: list[dict[str, Any]], strategies: Iterable[Strategy] | None = None
    ) -> tuple[list[dict[str, Instances]], list[SupervisedSet]]:
        """What :meth:`forward` gives at inference, and the sets that it is made of, from one pass.

        Args:
            batched_inputs: as in :meth:`forward`.
            strategies: as in :meth:`core`. The predictions are those of the plain path in any case.

        Raises:
            RuntimeError: the model is in training mode.
        """
        if self.training:
            raise RuntimeError("predictions of a model in training mode: call .eval() first, or take forward_sets")
        images, _ = self.inputs(batched_inputs)
        sets = self.core(images.images_B3HW, images.valid_hw_B2, None, strategies)
        return self.postprocess(sets, images.image_hw_B2, batched_inputs), sets

    def forward(self, batched_inputs: list[dict[str, Any]], effective: tuple[float, float] | None = None, progress=0.0):
        """detectron2's contract.

        Args:
            batched_inputs: dicts with ``image`` (3, h, w) RGB 0-255, in training ``instances``, at inference
                optionally ``height`` and ``width`` of the original image.
            effective: total (objects, images) of all micro-batches of a step, for exact gradient accumulation.
            progress: of the training, 0 to 1, when the step begins.

        Returns:
            Training: a ``LossDict`` of weighted losses. Inference: ``[{"instances": Instances}]``.
        """
        if not self.training:
            return self.predict_sets(batched_inputs)[0]
        images, targets = self.inputs(batched_inputs)
        if self.teacher is not None:
            targets.pairs = self.teacher(batched_inputs, targets)
        acting = [s for s in self.strategies.values() if progress >= getattr(s, "since", 0.0)]
        chosen = None if len(acting) == len(self.strategies) else acting
        sets = self.core(images.images_B3HW, images.valid_hw_B2, targets, chosen)
        if self.criterion is None:
            raise RuntimeError("this model was built without rules (model.rules), so it can only predict: call .eval()")
        return self.criterion(sets, targets, effective, progress)
