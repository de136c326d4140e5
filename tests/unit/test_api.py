from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

import detrex_ext
from detrex_ext.config import LazyConfig
from detrex_ext.errors import UserError
from detrex_ext.runtime import instantiate

NAMES = ["circle", "square", "star"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as training leaves it: the small config, random weights, averaged weights that differ."""
    from detrex_ext.config import load_config

    torch.manual_seed(0)
    cfg = load_config("small", overrides=["model.num_classes=3", "model.decoder.num_layers=1"])
    model = instantiate(cfg.model)
    folder = tmp_path_factory.mktemp("run")
    state = model.state_dict()
    averaged = {k: v * 1.5 if v.is_floating_point() else v for k, v in state.items()}
    text = LazyConfig.dumps(cfg)
    data = {"model": state, "class_names": NAMES, "category_ids": [2, 5, 9], "config": text, "iteration": 7}
    torch.save(data, folder / "model_0000007.pth")
    torch.save({**data, "ema_state": averaged}, folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    return folder, model.eval(), cfg


def _image(h=60, w=90):
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)


def test_run_folder_checkpoint_and_config_give_the_same_model(run):
    folder, model, cfg = run
    final = folder / "model_final.pth"
    predictors = [
        detrex_ext.load(folder, average=False, device="cpu"),
        detrex_ext.load(final, average=False, device="cpu"),
        detrex_ext.load(cfg, weights=final, average=False, device="cpu"),
    ]
    for p in predictors:
        assert p.class_names == NAMES and p.category_ids == [2, 5, 9]
        assert p.model.criterion is None and not p.model.training
        got, want = p.model.state_dict(), model.state_dict()
        assert got.keys() == want.keys() and all(torch.equal(got[k], want[k]) for k in want)


def test_averaged_weights_are_taken_where_there_are_any(run):
    folder, model, _ = run
    key = "decoder.class_embed.0.bias"
    plain = model.state_dict()[key]
    assert torch.equal(detrex_ext.load(folder, device="cpu").model.state_dict()[key], plain * 1.5)
    periodic = folder / "model_0000007.pth"
    assert torch.equal(detrex_ext.load(periodic, device="cpu").model.state_dict()[key], plain)
    with pytest.raises(UserError, match="no averaged weights"):
        detrex_ext.load(periodic, average=True)


def test_predictions_are_the_evaluations_in_pixels_of_the_image(run):
    folder, model, cfg = run
    image = _image()
    predictor = detrex_ext.load(folder, average=False, device="cpu")
    found = predictor.predict(image, threshold=0)
    transform = instantiate(cfg.dataloader.test.mapper.augmentation)[0]
    from detrex_ext.data.transforms import Sample

    resized = transform(Sample(image, np.zeros((0, 4)), np.zeros(0, dtype=np.int64)), np.random.default_rng(0)).image
    assert max(resized.shape) == 256
    tensor = torch.from_numpy(resized.transpose(2, 0, 1).copy())
    with torch.no_grad():
        want = model([{"image": tensor, "height": 60, "width": 90}])[0]["instances"]
    assert found.image_size == (60, 90) and len(found) == len(want) > 0
    assert torch.equal(found.pred_boxes.tensor, want.pred_boxes.tensor)
    assert torch.equal(found.scores, want.scores) and torch.equal(found.pred_classes, want.pred_classes)
    middle = want.scores.median().item()
    assert len(predictor.predict(image, threshold=middle)) == int((want.scores >= middle).sum())


def test_every_kind_of_image_gives_the_same(run, tmp_path):
    predictor = detrex_ext.load(run[0], device="cpu")
    image = _image()
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    rgba = np.concatenate([image, np.full((60, 90, 1), 255, np.uint8)], 2)
    results = [predictor.predict(x, 0) for x in (image, Image.fromarray(image), path, str(path), rgba)]
    results += predictor.predict([image, path], 0) + predictor.predict((image, image), 0, batch_size=2)[1:]
    assert len(results) == 8
    for other in results[1:]:
        assert torch.allclose(other.scores, results[0].scores, atol=1e-5)
    assert predictor.predict([]) == []
    assert not torch.is_inference(results[0].scores)


def test_images_are_turned_upright(run, tmp_path):
    predictor = detrex_ext.load(run[0], device="cpu")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_image(60, 90)).save(tmp_path / "turned.png", exif=exif)
    assert predictor.predict(tmp_path / "turned.png").image_size == (90, 60)
    with Image.open(tmp_path / "turned.png") as image:
        assert predictor.predict(image).image_size == (90, 60)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 5, 3), "f"), np.zeros((0, 5, 3), "B"), np.zeros((3, 4, 5), "B"), torch.zeros(3, 4, 5), 7]
)
def test_what_is_no_image_is_refused(run, image):
    with pytest.raises(TypeError, match="an image is"):
        detrex_ext.load(run[0], device="cpu").predict(image)


def test_loading_and_predicting_imports_no_training_code(run):
    code = f"""
        import sys, numpy as np, detrex_ext
        detrex_ext.load({str(run[0])!r}, device="cpu").predict(np.zeros((20, 30, 3), np.uint8))
        parts = ("criterion", "matching", "strategies", "engine", "evaluation")
        print([m for m in sys.modules if m.startswith(tuple("detrex_ext." + p for p in parts))])
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "[]"


def test_messages_where_there_is_nothing_to_load(run, tmp_path):
    folder, _, cfg = run
    with pytest.raises(UserError, match="no checkpoint of a training; it holds nothing"):
        detrex_ext.load(tmp_path)
    with pytest.raises(UserError, match="names no weights"):
        detrex_ext.load(cfg)
    with pytest.raises(UserError, match="(?s)absent: no run folder, no checkpoint .*and no config"):
        detrex_ext.load("absent")
    with pytest.raises(UserError, match="absent.pth"):
        detrex_ext.load(tmp_path / "absent.pth")
    (tmp_path / "broken.pth").write_bytes((folder / "model_final.pth").read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated or not a checkpoint"):
        detrex_ext.load(tmp_path / "broken.pth")
    data = torch.load(folder / "model_final.pth", weights_only=True)
    torch.save({"model": data["model"]}, tmp_path / "bare.pth")
    with pytest.raises(UserError, match="holds no config"):
        detrex_ext.load(tmp_path / "bare.pth")
    torch.save({**data, "class_names": ["a"], "category_ids": [1]}, tmp_path / "names.pth")
    with pytest.raises(UserError, match="has 3 classes, its list of names 1: a"):
        detrex_ext.load(tmp_path / "names.pth")
    backbone = {k: v for k, v in data["model"].items() if k.startswith("backbone.")}
    torch.save({**data, "model": backbone}, tmp_path / "backbone.pth")
    with pytest.raises(UserError, match="holds only backbone weights .*the rest of the detector would be random"):
        detrex_ext.load(tmp_path / "backbone.pth", average=False)


def test_last_checkpoint_is_taken_without_a_final_one_and_config_from_beside_it(run, tmp_path):
    folder, model, cfg = run
    data = torch.load(folder / "model_0000007.pth", weights_only=True)
    torch.save({k: v for k, v in data.items() if k != "config"}, tmp_path / "model_0000007.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth")
    (tmp_path / "config.yaml").write_text(data["config"])
    predictor = detrex_ext.load(tmp_path, device="cpu")
    assert predictor.source == str(tmp_path / "model_0000007.pth")
    assert len(predictor.predict(_image(), 0)) > 0


@pytest.mark.parametrize(
    "target", ["os.system", "detrex_ext.api.os.system", "detrex_ext.data.shapes.write", "torch.hub.load"]
)
@pytest.mark.parametrize("by_reference", [False, True])
def test_a_config_that_would_call_something_else_is_refused(run, tmp_path, target, by_reference):
    data = torch.load(run[0] / "model_final.pth", weights_only=True)
    evil = "{_target_: " + target + ", command: touch " + str(tmp_path / "was_run") + "}"
    text = data["config"].replace("postprocess: {", "postprocess: ${evil}\n  old: {")
    text = f"{text}evil: {evil}\n" if by_reference else text.replace("postprocess: ${evil}", f"postprocess: {evil}")
    assert text != data["config"]
    torch.save({**data, "config": text}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=f"would call '{target}'"):
        detrex_ext.load(tmp_path / "evil.pth", device="cpu")
    assert not (tmp_path / "was_run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_device_that_is_not_there_is_named(run):
    with pytest.raises(UserError, match="device=cuda:1: there is no GPU that torch can use\n  for the CPU: device=cpu"):
        detrex_ext.load(run[0], device="cuda:1")


def test_a_device_of_no_known_name_is_told_too(run):
    with pytest.raises(UserError, match="device=gpu: no device that torch can use"):
        detrex_ext.load(run[0], device="gpu")


def test_predict_command(run, tmp_path, capsys):
    from detrex_ext.cli.predict import main

    images = tmp_path / "in"
    images.mkdir()
    for name, size in (("a.png", (60, 90)), ("b.jpg", (40, 40))):
        Image.fromarray(_image(*size)).save(images / name)
    Image.fromarray(_image()).save(tmp_path / "a.bmp")
    (images / "notes.txt").write_text("no image")
    (images / "c.png").write_bytes(b"\x89PNG broken")
    truth = {
        "images": [{"id": 1, "file_name": "in/a.png", "width": 90, "height": 60}],
        "categories": [{"id": 4, "name": "circle"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [10, 10, 30, 30]}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    out = tmp_path / "out"
    command = [str(run[0]), str(images), str(tmp_path / "*.bmp"), "--output", str(out), "--threshold", "0"]
    with pytest.raises(UserError, match="1 of 4 images cannot be used; the others are done\n.*c.png"):
        main([*command, "--device", "cpu", "--ground-truth", str(tmp_path / "truth.json")])
    rows = json.loads((out / "predictions.json").read_text())
    assert [r["file"].rsplit("/", 1)[1] for r in rows] == ["a.png", "b.jpg", "a.bmp"]
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "a_2.png", "b.png", "predictions.json"]
    direct = detrex_ext.load(run[0], device="cpu").predict(images / "a.png", 0)
    assert rows[0]["width"] == 90 and rows[0]["height"] == 60
    assert np.allclose(rows[0]["scores"], direct.scores.numpy(), atol=1e-4)
    assert set(rows[0]["classes"]) <= set(NAMES) and len(rows[0]["boxes"]) == len(rows[0]["classes"])
    with Image.open(out / "a.png") as pair, Image.open(out / "b.png") as other:
        # only an image that the JSON has is shown beside its ground truth
        assert pair.width > 2 * 640 > other.width
    (images / "c.png").unlink()
    assert main([*command, "--device", "cpu", "--batch-size", "2"]) == 0
    assert "objects with score >= 0.0 on 3 images" in capsys.readouterr().out


def test_predict_takes_a_config_beside_and_foreign_code_if_trusted(run, tmp_path, monkeypatch, capsys):
    from detrex_ext.cli import dispatch

    data = torch.load(run[0] / "model_final.pth", weights_only=True)
    Image.fromarray(_image()).save(tmp_path / "a.png")
    (tmp_path / "beside.yaml").write_text(data["config"])
    torch.save({key: data[key] for key in ("model", "class_names")}, tmp_path / "bare.pth")
    more = [str(tmp_path / "a.png"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    config = ["--config-file", str(tmp_path / "beside.yaml")]
    assert dispatch(["predict", str(tmp_path / "bare.pth"), *more, *config]) == 0
    (tmp_path / "foreign.py").write_text(
        "from detrex_ext.modeling.postprocess import Postprocess\nclass Mine(Postprocess): pass"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = data["config"].replace("detrex_ext.modeling.postprocess.Postprocess", "foreign.Mine")
    assert text != data["config"]
    torch.save({**data, "config": text}, tmp_path / "foreign.pth")
    assert dispatch(["predict", str(tmp_path / "foreign.pth"), *more]) == 2
    assert "would call 'foreign.Mine'" in capsys.readouterr().err
    assert dispatch(["predict", str(tmp_path / "foreign.pth"), *more, "--trust"]) == 0
    # of a config file, for training alone
    own = data["config"] + "\nmine: {f: !!python/name:detrex_ext._cfg_loader.mine.%3Clambda%3E ''}\n"
    torch.save({**data, "config": own}, tmp_path / "own.pth")
    assert dispatch(["predict", str(tmp_path / "own.pth"), *more, "--trust"]) == 0
    torch.save({**data, "config": own.replace("detrex_ext._cfg_loader", "nowhere_at_all")}, tmp_path / "gone.pth")
    assert dispatch(["predict", str(tmp_path / "gone.pth"), *more, "--trust"]) == 2
    assert "names 'nowhere_at_all.mine.<lambda>', which cannot be imported" in capsys.readouterr().err


def test_predict_command_refuses_what_it_cannot_do(run, tmp_path):
    from detrex_ext.cli.predict import main

    Image.fromarray(_image()).save(tmp_path / "a.png")
    for arguments, message in (
        ([str(tmp_path / "none"), "--output", "x"], "no images in .*none"),
        ([str(tmp_path / "a.png"), "--output", str(tmp_path)], "is an input and would be overwritten"),
        ([str(tmp_path / "a.png"), "--output", "x", "--threshold", "50"], r"--threshold 50.0 must lie in \[0, 1\]"),
        ([str(tmp_path / "a.png"), "--output", str(run[0] / "last_checkpoint")], "last_checkpoint: expected a folder"),
    ):
        with pytest.raises(UserError, match=message):
            main([str(run[0]), *arguments])


def test_predict_command_wants_a_ground_truth_of_the_images(run, tmp_path):
    from detrex_ext.cli.predict import main

    Image.fromarray(_image()).save(tmp_path / "a.png")
    truth = {
        "images": [{"id": 1, "file_name": "b.png", "width": 90, "height": 60}],
        "categories": [{"id": 4, "name": "circle"}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [10, 10, 30, 30]}],
    }
    for change, message in (
        ({}, "truth.json: missing category\n"),
        ({"category_id": 4}, "none of the images is in it, as .*a.png; its first is b.png"),
    ):
        truth["annotations"][0].update(change)
        file = tmp_path / "truth.json"
        file.write_text(json.dumps(truth))
        with pytest.raises(UserError, match=message):
            main([str(run[0]), str(tmp_path / "a.png"), "--output", "x", "--ground-truth", str(file)])


def test_a_glob_takes_no_folders(tmp_path):
    from detrex_ext.cli.predict import find_images

    Image.fromarray(_image()).save(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    assert find_images([str(tmp_path / "*.png")]) == [tmp_path / "a.png"] == find_images([str(tmp_path)])
    for name in ("._a.png", "._c.avif", "c.AVIF"):
        (tmp_path / name).write_bytes(b"")
    wanted = [tmp_path / "a.png", tmp_path / "c.AVIF"]
    assert find_images([str(tmp_path)]) == wanted == find_images([str(tmp_path / "*.png"), str(tmp_path / "*.AVIF")])
    with pytest.raises(UserError, match="no images"):
        find_images([str(tmp_path / "._*")])


def test_other_weights_for_the_config_of_a_run_or_checkpoint(run, tmp_path):
    folder, model, cfg = run
    data = torch.load(folder / "model_0000007.pth", weights_only=True)
    other = {k: v + 1 if v.is_floating_point() else v for k, v in data["model"].items()}
    torch.save({"model": other, "class_names": NAMES}, tmp_path / "bare.pth")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(data["config"])
    for source in (tmp_path / "run", folder / "model_final.pth"):
        predictor = detrex_ext.load(source, weights=tmp_path / "bare.pth", device="cpu")
        key = "decoder.class_embed.0.bias"
        assert torch.equal(predictor.model.state_dict()[key], other[key])
        assert predictor.source == str(tmp_path / "bare.pth")
    assert detrex_ext.load(cfg, weights=folder, device="cpu").source == str(folder / "model_final.pth")


@pytest.mark.parametrize("more", [{"threshold": 50}, {"batch_size": 0}])
def test_a_threshold_or_batch_that_makes_no_sense_is_refused(run, more):
    with pytest.raises(ValueError, match="threshold=50 must lie in|batch_size=0 must be 1 or more"):
        detrex_ext.load(run[0], device="cpu").predict([_image()], **more)


def test_a_full_disk_is_one_message(run, tmp_path, capsys, monkeypatch):
    import errno

    from detrex_ext.cli import dispatch

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    Image.fromarray(_image()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "save", full)
    command = ["predict", str(run[0]), str(tmp_path / "a.png"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert dispatch(command) == 2
    assert capsys.readouterr().err == "a file that was being written: No space left on device\n"
