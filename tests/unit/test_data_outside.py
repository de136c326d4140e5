"""Files that an annotation file must not lead to, and images that memory must not be filled with."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from detrex_ext.cli import dispatch
from detrex_ext.config import load_config
from detrex_ext.data import CocoDataset, check_before_training, check_dataset
from detrex_ext.data.file_names import leads_out
from detrex_ext.data.read import MOST_PIXELS, UnreadableImage, image_size, read_image
from detrex_ext.errors import UserError


def write(folder, name):
    """An annotation file that names one image; sound images lie in its folder and beside it."""
    images = folder / "images"
    (images / "x").mkdir(parents=True, exist_ok=True)
    for path in (images / "a.png", folder / "secret.png"):
        Image.new("RGB", (20, 20)).save(path)
    if not (images / "pipe.png").exists():
        os.mkfifo(images / "pipe.png")
    data = {"images": [{"id": 1, "file_name": name, "width": 20, "height": 20}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 9, 9]}],
            "categories": [{"id": 1, "name": "a"}]}  # fmt: skip
    (folder / "a.json").write_text(json.dumps(data))
    return folder / "a.json", images


NAMES = ["ABSOLUTE", "../secret.png", "x/../../secret.png", "./../secret.png", "/dev/zero", "/dev/stdin", "/etc", ".."]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_out_is_refused_by_all_and_not_opened(name, tmp_path, capsys, monkeypatch):
    path, images = write(tmp_path, name.replace("ABSOLUTE", str(tmp_path / "secret.png")))
    opened = []
    monkeypatch.setattr(Image, "open", lambda file, *rest: opened.append(file))
    with pytest.raises(UserError, match=r"outside file\n  outside of the folder; allowed by dataset.outside_images"):
        CocoDataset(path, images)
    report = check_dataset(path, images)
    assert [finding.kind for finding in report.errors] == ["outside_file"] and not opened
    assert dispatch(["check", str(path), "--images", str(images)]) == 1
    assert "1 x outside_file" in capsys.readouterr().out
    assert dispatch(["check", str(path), "--images", str(images), "--fix", str(tmp_path / "b.json")]) == 1
    assert not opened


def test_where_the_files_are_known_they_are_read(tmp_path, capsys):
    path, images = write(tmp_path, "../secret.png")
    dataset = CocoDataset(path, images, outside_images=True)
    check_before_training(dataset)
    assert read_image(dataset[0]["file_name"]).shape == (20, 20, 3)
    assert dispatch(["check", str(path), "--images", str(images), "--outside-images"]) == 0
    cfg = load_config("small", (), ["dataset.outside_images=true"])
    assert cfg.dataloader.train.dataset.outside_images and cfg.dataloader.test.dataset.outside_images
    path, images = write(tmp_path, "/dev/zero")
    with pytest.raises(UserError, match="missing file"):
        check_before_training(CocoDataset(path, images, outside_images=True))


@pytest.mark.parametrize("name", ["a.png", "./a.png", "x/../a.png", "ABSOLUTE"])
def test_names_inside_of_the_folder_are_taken_however_they_are_written(name, tmp_path):
    path, images = write(tmp_path, name.replace("ABSOLUTE", str(tmp_path / "images" / "a.png")))
    check_before_training(CocoDataset(path, images))
    assert not check_dataset(path, images).errors


def test_what_is_elsewhere_on_another_machine_is_a_wrong_name_as_before(tmp_path):
    path, images = write(tmp_path, "/home/nobody/a.png")
    report = check_dataset(path, images)
    assert [finding.kind for finding in report.errors] == ["misnamed_file"]
    assert leads_out(images, "/home/nobody/a.png") and not leads_out(images, "..a.png") and leads_out("", "../a")


@pytest.mark.parametrize("name", ["pipe.png", ".", "\0"])
def test_what_is_no_file_is_named_and_not_waited_for(name, tmp_path):
    path, images = write(tmp_path, name)
    assert check_dataset(path, images).errors
    with pytest.raises(UserError, match="missing file|malformed image|outside file"):
        check_before_training(CocoDataset(path, images))


def test_a_small_file_of_many_pixels(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("1", (12_000, 12_000)).save(path)
    assert path.stat().st_size < 30_000
    expected = f"12000 x 12000 pixels, more than 100 millions; {MOST_PIXELS}=N allows"
    for read in (read_image, image_size):
        with pytest.raises(UnreadableImage, match=expected):
            read(path)
    monkeypatch.setenv(MOST_PIXELS, "144")
    assert image_size(path) == (12_000, 12_000)
    for odd in ("x", "1e3x"):
        monkeypatch.setenv(MOST_PIXELS, odd)
        with pytest.raises(UserError, match=f"{MOST_PIXELS}={odd}: expected a number of millions"):
            image_size(path)
    monkeypatch.setenv(MOST_PIXELS, "nan")
    with pytest.raises(UnreadableImage, match="pixels"):
        image_size(path)


def test_more_than_pillow_allows_by_itself(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 10_000)).save(path)
    with pytest.raises(UnreadableImage, match=MOST_PIXELS):
        image_size(path)
    monkeypatch.setenv(MOST_PIXELS, "300")
    assert image_size(path) == (10_000, 20_000)
