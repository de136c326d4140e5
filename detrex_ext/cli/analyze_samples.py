"""`python -m detrex_ext analyze samples`: what a training sees, with its boxes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from detrex_ext.errors import UserError

from . import data_folder
from .analyze_inputs import add_config, config_of, take_data
from .outputs import check_file, show

_TEXT = """\
Draws training samples with their boxes as one image: the first of the data set, with the augmentation of an epoch and
of a place in the training (mosaic and mixup are on in a part of it). They are to the pixel what the training sees.
"""
_COLUMNS, _MOST = 5, 200


def add_parser(verbs: Any) -> None:
    """Adds the verb to the subparsers of ``analyze``."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser("samples", help="training samples with boxes, as one image", description=_TEXT,
                              formatter_class=raw)  # fmt: skip
    add_config(parser, "CONFIG")
    add = parser.add_argument
    add("--number", type=int, default=20, metavar="N", help="of samples (default 20)")
    add("--progress", type=float, default=0.3, metavar="P", help="of the training, 0 to 1 (default 0.3)")
    add("--epoch", type=int, default=0, metavar="N", help="another one, other random numbers (default 0)")
    add("--output", default="samples.png", metavar="FILE", help="the image (default samples.png)")
    data_folder.add_data(parser, "draw the training images of")
    parser.set_defaults(main=_samples)


def _samples(args: argparse.Namespace) -> dict[str, Any]:
    if not (1 <= args.number <= _MOST and 0 <= args.progress <= 1 and 0 <= args.epoch < 2**31):
        found = f"--number {args.number} --progress {args.progress} --epoch {args.epoch}"
        raise UserError(f"{found}: expected 1 to {_MOST} samples, a progress from 0 to 1, and an epoch from 0")
    if Path(args.output).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--output {args.output}: expected a name that ends with .png or .jpg")
    check_file(args.output, "--output")
    from detrex_ext.engine.setup import build_train_loader
    from detrex_ext.visualization import below, beside, draw_boxes

    cfg = config_of(args)
    take_data(cfg, args, train=True)
    loader = build_train_loader(cfg)
    samples, names = getattr(loader, "samples", None), getattr(getattr(loader, "dataset", None), "class_names", None)
    if samples is None or names is None:
        raise UserError(f"dataloader.train gives {type(loader).__name__}: samples are drawn of build_train_loader's")
    images, titles, objects = [], [], []
    for index in range(min(args.number, len(samples))):
        fetched = samples[args.epoch, index, args.progress]
        if fetched.sample is None:
            raise UserError(": ".join(fetched.unreadable[-1]))
        there = fetched.sample["instances"]
        pixels = fetched.sample["image"].permute(1, 2, 0).numpy()
        images.append(draw_boxes(pixels, there.gt_boxes.tensor.tolist(), there.gt_classes.tolist(), names))
        titles.append(f"{Path(fetched.sample['file_name']).name}: {len(there)} objects")
        objects.append(len(there))
    rows = range(0, len(images), _COLUMNS)
    sheet = below([beside(images[i : i + _COLUMNS], titles[i : i + _COLUMNS]) for i in rows])
    try:
        sheet.save(args.output)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written: {error.strerror}") from error
    counts = f"{min(objects)} to {max(objects)} objects"
    show(f"{args.output}: {len(images)} samples at progress {args.progress:g}, {counts}")
    return {"progress": args.progress, "epoch": args.epoch, "objects": objects}
