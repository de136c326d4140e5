"""What `predict` does with each image and each frame: found, drawn, cut out, written."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from detrex_ext.data.ahead import ahead
from detrex_ext.data.read import UnreadableImage
from detrex_ext.errors import UserError
from detrex_ext.predicting.drawn import DrawnVideo
from detrex_ext.predicting.sources import Camera, Frames
from detrex_ext.predicting.tiles import AUTO, Tiling
from detrex_ext.predicting.video import UnreadableVideo, Video, pyav

from .predict_crops import Crops
from .predict_formats import BY_NAME, CocoFormat, Row, frame_name, row_of
from .predict_options import FORMATS
from .predict_truth import Truth, draw

if TYPE_CHECKING:
    from PIL import Image

    from detrex_ext.data.image_like import Examined
    from detrex_ext.predictor import Predictor

_Item = tuple[Path, str, "Examined"]


class Work:
    """One run of the command.

    Attributes:
        images, frames, objects: how many were found on, and how many objects.
        failed: what could not be used, or not to its end, a line each.
        written: files and folders of the formats, known at the end.

    Args:
        predictor: the model.
        args: of the verb.
        output: folder, which is there.
        truth: boxes to draw beside.
    """

    def __init__(self, predictor: Predictor, args: argparse.Namespace, output: Path, truth: Truth | None) -> None:
        self.predictor, self.args, self.output, self.truth = predictor, args, output, truth
        self.tiling = tiling_of(args, predictor)
        self.images = self.frames = self.objects = 0
        self.failed: list[str] = []
        self.written: list[Path] = []
        self._crops = Crops(output, predictor.class_names) if args.crops else None
        self._formats: list[Any] = []

    def on_images(self, files: list[Path], names: list[str]) -> None:
        """Each image by itself; what cannot be read is noted."""
        items = zip(files, names, self._examine(files), strict=True)
        for row, _ in self._told(items, len(files), "image", self._save_image):
            self._write(row)
            self.images += 1

    def on_video(self, source: Any, file: Path, name: str, count: int | None = None) -> None:
        """The frames of a video, a folder or a camera; Ctrl-C ends a camera, and closes the files of a video.

        Args:
            source: gives frames, and has a ``rate`` a second.
            file: what they are of.
            name: what is written is called.
            count: of the frames, where it is known.
        """
        drawn = None
        items = ((file, name, seen) for seen in self._examine(source))
        try:
            for row, image in self._told(items, count, "frame", self._draw_frame):
                self._write(row)
                self.frames += 1
                if image is not None:
                    drawn = drawn or DrawnVideo(self.output / f"{name}.mp4", source.rate)
                    drawn.add(image, row.about["time"])
        except KeyboardInterrupt:
            if not isinstance(source, Camera):
                self.close()
                raise
        finally:
            if drawn is not None:
                drawn.close()

    def close(self) -> None:
        """Writes what the formats hold."""
        for one in self._formats:
            self.written += one.close()
        self._formats = []

    def _examine(self, source: Iterable) -> Iterator[Examined]:
        args = self.args
        return self.predictor.examine(source, args.threshold, args.batch_size, True, self.tiling)

    def _told(self, items: Iterable[_Item], count: int | None, unit: str, finish: Any) -> Iterator[Any]:
        """What ``finish`` makes of each that could be read, while the model is busy with the next ones."""
        threads = self.predictor.threads
        bar = tqdm(ahead(items, finish, threads, threads), total=count, unit=unit, disable=None, leave=False)
        with contextlib.closing(bar):
            for one in bar:
                if isinstance(one, Exception):
                    lines = [line.strip(" ;") for line in str(one).splitlines()]
                    self.failed.append("; ".join(line for line in lines if line))
                else:
                    yield one

    def _save_image(self, item: _Item) -> tuple[Row, None] | Exception:
        file, name, seen = item
        if seen.error is not None:
            return _forgiven(seen.error)
        if not self.args.no_draw:
            self._drawn(seen, file).save(self.output / f"{name}.png")
        if self._crops:
            self._crops.save(seen.rgb, seen.instances, name)
        return row_of(file, name, seen.instances), None

    def _draw_frame(self, item: _Item) -> tuple[Row, Image.Image | None] | Exception:
        file, name, seen = item
        if seen.error is not None:
            return _forgiven(seen.error)
        if self._crops:
            self._crops.save(seen.rgb, seen.instances, f"{name}_{frame_name(seen.instances.frame)}")
        image = None if self.args.no_draw else self._drawn(seen, None)
        return row_of(file, name, seen.instances), image

    def _drawn(self, seen: Examined, file: Path | None) -> Image.Image:
        return draw(seen.rgb, seen.instances, self.predictor.class_names, self.truth if file else None, file)

    def _write(self, row: Row) -> None:
        if not self._formats:
            about = self.output, self.predictor.class_names, self.predictor.category_ids
            known = {} if self.truth is None else {"id_of": self.truth.id_of, "next_id": self.truth.next_id}
            made = [BY_NAME[name] for name in dict.fromkeys(self.args.format or ["json"])]
            self._formats = [one(*about, **(known if one is CocoFormat else {})) for one in made]
        for one in self._formats:
            one.add(row)
        self.objects += len(row.classes)


def _forgiven(error: Exception) -> Exception:
    """An error of an image or a video; any other one is raised."""
    if isinstance(error, UnreadableImage | UnreadableVideo):
        return error
    raise error


def tiling_of(args: argparse.Namespace, predictor: Predictor) -> Tiling | None:
    """The slices that are asked for.

    Raises:
        UserError: there can be none of this size.
    """
    if args.tile is None:
        return None
    try:
        size = Tiling.of(AUTO if args.tile == AUTO else int(args.tile), predictor.transforms)
        return Tiling(size.height, size.width, args.tile_overlap)
    except ValueError as error:
        raise UserError(f"--tile {args.tile} --tile-overlap {args.tile_overlap}: {error}") from None


def targets(args: argparse.Namespace, images: list[str], moving: list[str]) -> Iterator[str]:
    """The files that will be written in the output folder, but for labels and crops.

    Args:
        args: of the verb.
        images: what is written of each image is called.
        moving: of each video.
    """
    formats = args.format or ["json"]
    if not args.no_draw:
        yield from (f"{name}.png" for name in images)
        yield from (f"{name}.mp4" for name in moving)
    if "json" in formats:
        yield from (f"{name}.jsonl" for name in moving)
    yield from (FORMATS[name] for name in formats)


def videos(args: argparse.Namespace, files: list[Path]) -> list[tuple[Any, Path, int | None]]:
    """(frames, what they are of, how many) of each video, of each folder of frames with ``--fps``, of the camera."""
    every, most = args.every or 1, args.max_frames
    if args.webcam is not None:
        camera = Camera(args.webcam, every, most)
        return [(camera, camera.path, most)]
    if args.fps is None:
        return [(Video(file, every, most), file, None) for file in files]
    if not args.no_draw:
        pyav()  # before anything is found
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    return [(source := Frames(of_it, args.fps, every, most), folder, len(source)) for folder, of_it in folders.items()]
