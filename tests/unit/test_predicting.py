"""Prediction in batches, in half precision, compiled: answers are those of each image alone."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch
from contract.hosts import ALL_HOSTS, CLASSES, HOSTS
from PIL import Image

import detrex_ext
from detrex_ext.cli import dispatch
from detrex_ext.config import LazyConfig, load_config
from detrex_ext.data.transforms import ResizeShortestEdge
from detrex_ext.engine import compiling
from detrex_ext.errors import UserError
from detrex_ext.predictor import Predictor
from detrex_ext.runtime import instantiate, native

NAMES = [str(k) for k in range(CLASSES)]
SIZES = [(64, 96), (48, 96), (64, 96), (64, 80), (48, 96), (64, 96), (64, 96)]
QUICK = ("dino", "adamixer", "tsp-rcnn")
NOTHING = ("tsp-fcos", "tsp-fcos, all points")  # all boxes of their random weights are empty
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6)


def photo(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def hosts():
    return [pytest.param(host, marks=[] if host in QUICK else [pytest.mark.slow])
            for host in ALL_HOSTS if host not in NOTHING]  # fmt: skip


def check_equal(found, wanted):
    """Boxes to 1e-4 of the image's size, scores to 1e-5."""
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.image_size == theirs.image_size and len(ours) == len(theirs) > 0
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=0, atol=1e-4 * max(ours.image_size)
        )
        assert torch.equal(ours.pred_classes, theirs.pred_classes)


@pytest.mark.parametrize("host", hosts())
def test_images_of_one_size_together_are_found_as_alone(host):
    model = ALL_HOSTS[host]().requires_grad_(False)
    predictor, batches = Predictor(model, NAMES), []
    model.preprocess.register_forward_pre_hook(lambda module, args: batches.append([x["image"].shape for x in args[0]]))
    images = [photo(size, i) for i, size in enumerate(SIZES)]
    wanted = [predictor.predict(image, 0) for image in images]
    batches.clear()
    check_equal(predictor.predict(images, 0, batch_size=3), wanted)
    assert sorted(map(len, batches)) == [1, 1, 2, 3] and len(images) == 7
    assert all(len(set(shapes)) == 1 for shapes in batches)  # none is padded for another


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("host", hosts())
def test_half_precision_is_near(host, precision):
    """Which proposal a query begins with may turn on its last digit, so the scores of all are compared in order."""
    model = ALL_HOSTS[host]().requires_grad_(False)
    image, dtypes = photo((64, 96)), []
    conv = next(m for m in model.backbone.modules() if isinstance(m, torch.nn.Conv2d))
    conv.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    whole = Predictor(model, NAMES).predict(image, 0)
    half = Predictor(model, NAMES, precision=precision).predict(image, 0)
    assert dtypes == [torch.float32, native.DTYPES[precision]]
    assert half.scores.dtype == half.pred_boxes.tensor.dtype == torch.float32
    kept = min(len(whole), len(half))
    assert kept > 0
    torch.testing.assert_close(half.scores[:kept], whole.scores[:kept], rtol=0, atol=0.02)


def test_auto_is_bf16_where_it_is_native(monkeypatch):
    model = torch.nn.Linear(2, 3)
    for can in (True, False):
        monkeypatch.setattr(native, "half", lambda device, dtype, can=can: (can, "for a reason"))
        made = Predictor(model, NAMES, precision="auto")
        assert (made.precision, made.precision_reason) == ("bf16" if can else "fp32", "for a reason")
    asked = Predictor(model, NAMES, precision="fp16")
    assert asked.precision == "fp16" and asked.precision_reason == "as asked; slow, for a reason"
    assert Predictor(model, NAMES).precision == "fp32"
    for wrong in ("half", "", None, "FP16"):
        with pytest.raises(UserError, match=f"precision={wrong}: expected one of auto, fp32, bf16, fp16"):
            Predictor(model, NAMES, precision=wrong)


def test_numbers_out_of_range_say_what_to_do():
    model = HOSTS["detr"]().requires_grad_(False)
    model.neck.proj.weight.mul_(1e9) if hasattr(model.neck, "proj") else next(model.neck.parameters()).mul_(1e9)
    image = photo((64, 96))
    Predictor(model, NAMES).predict(image)
    with pytest.raises(UserError, match="precision=fp16: predictions are not finite.*\n  use precision=bf16 or fp32"):
        Predictor(model, NAMES, precision="fp16").predict(image)


def test_a_bad_image_comes_in_its_turn(tmp_path):
    predictor = Predictor(HOSTS["detr"]().requires_grad_(False), NAMES)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG broken")
    images = [photo((64, 96)), photo((48, 96)), tmp_path / "bad.png", photo((64, 96), 1)]
    found = predictor.stream(images, 0, batch_size=2)
    assert [next(found).image_size for _ in range(2)] == [(64, 96), (48, 96)]
    with pytest.raises(UserError, match="bad.png"):
        next(found)
    seen = list(predictor.examine(images, 0, batch_size=2))
    assert [one.error is None for one in seen] == [True, True, False, True]
    assert all((one.rgb is None) == (one.instances is None) == (one.error is not None) for one in seen)
    with pytest.raises(TypeError, match="an image is a path"):
        predictor.predict([photo((64, 96)), 7])
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


