"""`python -m detrex_ext analyze attention`: gathering and dispersing of the queries of one object."""

from __future__ import annotations

import argparse
import os
from typing import Any

from detrex_ext.errors import UserError

from .analyze_inputs import add_run, config_of, output_of, weights_of

_DESCRIPTION = """\
Draws, stage by stage, the queries nearest to an object: before the stage, after its self-attention and after its
cross-attention. (DAC-DETR: the first disperses the queries around an object, the second gathers them.) Boxes and scores
are what the stage's heads make of the queries there; these heads are trained on what leaves the stage, so the first
two columns say no more than where queries tend.
  near        queries that overlap the object with IoU > 0.5
  iou, score  mean overlap, and mean score of the object's class, of the queries drawn
  similarity  mean cosine of their contents
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the subparsers of ``analyze``."""
    parser = verbs.add_parser(
        "attention",
        help="queries of one object before and after self- and cross-attention, drawn",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_run(parser, "attention", "IMAGE")
    add("--object", type=int, default=1, metavar="N", help="which of the model's detections, best first (default 1)")
    add("--queries", type=int, default=8, metavar="N", help="queries to draw at most (default 8)")
    add("--device", metavar="D", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    parser.set_defaults(main=_run)


def _run(args: argparse.Namespace) -> dict[str, Any]:
    if args.object < 1 or args.queries < 2:
        raise UserError(f"--object {args.object} --queries {args.queries}: expected 1 or more, and 2 or more")
    if os.path.isdir(args.about[0]):
        raise UserError(f"{args.about[0]}: a folder; analyze attention looks at one image, so name a file")
    from detrex_ext.analysis.attention import draw_gathering, gather, watch_attention
    from detrex_ext.analysis.table import table
    from detrex_ext.api import load
    from detrex_ext.checkpoint.files import write_json
    from detrex_ext.predictor import as_rgb
    from detrex_ext.runtime.devices import usable_device

    if args.device:
        usable_device(args.device, "--device")
    (image,), cfg = args.about, config_of(args)
    weights = weights_of(cfg.train.init_checkpoint, args)
    average = False if args.no_average else None
    predictor, rgb = load(cfg, weights=weights, device=args.device, average=average), as_rgb(image)
    output = output_of(cfg, args, "attention")
    predictions, moments = watch_attention(predictor.model, [predictor.as_input(rgb)])
    detections = predictions[0]["instances"].to("cpu")
    if args.object > len(detections):
        raise UserError(f"--object {args.object}: the model has {len(detections)} detections on {image}")
    at, (height, width) = args.object - 1, rgb.shape[:2]
    box = detections.pred_boxes.tensor[at]
    label, score = int(detections.pred_classes[at]), float(detections.scores[at])
    found = gather(moments, box / box.new_tensor([width, height, width, height]), label, score, args.queries)
    draw_gathering(rgb, found).save(output / "attention.png")
    name = predictor.class_names[label]
    head = {"image": image, "class": name, "score": score, "box": box.tolist()}
    report = {**head, "queries": found.query_N.tolist(), "moments": found.rows()}
    write_json(report, output / "attention.json")
    shown = [["stage", "near", "iou", "score", "similarity"]]
    for row in report["moments"]:
        values = (f"{row[key]:.3f}" for key in ("iou", "score", "similarity"))
        shown.append([f"{row['stage']} {row['moment']}", str(row["near"]), *values])
    print(f"{name}, score {score:.2f}, in {image}", table(shown), sep="\n")
    print(f"drawn in {output / 'attention.png'}, metrics in {output / 'attention.json'}")
    return report
