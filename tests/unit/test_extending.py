"""docs/extending.md, followed literally; and a deliberately wrong strategy and host of each, named by the checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detrex_ext.testing import BrokenInvariant, check_host, check_strategy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def page():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_page_runs_and_adds_what_it_says(page):
    model = page["model"]
    assert len(model.criterion.rules) == 3
    sets = model.train().forward_sets(page["example_batch"](4))
    paths = [s.path for s in sets if s.group == "main"]
    assert paths.count("plain") == 3 and paths.count("objectness") == 3


def test_a_strategy_that_changes_the_plain_path_is_named(page):
    class Louder(page["Objectness"]):
        def after_stage(self, step, history, sets, q):
            return sets, q.replace(content_BTC=q.content_BTC * 1.01)

    with pytest.raises(BrokenInvariant) as e:
        check_strategy(Louder(), page["model"])
    assert e.value.names == ("plain path",)


def test_a_strategy_without_a_rule_for_its_sets_is_named(page):
    class Other(page["Objectness"]):
        def after_stage(self, step, history, sets, q):
            return sets + [page["replace"](s, group="other") for s in sets], q

    with pytest.raises(BrokenInvariant, match="no rule fits") as e:
        check_strategy(Other(), page["model"])
    assert "every set has a rule" in e.value.names


def test_a_strategy_that_remembers_is_named(page):
    class Remembers(page["Objectness"]):
        passes = 0

        def after_stage(self, step, history, sets, q):
            self.passes += step < 0
            return super().after_stage(step, history, sets, q) if self.passes % 2 else (sets, q)

    with pytest.raises(BrokenInvariant) as e:
        check_strategy(Remembers(), page["model"])
    assert "no state" in e.value.names


def test_a_host_that_returns_corners_as_boxes_is_named(page):
    class Corners(page["CornerDecoder"]):
        def predict(self, layer, x, mem):
            logits, boxes, q = super().predict(layer, x, mem)
            return logits, boxes * 2 - 0.5, q

    host = page["narrow"](page["CornerQueries"](6, 32), Corners(4, 32, 2, 3), groups=("main",))
    with pytest.raises(BrokenInvariant) as e:
        check_host(host)
    assert "normalised boxes" in e.value.names


def test_a_host_that_keeps_scratch_is_named(page):
    class Keeps(page["CornerDecoder"]):
        def predict(self, layer, x, mem):
            logits, boxes, q = super().predict(layer, x, mem)
            return logits, boxes, q.replace(extra=x.extra)

    host = page["narrow"](page["CornerQueries"](6, 32), Keeps(4, 32, 2, 3), groups=("main",))
    with pytest.raises(BrokenInvariant) as e:
        check_host(host)
    assert "scratch dropped" in e.value.names
