"""`python -m detrex_ext export` of a run: files, what they say of themselves, and the comparison (`-m slow`)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from training import in_process, train

import detrex_ext
from detrex_ext.cli import dispatch
from detrex_ext.data.read import read_image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(shapes_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    assert in_process(train, shapes_data, out) == 0
    return out


def _about(predictor, said):
    assert said["class_names"] == ["circle", "rectangle", "triangle", "star"] and said["category_ids"] == [1, 2, 3, 4]
    assert said["threshold"] == predictor.threshold.score
    assert said["made_by"]["detrex_ext"] == said["version"] == detrex_ext.__version__
    assert said["preprocessing"] == "inside" and said["channels"] == "rgb" and len(said["pixel_mean"]) == 3


def test_onnx_of_a_run(shapes_data, trained, capsys):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    import onnxruntime

    assert dispatch(["export", str(trained), "--int8", "--tolerance", "100"]) == 0
    out = capsys.readouterr().out
    assert "averaged weights" in out and "onnx against torch on 4 images" in out and "AP in the frame: torch" in out
    session = onnxruntime.InferenceSession(trained / "model.onnx")
    predictor = detrex_ext.load(trained, device="cpu")
    _about(predictor, {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()})
    small = onnxruntime.InferenceSession(trained / "model_int8.onnx").get_modelmeta().custom_metadata_map
    assert small["quantized"] == '"int8"' and json.loads(small["class_names"])[0] == "circle"
    image = read_image(next((shapes_data / "images").glob("val*.png")))
    boxes, scores, labels = session.run(None, {"images": np.stack([image, image])})
    want = predictor.predict(image, threshold=0.0)
    n = min(len(want), 5)
    assert np.allclose(scores[0, :n], want.scores[:n], atol=0.05) and labels.dtype == np.int64
    assert (boxes >= 0).all() and (boxes[..., 2] <= image.shape[1]).all() and np.allclose(scores[0], scores[1])


def test_pt2_of_a_run_and_of_other_weights(trained, tmp_path, capsys):
    target = tmp_path / "other.pt2"
    command = ["export", str(trained / "model_final.pth"), "--format", "pt2", "--output", str(target), "--no-average"]
    assert dispatch([*command, "--count", "0"]) == 0
    assert "trained weights" in capsys.readouterr().out
    extra = {"detrex_ext.json": ""}
    program = torch.export.load(target, extra_files=extra)
    _about(detrex_ext.load(trained, average=False, device="cpu"), json.loads(extra["detrex_ext.json"]))
    boxes, scores, _ = program.module()(torch.zeros(1, 50, 70, 3, dtype=torch.uint8))
    assert boxes.shape[::2] == (1, 4) and scores.isfinite().all()
    assert not list(tmp_path.glob(".saving-*"))


def test_a_file_that_differs_ends_with_one(trained, tmp_path, capsys, monkeypatch):
    from detrex_ext.cli import export
    from detrex_ext.export import files

    own = files.runner
    monkeypatch.setattr(files, "runner", lambda path: lambda given: tuple(x / 2 for x in own(path)(given)))
    monkeypatch.setattr(export, "data_of", lambda *_: ("", ""))
    target = str(tmp_path / "model.pt2")
    assert dispatch(["export", str(trained), "--format", "pt2", "--output", target, "--preprocessing", "outside"]) == 1
    out, err = capsys.readouterr()
    assert "compared on noise" in out and "model.pt2: scores differ by" in err
