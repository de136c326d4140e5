"""What becomes of images that cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from detrex_ext.data.mapper import Fetched
from detrex_ext.errors import UserError

logger = logging.getLogger(__name__)


class Gatekeeper:
    """Unpacks fetched batches in the main process and counts distinct unreadable images against a budget.

    Args:
        budget: so many distinct images may be skipped (per process).
        key: the configuration key to name in the message; None where there is no budget to raise.
    """

    def __init__(self, budget: int = 0, key: str | None = "dataloader.train.max_unreadable") -> None:
        self.budget, self.key = budget, key
        self.skipped: dict[str, str] = {}

    def __call__(self, batch: Sequence[Fetched]) -> list[dict]:
        """The samples of a batch.

        Raises:
            UserError: more than `budget` distinct images could not be read.
        """
        for path, reason in (failure for fetched in batch for failure in fetched.unreadable):
            if path in self.skipped:
                continue
            self.skipped[path] = reason
            if len(self.skipped) > self.budget:
                raise UserError(self._message(path, reason))
            logger.warning(
                "unreadable image %d of at most %d is skipped: %s: %s", len(self.skipped), self.budget, path, reason
            )
        missing = [f.unreadable[0] for f in batch if f.sample is None]
        if missing:
            raise UserError(self._message(*missing[0]))
        return [f.sample for f in batch]

    def _message(self, path: str, reason: str) -> str:
        lines = [f"image cannot be used: {path}", f"  {reason}"]
        if self.budget:
            lines.append(f"  {len(self.skipped)} such images found, {self.key} allows {self.budget}: "
                         + ", ".join(list(self.skipped)[:5]))  # fmt: skip
        lines.append("  replace the file, or correct or remove its entry in the data"
                     + (f", or set {self.key}=N to skip up to N images" if self.key else ""))  # fmt: skip
        return "\n".join(lines)
