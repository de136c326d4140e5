"""detrex's own models on a CPU, where detrex and detectron2 are importable.

detrex only builds where ``detrex._C`` imports; an empty module of that name is enough on a CPU, for then its layer
samples with plain torch. Its ``projects`` folder must be importable too.
"""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from .forced import computing_in, cuda_is_the_cpu, watched_choice

CONFIGS = {
    "plain": "deformable_detr/configs/deformable_detr_r50_50ep.py",
    "refine": "deformable_detr/configs/deformable_detr_r50_with_box_refinement_50ep.py",
    "two_stage": "deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py",
    "dino": "dino/configs/dino-resnet/dino_r50_4scale_12ep.py",
    "dino_5scale": "dino/configs/dino-resnet/dino_r50_5scale_12ep.py",
    "detr": "detr/configs/detr_r50_300ep.py",
    "dab": "dab_detr/configs/dab_detr_r50_50ep.py",
    "dab_3patterns": "dab_detr/configs/dab_detr_r50_3patterns_50ep.py",
    "dab_dc5": "dab_detr/configs/dab_detr_r50_dc5_50ep.py",
    "dab_sqr": "sqr_detr/configs/dab_detr_r50_50ep_sqr.py",
}


def skip_without_detrex(project: str = "deformable_detr") -> None:
    """Skip the calling module, with the reason, where detrex's model cannot be built."""
    for name in ("detectron2", "detrex", "detrex._C", f"projects.{project}.modeling"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"comparison with detrex needs it importable: {error}", allow_module_level=True)


def load_config(variant: str) -> Any:
    """detrex's published config, set to the CPU and to no dropout."""
    detectron2_config = importlib.import_module("detectron2.config")
    root = Path(importlib.import_module("detrex").__file__).parents[1]
    cfg = detectron2_config.LazyConfig.load(str(root / "projects" / CONFIGS[variant]))
    cfg.model.device = "cpu"
    for part in (cfg.model.transformer.encoder, cfg.model.transformer.decoder):
        part.attn_dropout = part.ffn_dropout = 0.0
    return cfg


class Peer:
    """detrex's model, watched for its intermediate results; ``changes`` are of its config's model.

    In double it wants items of ``batch(..., dtype=torch.float64)``.

    Attributes:
        model: detrex's module.
        seen: of the last call, ``logits`` and ``boxes`` of all stages, stacked, and ``enc`` or None; ``calls`` are
            the same pairs of all groups, the matching queries' last.
        chosen_BQ: proposals of the last call, best first; two-stage only.
    """

    def __init__(
        self, variant: str, state: dict[str, Tensor], dtype: torch.dtype = torch.float32, **changes: Any
    ) -> None:
        cfg = load_config(variant)
        cfg.model.update(changes)
        self.two_stage = cfg.model.get("as_two_stage", variant.startswith("dino"))
        self.cfg, self.dtype = cfg, dtype
        self.model: nn.Module = importlib.import_module("detectron2.config").instantiate(cfg.model)
        self.model.load_state_dict(state, strict=True)
        self.model.to(dtype)
        self.seen: dict[str, Any] = {}
        self.chosen_BQ: Tensor | None = None
        self._watch()

    def _watch(self) -> None:
        aux = self.model._set_aux_loss

        def watched(logits: Tensor, boxes: Tensor) -> Any:
            self.seen.update(logits=logits, boxes=boxes, calls=[*self.seen.get("calls", []), (logits, boxes)])
            return aux(logits, boxes)

        self.model._set_aux_loss = watched
        self.model.criterion.register_forward_pre_hook(
            lambda _, given: self.seen.update(enc=given[0].get("enc_outputs"))
        )

    def __call__(self, items: list[dict[str, Any]]) -> Any:
        """detrex's answer."""
        self.seen, self.chosen_BQ = {}, None
        watching = watched_choice(self.cfg.model.num_queries) if self.two_stage else nullcontext([])
        with computing_in(self.dtype), cuda_is_the_cpu(), watching as chosen:
            answer = self.model(items)
        self.chosen_BQ = chosen[0] if chosen else None
        return answer
