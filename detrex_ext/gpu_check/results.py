"""What is known of a step: its state, its rows, its time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .table import NOT_HERE, Row, Step


def is_away(row: Row) -> bool:
    """Whether the case makes no sense here."""
    return row["held"] is None and row["note"].startswith(NOT_HERE)


@dataclass
class Result:
    """What is known of a step.

    Attributes:
        state: "waiting", "running", "held", "failed", "overran" (its time was over), "crashed", "left out" (no time
            was left) or "not here" (every case was skipped).
        rows: of its cases, by name, with the seconds of each.
    """

    step: Step
    state: str = "waiting"
    note: str = ""
    seconds: float = 0.0
    names: list[str] | None = None
    rows: dict[str, Row] = field(default_factory=dict)
    ends: int = 0

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.state not in ("waiting", "running")

    @property
    def good(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.state in ("held", "not here")

    def close(self, state: str | None = None, note: str = "") -> None:
        """The state that it ends in; None = by its rows, which every case has."""
        answers = [row["held"] for row in self.rows.values()]
        away = all(is_away(row) for row in self.rows.values())
        self.state = state or ("failed" if False in answers else "not here" if away else "held")
        self.note = note

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        rows = [{"case": name, **row} for name, row in self.rows.items()]
        left = [name for name in self.names or () if name not in self.rows]
        return {
            "step": self.step.name, "question": self.step.question, "state": self.state, "note": self.note,
            "seconds": round(self.seconds, 1), "limit": self.step.seconds, "rows": rows, "without": left,
        }  # fmt: skip
