"""What was decided about a folder, for a person to read."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN, _LONGEST = 3, 200


class Notes:
    """Decisions, and what was left out with how often and the first names.

    Attributes:
        layout: of the folder, such as "YOLO".
    """

    def __init__(self, layout: str = "") -> None:
        self.layout = layout
        self.decisions: list[str] = []
        self._left_out: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def say(self, text: str) -> None:
        """Adds a decision."""
        self.decisions.append(text)

    def classes(self, names: Sequence[str], origin: str) -> None:
        """Adds which classes there are, in which order, from where."""
        self.say(f"{len(names)} class{'' if len(names) == 1 else 'es'}, {origin}: {shortened(names, 20)}")

    def leave_out(self, what: str, name: str) -> None:
        """Counts something that is left out; ``what`` says what and why."""
        self._counts[what] = self._counts.get(what, 0) + 1
        names = self._left_out.setdefault(what, [])
        if len(names) < _SHOWN and name not in names:
            names.append(name)

    def left_out(self) -> list[str]:
        """A line for each kind of what is left out, or changed."""
        lines = []
        for what, names in self._left_out.items():
            more = ", ..." if self._counts[what] > len(names) else ""
            lines.append(f"{self._counts[what]} x {what}: {', '.join(name[:_LONGEST] for name in names)}{more}")
        return lines

    def text(self) -> str:
        """All of it, a line each."""
        return "\n".join([f"layout: {self.layout}", *self.decisions, *self.left_out()])


def shortened(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many there are where these are not all."""
    shown = ", ".join(str(name)[:_LONGEST] for name in names[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown
