"""The finder itself, without anything of detectron2; and detectron2's own test files where they are."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compatibility import VARIABLE, by_file, outcomes
from expected import ALONE, NEEDS, OVER, PASSED
from served import BESIDE, SEAM

from detrex_ext import runtime

HERE = Path(__file__).resolve().parent
IN_DETECTRON2 = importlib.util.find_spec("detectron2") is not None
needs_none = pytest.mark.skipif(IN_DETECTRON2, reason="detectron2 is installed: its names are its own")


def child(code: str, *paths: Path) -> str:
    """What a process prints that finds the finder's modules."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, HERE, HERE.parents[1])))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_every_name_of_the_seam_is_served():
    ours = {name for names in SEAM.values() for name in names}
    assert ours == {*runtime._HOST, *runtime._OURS} - {"LazyConfigBase", "comm"}
    assert not {name for names in BESIDE.values() for name in names} & ours


@needs_none
def test_the_objects_are_the_same_ones():
    code = """
from finder import install
install()
import detectron2.utils.comm
from detectron2.config import LazyCall, instantiate
from detectron2.structures import Boxes
from detectron2.structures.boxes import Boxes as deeper
from detectron2.utils import comm
from detrex_ext import runtime
from detrex_ext.runtime.standalone import comm as own
assert Boxes is deeper is runtime.Boxes and LazyCall is runtime.LazyCall and instantiate is runtime.instantiate
assert comm is detectron2.utils.comm is runtime.comm is own and own.__spec__.name == own.__name__
assert runtime.name() == "standalone"
"""
    assert child(code) == ""


@needs_none
def test_what_is_not_served_can_be_named_and_not_used():
    code = """
from finder import NotServedError, install
install()
from detectron2 import model_zoo
from detectron2.modeling import FPN
from detectron2.modeling.meta_arch import META_ARCH_REGISTRY
for use in (lambda: FPN(3), lambda: META_ARCH_REGISTRY.register(), lambda: model_zoo.get("x")):
    try:
        use()
    except NotServedError as error:
        print(error)
"""
    said = child(code).splitlines()
    assert said[:2] == ["detectron2.modeling.FPN", "detectron2.modeling.meta_arch.META_ARCH_REGISTRY.register"]
    assert said[2].startswith("detectron2.model_zoo")


@needs_none
def test_over_a_checkout_its_other_code_runs_on_our_objects(tmp_path):
    package = tmp_path / "detectron2"
    for folder in (package, package / "structures", package / "layers"):
        folder.mkdir()
        (folder / "__init__.py").write_text("")
    (package / "structures" / "__init__.py").write_text("from .boxes import Boxes, boxes_of\n")
    (package / "structures" / "boxes.py").write_text(
        "class Boxes: pass\ndef boxes_of(x): return Boxes(x)\ndef pairwise_iou(a, b): return 'theirs'\n"
    )
    code = f"""
from pathlib import Path
from finder import install
install(Path({str(tmp_path)!r}))
from detectron2.structures import Boxes, boxes_of
from detectron2.structures.boxes import pairwise_iou
from detrex_ext import runtime
assert Boxes is runtime.Boxes and type(boxes_of([[0, 0, 1, 1]])) is runtime.Boxes
assert pairwise_iou.__module__ == "detrex_ext.runtime.standalone.boxes"
import detectron2.layers
assert detectron2.layers.__file__.startswith({str(tmp_path)!r})
try:
    import detectron2.nothing
except ModuleNotFoundError:
    print("absent")
"""
    assert child(code) == "absent"


def test_it_does_not_act_where_detectron2_can_be_imported(tmp_path):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("mine = 1\n")
    code = """
from finder import install
try:
    install()
except RuntimeError as error:
    print(error)
import detectron2
assert detectron2.mine == 1
"""
    assert "can be imported here" in child(code, tmp_path)


@needs_none
@pytest.mark.parametrize("way", ["alone", "over"])
def test_the_test_files_of_detectron2(way):
    where = os.environ.get(VARIABLE)
    if not where:
        pytest.skip(f"{VARIABLE} is not set: the tests/ folder of a checkout of detectron2")
    table = {"alone": ALONE, "over": OVER}[way]
    found = outcomes(Path(where).resolve(), way, list(table))
    wrong = []
    for file, expected in table.items():
        of = by_file(found, file)
        failed = [(case, why) for case, kind, why in of if kind == "failed"]
        wrong += [f"{file} {case}: {why}" for case, why in failed if case not in expected.reasons]
        passed = [case for case, kind, _ in of if kind == "passed"]
        ours = {case for case, why in expected.reasons.items() if not why.startswith(NEEDS)}
        wrong += [f"{file} {case}: passes now" for case in passed if case in ours]
        if len(passed) < expected.passed:
            wrong.append(f"{file}: {len(passed)} cases pass, {expected.passed} did")
    assert not wrong, "\n".join(wrong)


def test_a_hundred_cases_are_expected_to_pass():
    assert PASSED["alone"] >= 50 and sum(PASSED.values()) >= 150
