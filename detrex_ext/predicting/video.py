"""Frames of video files, one at a time, by PyAV."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..data.image_like import Frame
from ..data.read import MOST_PIXELS, most_pixels
from ..errors import UserError

# What a file may be by its content: no playlists, which name further files and addresses.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,m4v,h264,hevc,av1,ivf"
RATE = 25.0
"""Frames a second, where a file does not tell."""
_WHOLE = 0.95  # of what a file announces, and two frames: sound may be longer


class UnreadableVideo(UserError):
    """A video that cannot be read, or not to its end."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"video cannot be used: {path}\n  {reason}")

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason)


class Video:
    """The frames of a file, upright, decoded as they are asked for.

    Args:
        path: of the file.
        every: only each so many-th frame; frames keep their numbers.
        most: so many frames at most; None = all.

    Attributes:
        rate: frames given for a second of the film, on average; known when the first was given.

    Raises:
        UnreadableVideo: while it is read; a file that is damaged or ends early gives the frames that it has first.
        UserError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike, every: int = 1, most: int | None = None) -> None:
        self.path, self.every, self.most = Path(path), every, most
        self.rate = RATE / every
        pyav()

    def __iter__(self) -> Iterator[Frame]:
        av = pyav()
        begun, last, number = None, 0.0, -1
        with self._opened(av) as container:
            stream = self._stream(container)
            full_rate = float(stream.average_rate or stream.guessed_rate or RATE)
            self.rate = full_rate / self.every
            decoded = _Decoded(av, container, stream)
            for number, frame in enumerate(decoded):
                at = number / full_rate if frame.time is None else frame.time
                begun = at if begun is None else begun
                last = at - begun
                if number % self.every == 0:
                    if self.most is not None and number // self.every >= self.most:
                        return
                    yield Frame(self._rgb(frame), number, last)
            end, length = last + max(1 / full_rate, last / max(number, 1)), (container.duration or 0) / av.time_base
            lost = length - end > max((1 - _WHOLE) * length, 2 * (end - last))
            short = lost and number + 1 < _WHOLE * (stream.frames or sys.maxsize)
        if number < 0:
            raise UnreadableVideo(self.path, f"no frame of it can be decoded{decoded.told()}")
        if short:
            shown = f"it ends after {end:.1f} of {length:.1f} seconds, so it is truncated"
            raise UnreadableVideo(self.path, f"{shown}; {number + 1} frames are used")
        if decoded.errors:
            raise UnreadableVideo(self.path, f"it is damaged{decoded.told()}; {number + 1} frames are used")

    def _opened(self, av: Any) -> Any:
        if not self.path.is_file():  # a device or a pipe may never end
            there = "expected a file, found a folder, device or pipe" if self.path.exists() else "there is no such file"
            raise UnreadableVideo(self.path, there)
        if not self.path.stat().st_size:
            raise UnreadableVideo(self.path, "the file is empty")
        try:
            # a name such as "concat:a|b" is one of a file
            return av.open(f"file:{self.path.resolve()}", options={"format_whitelist": _FORMATS})
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise UnreadableVideo(self.path, f"it cannot be opened as a video: {reason_of(error)}") from None

    def _stream(self, container: Any) -> Any:
        cover = 1 << 10  # AV_DISPOSITION_ATTACHED_PIC, a picture of a piece of music
        streams = [stream for stream in container.streams.video if not int(getattr(stream, "disposition", 0)) & cover]
        if not streams:
            raise UnreadableVideo(self.path, "it has no pictures, as a file of sound has none")
        if getattr(streams[0], "codec_context", None) is None:
            raise UnreadableVideo(self.path, "its pictures are coded in a way that PyAV does not know")
        self._check(streams[0].width, streams[0].height)
        streams[0].thread_type = "AUTO"
        return streams[0]

    def _check(self, width: int, height: int) -> None:
        most = most_pixels()
        if width * height > most:
            found = f"{width} x {height} pixels, more than {most / 1e6:g} millions"
            raise UnreadableVideo(self.path, f"{found}; {MOST_PIXELS}=N allows N millions")

    def _rgb(self, frame: Any) -> np.ndarray:
        self._check(frame.width, frame.height)
        return upright(frame)


class _Decoded:
    """Frames of a stream; what cannot be decoded is counted and left out."""

    def __init__(self, av: Any, container: Any, stream: Any) -> None:
        self.av, self.container, self.stream = av, container, stream
        self.errors: list[str] = []

    def __iter__(self) -> Iterator[Any]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
                frames = () if packet is None else packet.decode()
            except (self.av.error.FFmpegError, ValueError, OSError, RuntimeError) as error:
                self.errors.append(reason_of(error))
                continue  # with the next packet, if the container has one
            if packet is None:
                return
            yield from frames

    def told(self) -> str:
        """The first error, and how many more."""
        if not self.errors:
            return ""
        more = f", and {len(self.errors) - 1} more" if len(self.errors) > 1 else ""
        return f": {self.errors[0]}{more}"


def pyav() -> Any:
    """The library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
        import av.error
    except ImportError:
        raise UserError("video needs PyAV, which is not installed\n  pip install 'detrex_ext[video]'") from None
    return av


def upright(frame: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as the file says that it is to be shown."""
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def reason_of(error: Exception) -> str:
    """Of FFmpeg, in words."""
    return str(getattr(error, "strerror", None) or error)
