"""What `doctor --gpu` asks and can be answered wrongly, on a GPU: one test for each case of its steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from detrex_ext.gpu_check.table import STEPS, NotHere, Options, resolve

OPTIONS = Options("cuda")
THERE = torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not THERE, reason="there is no GPU that torch can use")]


def cases() -> Iterator:
    for step in STEPS:
        if step.judged and THERE:
            for case in resolve(step.where)(OPTIONS):
                yield pytest.param(case, id=f"{step.name}: {case.name}")
        elif step.judged:
            yield pytest.param(None, id=step.name)


@pytest.mark.parametrize("case", list(cases()))
def test_it_holds(case):
    try:
        row = case.run()
        torch.cuda.synchronize()
    except NotHere as reason:
        pytest.skip(str(reason))
    finally:
        torch.cuda.empty_cache()
    assert row["held"] is not False, row