def test_images_are_taken_a_few_ahead_and_prepared_elsewhere():
    threads = set()

    def noted(sample, rng):
        threads.add(threading.current_thread())
        return sample

    predictor = Predictor(HOSTS["detr"]().requires_grad_(False), NAMES, [ResizeShortestEdge(32), noted])
    taken = []

    def camera():
        while True:
            taken.append(1)
            yield photo((64, 96))

    for number, _ in zip(range(1, 5), predictor.stream(camera()), strict=False):
        assert len(taken) <= number + 1
    assert threading.current_thread() not in threads


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    cfg = load_config("small", overrides=["model.num_classes=3", "model.decoder.num_layers=1"])
    folder = tmp_path_factory.mktemp("run")
    state = instantiate(cfg.model).state_dict()
    torch.save({"model": state, "class_names": NAMES[:3], "config": LazyConfig.dumps(cfg)}, folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    for i, size in enumerate(((60, 90), (90, 60), (60, 90))):
        Image.fromarray(photo(size, i)).save(folder / f"{i}.png")
    return folder


def predict(run, output, *more):
    inputs = [str(run / f"{i}.png") for i in range(3)]
    common = ["--output", str(output), "--device", "cpu", "--threshold", "0"]
    return dispatch(["predict", str(run), *inputs, *common, *more])


def test_the_command_in_batches_writes_what_it_writes_alone(run, tmp_path, capsys):
    rows = []
    for name, more in (("a", ()), ("b", ("--batch-size", "2"))):
        assert predict(run, tmp_path / name, *more) == 0
        rows.append(json.loads((tmp_path / name / "predictions.json").read_text()))
    assert " images/s: read, found, drawn and saved" in capsys.readouterr().out
    assert [row["file"][-5:] for row in rows[1]] == ["0.png", "1.png", "2.png"]
    for one, other in zip(*rows, strict=True):
        assert one["classes"] == other["classes"] and np.allclose(one["scores"], other["scores"], atol=1e-4)
        assert np.allclose(one["boxes"], other["boxes"], atol=0.02)


def test_the_command_says_which_precision_it_is(run, tmp_path, capsys):
    assert predict(run, tmp_path / "out", "--precision", "auto") == 0
    reason = native.half(torch.device("cpu"), "bf16")
    assert f"precision: {'bf16' if reason[0] else 'fp32'} ({reason[1]})\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        predict(run, tmp_path / "out", "--precision", "bf15")
    assert "invalid choice: 'bf15'" in capsys.readouterr().err


def test_graphs_are_refused_in_one_line_where_there_is_no_gpu(run, tmp_path, capsys):
    assert predict(run, tmp_path / "out", "--cuda-graphs", "--compile") == 2
    assert capsys.readouterr().err == "cuda_graphs=True: the model is on cpu, and only a CUDA device records graphs\n"
    assert not (tmp_path / "out").exists()


def test_what_is_compiled_is_what_training_compiles(run, monkeypatch):
    asked = []
    monkeypatch.setattr(compiling, "compile_parts", lambda model, *what, **options: asked.append((*what, options)))
    for compile in (False, True, "decoder"):
        detrex_ext.load(run, device="cpu", compile=compile)
    assert asked == [("all", False, {"key": "compile"}), ("decoder", False, {"key": "compile"})]


def test_messages_of_a_compilation_name_the_argument(run, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no C++ compiler was found")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UserError, match="^compile=all: torch .* cannot compile for cpu .*no C.. compiler was found\n"):
        detrex_ext.load(run, device="cpu", compile=True)
    with pytest.raises(UserError, match="^compile=neck: expected one of backbone, encoder, decoder, all, or False"):
        detrex_ext.load(run, device="cpu", compile="neck")


@pytest.mark.slow
@pytest.mark.skipif(OLD, reason="torch 2.4 does not trace dataclasses: its graphs break, and are right")
@pytest.mark.parametrize("host", [host for host in ALL_HOSTS if "rcnn" not in host])
def test_a_prediction_is_one_graph_of_any_size(host, monkeypatch):
    monkeypatch.setenv("DETREX_EXT_MS_DEFORM", "torch")
    torch.compiler.reset()
    model = ALL_HOSTS[host]().eval().requires_grad_(False)
    model.decoder.order = (0, 1) if host in HOSTS else model.decoder.order
    core = torch.compile(model.core, backend="eager", fullgraph=True)
    for height, width in ((64, 96), (80, 96), (48, 128)):
        batch = torch.rand(1, 3, height, width), torch.tensor([[height, width]]).float()
        with torch.no_grad():
            for ours, theirs in zip(core(*batch), model.core(*batch), strict=True):
                torch.testing.assert_close(ours.boxes_BQ4, theirs.boxes_BQ4, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(ours.logits_BQK, theirs.logits_BQK, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


@pytest.mark.slow
def test_a_compiled_model_finds_what_one_that_is_not_does(run):
    torch.compiler.reset()
    plain, compiled = (detrex_ext.load(run, device="cpu", compile=compile) for compile in (False, True))
    images = [photo(size, i) for i, size in enumerate(SIZES)]
    check_equal(compiled.predict(images, 0, batch_size=3), [plain.predict(image, 0) for image in images])
    torch.compiler.reset()
