"""Each verb that a document tells people to type, run in a folder that holds what the document speaks of, cut short.

Commands of one document run in its order and see what those before them wrote. Tutorials have a test of their own;
benchmarks are not shortened by a rule, they are commands to measure with.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import narrow
import pytest
from documents import CUT, DOCUMENTS, ROOT, of_verbs
from PIL import Image
from training import metrics

from detrex_ext.data import shapes
from detrex_ext.predicting.drawn import DrawnVideo

ENDS = ["train.minutes=null", "train.eval_period=0", "train.report=false"]
IMAGES = ["--overlay", str(Path(__file__).with_name("small_images.py"))]
MORE = {"export": ["--size", "64", "--count", "2", "--tolerance", "100"], "predict": ["--device", "cpu"]}
RUNS = ("run", "mine", "sqr", "bare", "dac")
PHOTOS = ("photos", "photographs", "large")
# what cannot run here, and where it does
ELSEWHERE = {
    r"\.\.\.|VERB|SUITE|DIR|^train$": "stands for what the reader fills in",
    r"cuda|--gpu\b|^gpu_check": "needs a GPU: tests/gpu",
    r"--webcam": "needs a camera: tests/unit/test_video.py",
    r"THEIRS\.py": "tests/parity/test_detrex_configs.py",
    r"^zoo |zoo:": "needs a file of a release: tests/e2e/test_zoo_build.py",
    r"^benchmark ": "measures: tests/unit/test_benchmark.py",
}
NEEDS = {"lite0": "timm", "mobilenet_v2": "timm", "convnext": "timm", "film.mp4": "av", "^export": "onnxruntime",
         "^plot|compare": "matplotlib"}  # fmt: skip
CHOSEN = [d for d in DOCUMENTS if {"benchmarks", "tutorials"}.isdisjoint(d.parts) and d.name != "CHANGELOG.md"]
PAGES = [d for d in CHOSEN if of_verbs(d)]


def in_child(work: Callable[[], int | None], log: Path) -> int:
    """The exit code of ``work`` in a forked process, which leaves nothing behind in this one; 124 after 5 minutes."""

    def run() -> None:
        sys.stdout = sys.stderr = out = log.open("w", encoding="utf-8")
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        code: object = 1
        try:
            code = work() or 0
        except SystemExit as stop:
            code = stop.code or 0
            print(stop.code)
        except BaseException:  # a traceback is what a user would see
            traceback.print_exc()
        out.flush()
        os._exit(code if isinstance(code, int) else 1)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(300)
    if child.exitcode is None:
        child.kill()
        child.join()
        return 124
    return child.exitcode


def typed(folder: Path, verb: str, *arguments: str) -> None:
    """Runs a command in ``folder``; what it says on failure is the error."""

    def run() -> int | None:
        os.chdir(folder)
        sys.path.insert(0, str(ROOT))
        return importlib.import_module(f"detrex_ext.cli.{verb}").main(list(arguments))

    code = in_child(run, folder / "said.txt")
    # check has 1 for what it found in the data
    if code not in ((0, 1) if verb == "check" else (0,)):
        said = (folder / "said.txt").read_text(errors="replace")
        raise AssertionError(f"{verb} {' '.join(arguments)}: exit code {code}\n{said[-700:]}")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """``my`` and ``output/shapes`` as data sets, photographs, runs of a narrow ``small`` under usual names."""
    folder = tmp_path_factory.mktemp("world")
    for data in ("my", "output/shapes"):
        shapes.write(folder / data, 6, 2, 64, 0)
    (folder / "train.json").symlink_to("my/train.json")
    (folder / "images").symlink_to("my/images")
    (folder / "my" / "train").symlink_to("images")
    picture = folder / "my" / "images" / "val_00000.png"
    for name in PHOTOS:
        (folder / name).mkdir()
        shutil.copy(picture, folder / name / "one.png")
    for name in ("photo.jpg", "image.jpg"):
        shutil.copy(picture, folder / name)
    first = narrow.overrides(folder / "my", folder / "output" / "mine")
    # by the clock, as README has it: some seven steps
    typed(folder, "train", "--config-file", "small", *CUT, *first, "train.minutes=0.001")
    for name in set(RUNS) - {"mine"}:
        shutil.copytree(folder / "output" / "mine", folder / "output" / name)
    return folder


def film(path: Path) -> None:
    """Writes a video of three frames."""
    drawn = DrawnVideo(path, 4)
    for number in range(3):
        drawn.add(Image.new("RGB", (64, 64), (40 * number, 0, 0)), number / 4)
    drawn.close()


def with_data(arguments: list[str]) -> list[str]:
    """``my`` as the data of a training that names none."""
    if "--data" in arguments or value(arguments, "dataset.train_json"):
        return arguments
    given = [f"dataset.{part}_json=my/{part}.json" for part in ("train", "val")]
    return [*arguments, *given, *(f"dataset.{part}_images=my/images" for part in ("train", "val"))]


def value(arguments: list[str], key: str) -> str | None:
    """What a command gives for a key."""
    return next((word.split("=", 1)[1] for word in arguments if word.startswith(f"{key}=")), None)


def without(arguments: list[str], *starts: str) -> list[str]:
    """The arguments that do not start so."""
    return [word for word in arguments if not word.startswith(starts)]


def trained(folder: Path, arguments: list[str], name: str) -> Path:
    """The checkpoint of a training of two steps."""
    out = f"output/{name}"
    more = ["train.init_checkpoint=", f"train.output_dir={out}", "train.overwrite=true", "train.max_iter=2"]
    typed(folder, "train", *with_data(arguments), *IMAGES, *ENDS, *more)
    return folder / out / "model_final.pth"


def cut(folder: Path, arguments: list[str]) -> list[str]:
    """A training of two steps on small images on the CPU, without weights that only a network has."""
    if "--num-gpus" in arguments:
        at = arguments.index("--num-gpus")
        arguments = arguments[:at] + arguments[at + 2 :]
    arguments = [re.sub(r"^(train\.max_iter)=.*", r"\1=15", word) for word in arguments]
    arguments = [re.sub(r"^(train\.minutes)=.*", r"\1=0.001", word) for word in arguments]
    if arguments[1].startswith("output/"):
        return [*arguments, *ENDS[1:]]  # a run by the clock
    clock = value(arguments, "train.minutes") is not None
    arguments += [] if clock or value(arguments, "train.max_iter") else ["train.max_iter=2"]
    arguments = [*with_data(arguments), *IMAGES, *(ENDS[1:] if clock else ENDS)]
    weights = value(arguments, "train.init_checkpoint")
    if weights is not None and "--eval-only" in arguments and not (folder / weights).exists():
        of = without(arguments, "train.init_checkpoint", "--eval-only", "--overlay", *IMAGES[1:])
        shutil.move(trained(folder, of, "before"), folder / weights)
    if weights is None or not (folder / weights).exists():
        arguments = [*without(arguments, "train.init_checkpoint="), "train.init_checkpoint="]
    out = [] if value(arguments, "train.output_dir") else ["train.output_dir=output/typed"]
    return [*arguments, *out, *([] if "--eval-only" in arguments else ["train.overwrite=true"])]


def prepare_files(folder: Path, arguments: list[str]) -> None:
    """Makes the checkpoints and the video that a command speaks of."""
    deformable = ["--config-file", "deformable_detr_r50_two_stage_50ep", "train.model_ema.enabled=true"]
    if "--to" in arguments:
        shutil.copy(trained(folder, deformable, "run"), folder / "ours.pth")
    if any(word.endswith("official.pth") for word in arguments) and not (folder / "official.pth").exists():
        trained(folder, deformable, "theirs")
        typed(folder, "convert", "output/theirs/model_final.pth", "official.pth", "--to", "official")
    for name in re.findall(r"output/(\w+_\w+)/model_final.pth", " ".join(arguments)):
        trained(folder, ["--config-file", name], name)
    if "film.mp4" in arguments:
        film(folder / "film.mp4")


def prepared(folder: Path, verb: str, arguments: list[str]) -> list[str]:
    """The command as it runs here."""
    prepare_files(folder, arguments)
    if verb == "train":
        return cut(folder, arguments)
    return [*arguments, *MORE.get(verb, [])]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_documents_commands_run_as_they_are_typed(page, world, tmp_path):
    folder = tmp_path / "here"
    shutil.copytree(world, folder, symlinks=True)
    wrong, ran = [], 0
    for verb, arguments in of_verbs(page):
        line = " ".join((verb, *arguments))
        if any(re.search(pattern, line) for pattern in ELSEWHERE):
            continue
        if not all(importlib.util.find_spec(name) for pattern, name in NEEDS.items() if re.search(pattern, line)):
            continue
        try:
            typed(folder, verb, *(words := prepared(folder, verb, arguments)))
            ran += 1
            if (steps := value(words, "train.max_iter")) and verb == "train" and "--eval-only" not in words:
                made = metrics(folder / (value(words, "train.output_dir") or words[1]))[-1]["iteration"]
                assert made == int(steps), f"{line}: {made} steps"
        except AssertionError as error:
            wrong.append(str(error))
    if not (ran or wrong):
        pytest.skip("no command of it runs here")
    assert not wrong, f"{ran} ran, {len(wrong)} did not\n" + "\n\n".join(wrong)
