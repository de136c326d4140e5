"""Videos, cameras and folders of frames: what is found in each frame, and what a broken one says."""

from __future__ import annotations

import json
import re
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from bright import bright
from bright import run as run  # the fixture
from PIL import Image

from detrex_ext.cli import dispatch
from detrex_ext.data.image_like import Frame
from detrex_ext.errors import UserError
from detrex_ext.predicting import sources, video
from detrex_ext.predicting.drawn import DrawnVideo
from detrex_ext.predicting.sources import Camera, images_of
from detrex_ext.predicting.video import UnreadableVideo, Video

SIZE = (120, 160)


def picture(number):
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    image[40:80, 4 * number : 4 * number + 40] = 255
    return image


@pytest.fixture(scope="module")
def av():
    return pytest.importorskip("av")


@pytest.fixture(scope="module")
def film(av, tmp_path_factory):
    """Twelve frames, four a second: a patch that goes right."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    drawn = DrawnVideo(path, 4)
    for number in range(12):
        drawn.add(Image.fromarray(picture(number)), number / 4)
    drawn.close()
    return path


def test_a_stream_finds_each_frame_at_its_time(film):
    for batch in (1, 5):
        found = list(bright().stream(film, 0, batch))
        assert [one.frame for one in found] == list(range(12))
        assert np.allclose([one.time for one in found], [number / 4 for number in range(12)], atol=1e-3)
        for number, one in enumerate(found):
            assert np.allclose(one.pred_boxes.tensor, [[4 * number, 40, 4 * number + 40, 80]], atol=2)
    first = next(seen for seen in bright().examine(str(film), 0))
    assert first.rgb.shape == (*SIZE, 3) and first.frame.number == 0
    assert bright().predict(picture(0)).frame is None


def test_frames_are_read_when_they_are_asked_for(film):
    read = []
    predictor = bright([lambda sample, rng: read.append(1) or sample])
    found = predictor.stream(film, 0)
    next(found)
    assert len(read) <= 4
    found.close()


def test_each_third_frame_and_so_many(film):
    frames = list(Video(film, every=3, most=3))
    assert [frame.number for frame in frames] == [0, 3, 6]
    assert [len(list(Video(film, most=most))) for most in (1, 99)] == [1, 12]
    assert np.allclose([frame.time for frame in frames], [0, 0.75, 1.5], atol=1e-3)


def test_a_film_that_is_to_be_shown_turned_is_upright(film, tmp_path):
    data = bytearray(film.read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    upright = next(iter(Video(tmp_path / "turned.mp4"))).image
    assert upright.shape == (160, 120, 3)
    assert np.allclose(np.rot90(upright), next(iter(Video(film))).image, atol=2)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "film.mp4\n  the file is empty"),
        (b"\0" * 500, "cannot be opened as a video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "cannot be opened"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "cannot be opened"),
        (None, "there is no such file"),
    ],
)
def test_what_is_no_video_is_named(av, tmp_path, content, message):
    path = tmp_path / "film.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableVideo, match=message):
        list(bright().stream(path))


def record(av, path, codec, frames, rate=25):
    with av.open(str(path), "w", format={".ogv": "ogg", ".m2ts": "mpegts"}.get(path.suffix)) as write:
        stream = write.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        arrays = (np.frombuffer(x, np.uint8).reshape(*SIZE, 3) for x in frames)
        made = (av.VideoFrame.from_ndarray(x, format="rgb24") for x in arrays)
        for frame in [*made, None]:
            for packet in stream.encode(frame):
                write.mux(packet)


def test_a_truncated_film_gives_its_frames_and_then_says_so(av, film, tmp_path):
    record(av, tmp_path / "a.mkv", "mpeg4", [np.random.default_rng(n).bytes(120 * 160 * 3) for n in range(12)], rate=4)
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 6 // 10])
    assert len(list(Video(tmp_path / "a.mkv"))) == 12
    for batch in (1, 8):
        found, numbers = bright().stream(tmp_path / "cut.mkv", 0, batch), []
        with pytest.raises(UnreadableVideo, match=r"cut.mkv\n  it ends after .* of 3.0 seconds, so it is truncated"):
            for one in found:
                numbers.append(one.frame)
        assert numbers == list(range(len(numbers))) and 0 < len(numbers) < 12
    (tmp_path / "half.mp4").write_bytes(film.read_bytes()[:600])
    with pytest.raises(UnreadableVideo, match="cannot be opened"):
        list(Video(tmp_path / "half.mp4"))


def test_sound_alone_has_no_pictures(av, tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as write:
        stream = write.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            write.mux(packet)
    with pytest.raises(UnreadableVideo, match="it has no pictures"):
        list(Video(tmp_path / "sound.mp4"))


def test_a_film_of_more_pixels_than_allowed_is_refused(film, monkeypatch):
    monkeypatch.setenv("DETREX_EXT_MAX_MEGAPIXELS", "0.01")
    with pytest.raises(UnreadableVideo, match="160 x 120 pixels, more than 0.01 millions"):
        list(Video(film))


def test_frames_of_odd_and_other_sizes_are_fitted(av, tmp_path):
    drawn = DrawnVideo(tmp_path / "a.mp4", 10)
    for number, size in enumerate(((61, 33), (40, 80), (61, 33))):
        drawn.add(Image.new("RGB", size, "white"), number / 10 if number < 2 else 0.1)  # a time that stands still
    drawn.close()
    frames = list(Video(tmp_path / "a.mp4"))
    assert [frame.image.shape for frame in frames] == [(34, 62, 3)] * 3
    assert frames[1].image[:, 0].max() < 60 < 200 < frames[1].image[17, 31].min()
    DrawnVideo(tmp_path / "none.mp4", 10).close()
    assert not (tmp_path / "none.mp4").exists()
    with pytest.raises(UserError, match="cannot be written"):
        DrawnVideo(tmp_path / "absent" / "a.mp4", 10).add(Image.new("RGB", (32, 32)), 0)


def predict(run, *more):
    return dispatch(["predict", str(run), *map(str, more), "--device", "cpu", "--threshold", "0"])


def test_the_command_draws_a_film_and_tells_each_frame(run, film, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"none")
    out = tmp_path / "out"
    assert predict(run, film, tmp_path / "bad.mp4", run / "0.png", "--output", out, "--every", "2", "--crops") == 2
    said = capsys.readouterr()
    assert "on 1 image and 6 frames, drawn in" in said.out
    assert "1 of 3 inputs cannot be used; the others are done\n  video cannot be used: " in said.err
    lines = [json.loads(line) for line in (out / "film.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["file"]) for line in lines] == [(n, str(film)) for n in range(0, 12, 2)]
    times = [frame.time for frame in Video(out / "film.mp4")]
    assert times == pytest.approx([line["time"] for line in lines], abs=1e-3)
    assert len(json.loads((out / "predictions.json").read_text())) == 1
    assert [line["classes"] for line in lines] == [["white"]] * 6
    assert len(list((out / "crops" / "white").glob("film_000004_*.png"))) == 1
    assert predict(run, film, "--output", film.parent) == 2 and film.stat().st_size > 1000
    assert "film.mp4 is an input and would be overwritten" in capsys.readouterr().err


def test_a_folder_of_frames_is_a_film(run, av, tmp_path, capsys):
    folder = tmp_path / "shots"
    folder.mkdir()
    for number in (2, 10, 1):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    (folder / "9.png").write_bytes(b"broken")
    assert predict(run, folder, "--fps", "5", "--format", "json,coco", "--output", tmp_path / "out") == 2
    assert "1 of 1 inputs cannot be used; the others are done\n  image cannot" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "out" / "shots.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["time"]) for line in lines] == [(0, 0.0), (1, 0.2), (3, 0.6)]
    images = json.loads((tmp_path / "out" / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [f"shots/{n:06d}.png" for n in (0, 1, 3)]
    assert len(list(Video(tmp_path / "out" / "shots.mp4"))) == 3


class Lost(Exception):
    strerror = "No such device"


class Capture:
    """A camera that is taken away, or never."""

    def __init__(self, count=None):
        self.count, self.closed = count, False

    def decode(self, video):
        number = 0
        while number != self.count:
            yield SimpleNamespace(to_ndarray=lambda format, number=number: picture(number % 20), rotation=0)
            number += 1
        raise Lost

    def close(self):
        self.closed = True


@pytest.fixture
def camera(monkeypatch):
    """A fake one, also where PyAV is absent."""
    capture = Capture()
    library = SimpleNamespace(error=SimpleNamespace(FFmpegError=Lost))
    monkeypatch.setattr(sources, "pyav", lambda: library)
    monkeypatch.setattr(sources, "open_camera", lambda index: capture)
    return capture


def test_a_camera_streams_until_nobody_asks(camera):
    found = bright().stream(0, 0)
    seen = [next(found) for _ in range(3)]
    assert [one.frame for one in seen] == [0, 1, 2] and seen[0].time == 0 < seen[2].time
    found.close()
    camera.count = 3
    found, numbers = bright().stream(0, 0, 8), []
    with pytest.raises(UnreadableVideo, match="camera0\n  the camera gives no frames: No such device"):
        for one in found:
            numbers.append(one.frame)
    assert numbers == [0, 1, 2] and camera.closed


def test_the_command_on_a_camera(run, camera, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert predict(run, "--webcam", "0", "--max-frames", "4", "--every", "2", "--no-draw", "--output", out) == 0
    assert "on 4 frames; all in" in capsys.readouterr().out and camera.closed
    lines = [json.loads(line) for line in (out / "camera0.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 2, 4, 6]
    assert [list(Camera(0, most=most)) for most in (0,)] == [[]]

    def stopped(self, video):
        for number, frame in enumerate(Capture.decode(self, video)):
            if number == 3:
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(camera, "decode", lambda video: stopped(camera, video))
    assert predict(run, "--webcam", "0", "--no-draw", "--output", tmp_path / "stopped") == 0
    assert re.search("on [1-3] frames?; all in", capsys.readouterr().out)


def test_a_camera_that_is_not_there(av, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(UnreadableVideo, match="camera99\n  /dev/video99 cannot be opened: "):
        next(bright().stream(99))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(av, "enumerate_input_devices", lambda name: [], raising=False)
    with pytest.raises(UnreadableVideo, match="camera0\n"):
        next(bright().stream(0))


def test_without_pyav_the_line_to_install_it_is_told(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "film.mp4").write_bytes(b"x")
    for more in ([tmp_path / "film.mp4"], ["--webcam", "0"], [run, "--fps", "5"]):
        assert predict(run, *more, "--output", tmp_path / "out") == 2
        assert capsys.readouterr().err == (
            "video needs PyAV, which is not installed\n  pip install 'detrex_ext[video]'\n"
        )
    with pytest.raises(UserError, match="video needs PyAV"):
        next(bright().stream(tmp_path / "film.mp4"))
    assert not (tmp_path / "out").exists()


def test_what_stands_for_many_images(tmp_path):
    for name in ("2.png", "10.png"):
        Image.fromarray(picture(0)).save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert images_of(tmp_path) == [tmp_path / "2.png", tmp_path / "10.png"]
    with pytest.raises(UserError, match="no images in .*empty"):
        images_of(tmp_path / "empty")
    for one in (tmp_path / "2.png", picture(0), Image.fromarray(picture(0)), Frame(picture(0), 3, 1.5)):
        found = list(bright().stream(one, 0))
        assert len(found) == 1 and found[0].frame == (3 if isinstance(one, Frame) else None)
    assert len(list(bright().stream(np.stack([picture(0)] * 3), 0))) == 3
    assert video.RATE == 25


def test_supervision_gets_what_was_found(monkeypatch):
    found = bright().predict(picture(2), 0)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="\n  pip install supervision$"):
        found.to_supervision()
    monkeypatch.undo()
    supervision = pytest.importorskip("supervision")
    for one in (found, found[found.scores > 0.5], found.to("cpu"), bright().predict(picture(2) // 3, 0)):
        given = one.to_supervision()
        assert isinstance(given, supervision.Detections) and len(given) == len(one)
        assert np.allclose(given.xyxy, one.pred_boxes.tensor) and np.allclose(given.confidence, one.scores)
        assert given.class_id.tolist() == one.pred_classes.tolist() and list(given["class_name"]) == one.names
    assert found.names == ["white"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, codec",
    [("a.mkv", "mpeg4"), ("a.webm", "libvpx"), ("a.avi", "mpeg4"), ("a.mpg", "mpeg2video"), ("a.m2ts", "mpeg2video"),
     ("a.mov", "libx264"), ("a.wmv", "wmv2"), ("a.flv", "flv"), ("a.ogv", "libvpx"), ("猫 a.mp4", "libx264")],
)  # fmt: skip
def test_containers(av, tmp_path, name, codec):
    path = tmp_path / name
    record(av, path, codec, [picture(number).tobytes() for number in range(20)])
    frames = list(Video(path))
    assert [frame.number for frame in frames] == list(range(20))
    assert np.allclose([frame.time for frame in frames], np.arange(20) / 25, atol=2e-3)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(10):  # damage ends in frames, or in a message
        damaged = bytearray(data[: rng.integers(1, len(data) + 1)])
        for place in rng.integers(0, len(damaged), 20):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert all(frame.image.ndim == 3 for frame in Video(path))
        except UnreadableVideo as error:
            assert name in str(error)
