"""What a model's decoder hands out during an evaluation, for evaluators that look at more than its answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..errors import UserError
from ..structures import SupervisedSet


class DecoderSets:
    """The sets of the last batch, read from ``model.decoder`` while it runs: a model costs the same with and without.

    Args:
        option: of ``CocoEvaluator``, which asks for them; with the value that does not, for messages.
    """

    def __init__(self, option: str) -> None:
        self.option = option
        self._sets: list[SupervisedSet] | None = None

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Read what ``model.decoder`` returns while this is held.

        Raises:
            UserError: the model has no such part.
        """
        decoder = getattr(model, "decoder", None)
        if not isinstance(decoder, nn.Module):
            raise UserError(
                f"these figures need the sets of model.decoder, which {type(model).__name__} does not have\n"
                f"  evaluate a detrex_ext model, or set dataloader.evaluator.{self.option}"
            )

        def keep(module: nn.Module, args: Any, sets: list[SupervisedSet]) -> None:
            self._sets = sets

        handle = decoder.register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()
            self._sets = None

    def take(self) -> list[SupervisedSet]:
        """The sets of the batch that just ran, once.

        Raises:
            RuntimeError: none ran since the last call.
        """
        sets, self._sets = self._sets, None
        if sets is None:
            raise RuntimeError("no decoder ran: call process inside watch(model), as inference_on_dataset does")
        return sets
