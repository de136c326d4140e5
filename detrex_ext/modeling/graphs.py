"""A model's pass from images to sets as CUDA graphs: all its kernels start at once, whatever the host does meanwhile.

Shape legend: B images, H, W size of the batch.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from detrex_ext.errors import UserError
from detrex_ext.structures import SupervisedSet
from detrex_ext.structures.placing import Constants

logger = logging.getLogger(__name__)

MOST = 16
Core = Callable[[Tensor, Tensor], list[SupervisedSet]]


class Graphs:
    """Records a pass when a size of batch comes for the second time; from then on it is the recorded kernels that run.

    Further sizes than the first ``most`` that come twice, and all that come once, run kernel by kernel: a graph holds
    memory, and recording one takes longer than a few passes. Parts that torch compiled it records by itself.

    Args:
        model: a detector with a ``core``, on a CUDA device, in evaluation mode.
        most: sizes that are recorded.

    Raises:
        UserError: a model of another kind.
    """

    def __init__(self, model: nn.Module, most: int = MOST) -> None:
        if not callable(getattr(model, "core", None)):
            raise UserError(f"cuda_graphs=True: {type(model).__name__} has no core to record")
        self.core, self.most = model.core, most
        self.compiled = any(getattr(part, "_compiled_call_impl", None) is not None for part in model.modules())
        self._once: set[tuple] = set()
        self._run: dict[tuple, Core] = {}
        self._pool: Any = None

    def __call__(self, images_B3HW: Tensor, valid_hw_B2: Tensor) -> list[SupervisedSet]:
        """The sets of a batch. The next batch of this size writes over them.

        Raises:
            UserError: the model cannot be recorded.
        """
        size = (tuple(images_B3HW.shape), images_B3HW.stride(), images_B3HW.dtype)
        if size in self._once and size not in self._run and len(self._run) < self.most:
            self._run[size] = self._recorded(images_B3HW, valid_hw_B2)
            if len(self._run) == self.most:
                logger.info("CUDA graphs: %d sizes are recorded; batches of further ones run without", self.most)
        if len(self._run) < self.most:  # later ones need not be known
            self._once.add(size)
        with torch.cuda.device_of(images_B3HW):  # a graph runs on the current device, whatever its tensors are on
            return self._run.get(size, self._plain)(images_B3HW, valid_hw_B2)

    def _plain(self, images_B3HW: Tensor, valid_hw_B2: Tensor) -> list[SupervisedSet]:
        # torch 2.4 and 2.5 have no such switch: what is compiled is then recorded for every size
        switch = getattr(torch.compiler, "set_stance", None) if self.compiled else None
        with switch("force_eager") if switch else contextlib.nullcontext():
            return self.core(images_B3HW, valid_hw_B2)

    def _recorded(self, images_B3HW: Tensor, valid_hw_B2: Tensor) -> Core:
        if self.compiled:
            return self._by_compiler
        try:
            with torch.cuda.device_of(images_B3HW):
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                return Recorded(self.core, images_B3HW, valid_hw_B2, self._pool)
        except RuntimeError as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(
                f"cuda_graphs=True: this model cannot be recorded as a CUDA graph: {reason[:300]}\n"
                "  use compile, or leave cuda_graphs out"
            ) from error

    def _by_compiler(self, images_B3HW: Tensor, valid_hw_B2: Tensor) -> list[SupervisedSet]:
        torch.compiler.cudagraph_mark_step_begin()  # what graphs wrote for the last batch may be written over
        return self.core(images_B3HW, valid_hw_B2)


class Recorded:
    """One pass, recorded.

    Args:
        core: what runs.
        images_B3HW, valid_hw_B2: a batch; later ones have its sizes.
        pool: memory that all graphs of a model share, as no two run at once.

    Raises:
        RuntimeError: it looks at values on the host, or sends other things to the device each time.
    """

    def __init__(self, core: Core, images_B3HW: Tensor, valid_hw_B2: Tensor, pool: Any) -> None:
        self.inputs = images_B3HW.clone(), valid_hw_B2.clone()
        self.constants, self.graph = Constants(), torch.cuda.CUDAGraph()
        before, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(before)
        with torch.cuda.stream(side):
            core(*self.inputs)  # fills caches and chooses kernels; what caches hold is not sent any more
            with self.constants.kept():
                core(*self.inputs)
        before.wait_stream(side)
        with torch.cuda.graph(self.graph, pool=pool), self.constants.again():
            self.sets = core(*self.inputs)

    def __call__(self, images_B3HW: Tensor, valid_hw_B2: Tensor) -> list[SupervisedSet]:
        """The sets of a batch, in the memory of the last one's."""
        for kept, new in zip(self.inputs, (images_B3HW, valid_hw_B2), strict=True):
            kept.copy_(new)
        self.graph.replay()
        return self.sets
