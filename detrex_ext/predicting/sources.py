"""What a predictor may be given to look at: images, folders, videos, cameras."""

from __future__ import annotations

import glob
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.image_like import Frame, ImageLike
from ..errors import UserError
from .files import SUFFIXES, is_video, media
from .video import RATE, UnreadableVideo, Video, pyav, reason_of, upright

_CAMERAS = {"darwin": "avfoundation", "win32": "dshow"}  # elsewhere Video4Linux

Source = Iterable[ImageLike] | ImageLike | int


class Camera:
    """The frames of a camera from now on, until somebody stops; times are those at which they came.

    Args:
        index: its number, from 0.
        every, most: as of ``Video``.

    Raises:
        UnreadableVideo: there is none, or it was taken away.
        UserError: PyAV is not installed.
    """

    rate = RATE

    def __init__(self, index: int, every: int = 1, most: int | None = None) -> None:
        self.index, self.every, self.most = index, every, most
        self.path = Path(f"camera{index}")
        pyav()

    def __iter__(self) -> Iterator[Frame]:
        try:
            with closing(open_camera(self.index)) as capture:
                began = None
                for number, frame in enumerate(capture.decode(video=0)):
                    now = time.monotonic()
                    began = now if began is None else began
                    if self.most is not None and number // self.every >= self.most:
                        return
                    if number % self.every == 0:
                        yield Frame(upright(frame), number, now - began)
        except pyav().error.FFmpegError as error:
            raise UnreadableVideo(self.path, f"the camera gives no frames: {reason_of(error)}") from None


def open_camera(index: int) -> Any:
    """An open container of a camera's frames, in the way of the operating system.

    Raises:
        UnreadableVideo: there is no camera of this number.
    """
    av, system = pyav(), sys.platform
    name = f"/dev/video{index}" if system not in _CAMERAS else str(index)
    try:
        if system == "win32":  # knows cameras by their names
            found = [d.description for d in av.enumerate_input_devices("dshow") if "video" in d.media_types]
            name = f"video={found[index]}"
        options = {"framerate": "30"} if system == "darwin" else {}
        return av.open(name, format=_CAMERAS.get(system, "v4l2"), options=options)
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
        there = ", ".join(sorted(glob.glob("/dev/video*"))) if system not in _CAMERAS else ""
        more = f"; there are {there}" if there else ""
        raise UnreadableVideo(f"camera{index}", f"{name} cannot be opened: {reason_of(error)}{more}") from None


class Frames:
    """Images that are the frames of a video, in their order; each is read when it is needed.

    Args:
        files: the images.
        rate: of them a second.
        every, most: as of ``Video``.
    """

    def __init__(self, files: Sequence[Path], rate: float, every: int = 1, most: int | None = None) -> None:
        self._frames = [Frame(file, i, i / rate) for i, file in enumerate(files)][::every][:most]
        self.rate = rate / every

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)


def images_of(source: Source) -> Iterable[ImageLike]:
    """The images that ``Predictor.stream`` is given: of a video, a folder or a camera, of one image or of many.

    Raises:
        UserError: a folder without any.
    """
    if isinstance(source, int) and not isinstance(source, bool):
        return Camera(source)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            files = [file for file in media(path.iterdir()) if not is_video(file)]
            if not files:
                raise UserError(f"no images in {path}: expected files ending with {' '.join(SUFFIXES)}")
            return files
        return Video(path) if is_video(path) else [path]
    one = isinstance(source, Image.Image | Frame) or (isinstance(source, np.ndarray) and source.ndim < 4)
    return [source] if one else source
