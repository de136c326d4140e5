"""Parts of a model compiled by torch, and on a GPU recorded as CUDA graphs."""

from __future__ import annotations

import logging
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from detrex_ext.errors import UserError
from detrex_ext.modeling.queries import DenoisingQueries, QuerySource

from . import setup
from .recomputing import recompute_parts

logger = logging.getLogger(__name__)

PARTS = {
    "backbone": ("backbone", "neck"),
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "all": ("backbone", "neck", "encoder", "queries", "decoder"),
}
_OFF = {"train.compile": "null", "compile": "False"}
_GRAPHS = 32  # of one part: a few for sizes, as torch learns what varies, the same for evaluation, once for each type


def build_to_train(cfg: DictConfig) -> nn.Module:
    """The model of a config on its device, with the parts compiled that ``train.compile`` names.

    Raises:
        UserError: as of :func:`setup.build_model`; the model supervises nothing; or torch cannot compile.
    """
    model = setup.build_model(cfg)
    if getattr(model, "criterion", model) is None:
        raise UserError("model.rules is empty, so there is nothing to train by: state a rule for each group of queries")
    if cfg.train.cuda_graphs and cfg.train.accumulate_steps > 1:
        raise UserError(
            "train.cuda_graphs=true: gradients of one part of a batch would be written over by those of the next\n"
            "  use train.accumulate_steps=1, or train.cuda_graphs=false"
        )
    recompute_parts(model, cfg.train.get("activation_checkpointing"))
    compile_parts(model, cfg.train.compile, cfg.train.cuda_graphs)
    if next(model.parameters()).device.type != "cpu" and hasattr(getattr(model, "criterion", None), "check_finite"):
        model.criterion.check_finite = False  # the trainer looks at the sum of all losses: one wait, not two
    return model


def compile_parts(
    model: nn.Module, what: str | None, cuda_graphs: bool = False, key: str = "train.compile", **options: Any
) -> None:
    """Lets torch compile parts of a model when they first run, in place; names of parameters stay.

    Denoising queries are filled up from then on where the decoder is compiled, or their number would be another in each
    step (:class:`~detrex_ext.modeling.queries.DenoisingQueries`, ``pad_to``).

    Args:
        model: on its device.
        what: a name of :data:`PARTS`; None = nothing.
        cuda_graphs: the kernels of a part are recorded and run as one, for each size of its inputs.
        key: what the person asked by, for messages.
        **options: of ``torch.compile``.

    Raises:
        UserError: an unknown name, a model of other parts, a device without CUDA graphs, or torch cannot compile here.
    """
    if what is None:
        if cuda_graphs:
            raise UserError("train.cuda_graphs=true records what is compiled, and nothing is\n  add train.compile=all")
        return
    device = next(model.parameters()).device
    names = _parts(model, what, key)
    if cuda_graphs and device.type != "cuda":
        raise UserError(
            f"train.cuda_graphs=true: the model is on {device.type}, and only a CUDA device records graphs\n"
            "  use train.device=cuda, or leave train.cuda_graphs=false"
        )
    if cuda_graphs:
        options["mode"] = "reduce-overhead"
        model.register_forward_pre_hook(_begins)
    _check_compiler(f"{key}={what}", device, options)
    config = torch._dynamo.config
    config.cache_size_limit = max(config.cache_size_limit, _GRAPHS)
    for name in names:
        for module in _sources(model.queries) if name == "queries" else [getattr(model, name)]:
            module.compile(**options)
    if "decoder" in names:
        for module in model.modules():
            if isinstance(module, DenoisingQueries) and module.pad_to is None:
                module.pad_to = module.bucket
    recorded = ", recorded as CUDA graphs" if cuda_graphs else ""
    logger.info("compiled when they first run%s: %s; first steps, and first images of a size, are slow", recorded,
                ", ".join(names))  # fmt: skip


def _begins(*_: Any) -> None:
    """What graphs wrote in the last step may be written over."""
    torch.compiler.cudagraph_mark_step_begin()


def _parts(model: nn.Module, what: str, key: str) -> tuple[str, ...]:
    if what not in PARTS:
        raise UserError(f"{key}={what}: expected one of {', '.join(PARTS)}, or {_OFF[key]}")
    missing = [name for name in PARTS[what] if not isinstance(getattr(model, name, None), nn.Module)]
    if missing:
        name = type(model).__name__
        raise UserError(f"{key}={what}: {name} has no part '{missing[0]}'\n  use {key}={_OFF[key]}")
    return PARTS[what]


def _sources(queries: nn.Module) -> list[nn.Module]:
    """Sources that wrap no other: what is around them puts queries together whose number it looks at."""
    sources = [m for m in queries.modules() if isinstance(m, QuerySource)]
    return [m for m in sources if not any(isinstance(x, QuerySource) for x in m.children())] or [queries]


def _check_compiler(asked: str, device: torch.device, options: dict[str, Any]) -> None:
    """Compiles something small, for what it needs is a matter of the machine.

    Raises:
        UserError: that fails.
    """
    try:
        torch.compile(lambda x: x.sin() + 1, **options)(torch.zeros(4, device=device))
    except Exception as error:  # of whatever kind: of the compiler, of a driver, of torch itself
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        cuda = device.type == "cuda"
        needs = "Triton (pip install triton)" if cuda else "a C++ compiler (g++, clang++ or cl) on the path"
        raise UserError(
            f"{asked}: torch {torch.__version__} cannot compile for {device.type} on this machine: "
            f"{reason.strip()[:300]}\n  it needs {needs}; or leave it uncompiled"
        ) from error
