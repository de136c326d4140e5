"""A model over several processes: DDP, or FSDP2, where each process holds a part of weights, gradients and moments.

Checkpoints are the same under both (:mod:`detrex_ext.checkpoint.shards`): whole tensors, which one process reads too.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree

from detrex_ext.errors import UserError
from detrex_ext.modeling.backbones.blocks import BasicBlock, Bottleneck
from detrex_ext.modeling.backbones.swin_blocks import Block
from detrex_ext.runtime import comm, create_ddp_model
from detrex_ext.structures import LossDict

logger = logging.getLogger(__name__)


def over_processes(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """The model as the trainer calls it; every process has the weights of the first. Collective.

    Args:
        cfg: ``train.ddp``, ``train.fsdp`` and what does not go with it.
        model: on its device; under FSDP changed in place: its parameters are then parts of whole ones.

    Raises:
        UserError: FSDP, and torch has none, or with an option or a strategy that does not go with it.
    """
    if not cfg.train.get("fsdp"):
        return create_ddp_model(model, **cfg.train.ddp)
    _check(cfg)
    if own := [name for name, _ in getattr(model, "training_only", nn.Module()).named_parameters()]:
        # a route holds some of them itself, and would go on with those of before they were shared out
        raise UserError(
            f"train.fsdp=true does not go with strategies that have parameters of their own: {own[0].split('.')[0]}\n"
            "  leave the strategy out, or train.fsdp=false"
        )
    shard = _fully_shard()
    if comm.get_world_size() == 1:
        logger.warning("train.fsdp=true: one process has nobody to share with")
        return model
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), 0)
    device = next(model.parameters()).device
    mesh = dist.device_mesh.init_device_mesh(device.type, (comm.get_world_size(),))
    # blocks of a backbone are whole one after the other, all else as long as a step takes: a decoder's layers are more
    # than one call, so nobody could tell when they are done
    backbone = getattr(model, "backbone", nn.Module())
    blocks = [m for m in backbone.modules() if isinstance(m, Block | Bottleneck | BasicBlock)] or [backbone]
    for block in blocks:
        if any(True for _ in block.parameters()):
            shard(block, mesh=mesh)
    shard(model, mesh=mesh)
    held = sum(p.to_local().numel() for p in model.parameters())
    logger.info("FSDP: this process holds %s of %s weights; %d blocks of the backbone are gathered one by one",
                f"{held:,}", f"{sum(p.numel() for p in model.parameters()):,}", len(blocks))  # fmt: skip
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether a model is under FSDP."""
    return hasattr(model, "set_requires_gradient_sync")


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Whole weights in every process inside, so that each may run as many batches as it has. Collective."""
    parts: list[Any] = [m for m in model.modules() if is_sharded(m)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()


@contextlib.contextmanager
def unsynced(model: nn.Module) -> Iterator[None]:
    """Gradients stay in this process inside, as those of all parts of a batch but the last."""
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
        return
    if is_sharded(model):
        model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        if is_sharded(model):
            model.set_requires_gradient_sync(True)


def _check(cfg: DictConfig) -> None:
    train = cfg.train
    untried = {
        f"train.compile={train.compile}": train.compile is not None,
        "train.model_ema.enabled=true": train.model_ema.enabled,
        "train.channels_last=true": train.channels_last,  # torch shares out contiguous weights alone
        "train.amp.dtype=fp16": train.amp.enabled and train.amp.dtype == "fp16",
        "train.ddp.fp16_compression=true": train.ddp.fp16_compression,
        "train.ddp.bf16_compression=true": train.ddp.bf16_compression,
    }
    for option, asked in untried.items():
        if asked:
            raise UserError(f"train.fsdp=true does not go with {option}\n  leave one of the two out")


def _fully_shard() -> Callable[..., Any]:
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        raise UserError(
            f"train.fsdp=true needs torch 2.6 or newer, this is {torch.__version__}\n"
            "  pip install -U torch, or train.fsdp=false"
        ) from None
    # losses are views of one tensor, which nobody writes into
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    if LossDict not in _pytree.SUPPORTED_NODES:  # FSDP looks for tensors in what a model returns
        _pytree.register_pytree_node(
            LossDict, lambda x: (list(x.values()), (list(x), x.stats)),
            lambda values, keys: LossDict(dict(zip(keys[0], values, strict=True)), keys[1]),
        )  # fmt: skip
    return fully_shard
