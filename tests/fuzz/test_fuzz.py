"""Input that nobody means is taken or refused in one message: no traceback, no hang, nothing run, and all verbs agree.

Override lines are drawn in ``tests/e2e/test_override_lines.py``.
"""

from __future__ import annotations

import checkpoints
import data_folders
import jsons
import pictures
import pytest

FULL = {jsons: 2000, checkpoints: 500, pictures: 200, data_folders: 2000}
SAMPLE = {jsons: 48, checkpoints: 12, pictures: 20, data_folders: 64}


@pytest.mark.parametrize("what, count", SAMPLE.items(), ids=lambda x: str(x)[:30])
def test_a_sample(what, count, capsys):
    check(what, count, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("what", FULL, ids=lambda x: x.__name__)
def test_all(what, capsys):
    check(what, FULL[what], capsys)


def check(what, count, capsys):
    counts, wrong = what.run(count)
    assert not wrong, "\n".join(wrong)
    assert counts.total() == count
    taken = sum(n for (_, said), n in counts.items() if "taken" in said)
    with capsys.disabled():
        print(f" {what.__name__}: {count} drawn, {taken} taken", end="")
