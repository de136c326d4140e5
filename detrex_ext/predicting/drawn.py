"""A video that is written frame by frame, by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ..errors import UserError
from .video import pyav

_CLOCK = 90_000  # units of a second
_LONGEST = 1e9  # seconds; a damaged file may tell any time
_CODECS = {"libx264": {"crf": "23", "preset": "veryfast"}, "mpeg4": {"qscale": "4"}}


class DrawnVideo:
    """An .mp4 file that browsers play, where PyAV has the encoder (H.264), else MPEG-4.

    Args:
        path: to write to.
        rate: frames a second, on average; each is shown from its own time on.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self._container: Any = None
        self._stream: Any = None
        self._size, self._last = (0, 0), -1

    def add(self, image: Image.Image, time: float) -> None:
        """A frame; one of another size than the first is fitted into that.

        Args:
            image: RGB.
            time: of the frame, in seconds from the first.

        Raises:
            UserError: it cannot be written.
        """
        av = pyav()
        if self._container is None:
            self._open(av, image.size)
        fitted = image if image.size == self._size else ImageOps.pad(image, self._size)
        frame = av.VideoFrame.from_image(fitted)
        self._last = max(self._last + 1, round(min(time, _LONGEST) * _CLOCK))
        frame.pts, frame.time_base = self._last, Fraction(1, _CLOCK)
        self._encode(av, frame)

    def close(self) -> None:
        """Writes what is left; a video without a frame is no file."""
        if self._container is None:
            return
        av, container = pyav(), self._container
        try:
            self._encode(av, None)
        finally:
            self._container = None
            container.close()

    def _open(self, av: Any, size: tuple[int, int]) -> None:
        self._size = tuple(side + side % 2 for side in size)  # H.264 stores color for two by two pixels
        name = next(name for name in _CODECS if name in av.codecs_available)
        container = av.open(f"file:{self.path.resolve()}", "w", format="mp4")
        rate = Fraction(min(max(self.rate, 0.1), 1000)).limit_denominator(1001)
        self._stream = stream = container.add_stream(name, rate=rate, options=_CODECS[name])
        stream.width, stream.height, stream.pix_fmt = *self._size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _CLOCK)
        try:
            container.start_encoding()
        except (av.error.FFmpegError, OSError) as error:
            raise self._failed(error) from None
        self._container = container

    def _encode(self, av: Any, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (av.error.FFmpegError, OSError) as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> UserError:
        return UserError(f"{self.path}: the video cannot be written: {getattr(error, 'strerror', None) or error}")
