"""`python -m detrex_ext analyze queries-per-object`: how many queries gather at an object, by checkpoint or stage."""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrex_ext.errors import UserError

from .analyze_inputs import add_run, checkpoints_of, config_of, label_of, output_of, take_data, truth_of
from .data_folder import add_data

if TYPE_CHECKING:
    from omegaconf import DictConfig

_DESCRIPTION = """\
Evaluates a checkpoint, or all those of a run folder, and counts for each object the queries whose affinity exceeds a
threshold, whatever their score; "best" is the mean affinity of an object's nearest query. Writes queries.json and
queries.png: curves over the checkpoints, or over the stages of one.

affinity  mix      0.7 IoU + 0.3 p of the object's class, what divide-and-conquer matches by
          iou      IoU alone
          aligned  p^0.25 IoU^0.75
streams   main     the queries as they are
          aux      without self-attention, as divide-and-conquer trains them; of a model trained without, the same as
                   a control
          no_sa    without self-attention in any stage
"""
_STREAMS, _AFFINITIES = ("main", "aux", "no_sa"), ("mix", "iou", "aligned")


def add_parser(verbs: Any) -> None:
    """Adds the verb to the subparsers of ``analyze``."""
    parser = verbs.add_parser(
        "queries-per-object",
        help="queries near each object, as curves over checkpoints or stages",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_run(parser, "queries")
    add_data(parser, "evaluate on the validation images of")
    add("--affinity", choices=_AFFINITIES, default="mix", help="of a query and an object (default mix)")
    add("--thresholds", default="0.6,0.7,0.8", metavar="T,T", help="of the affinity (default 0.6,0.7,0.8)")
    add("--streams", default=",".join(_STREAMS), metavar="S,S", help="which queries (default main,aux,no_sa)")
    add("--stage", type=int, metavar="N", help="decoder stage to show, from 1 (default: the last); the JSON has all")
    add("--beside", action="append", default=[], metavar="JSON", help="queries.json of another run, to draw beside")
    parser.set_defaults(main=_run)


def _run(args: argparse.Namespace) -> dict[str, Any]:
    thresholds, streams = _numbers(args.thresholds), args.streams.split(",")
    if not set(streams) <= set(_STREAMS) or len(set(streams)) < len(streams):
        raise UserError(f"--streams {args.streams}: expected some of {', '.join(_STREAMS)}, each once")
    others = [_read(path) for path in args.beside]
    from detrex_ext.analysis.queries import QueryReport, draw_queries
    from detrex_ext.checkpoint.files import write_json

    cfg = config_of(args)
    take_data(cfg, args)
    rows = [{"checkpoint": path, "iteration": steps} for path, steps in checkpoints_of(cfg, args)]
    label = label_of(args, rows[0]["checkpoint"])
    report = QueryReport(label, args.affinity, thresholds, streams, rows)
    _check_stage(args.stage, cfg, label)
    for other in others:
        report.check_like(other)
        other.index(args.stage if len(rows) > 1 else None)
    output = output_of(cfg, args, "queries")
    for done, row in enumerate(rows, 1):
        row |= _count(cfg, args, row["checkpoint"], thresholds, streams)
        write_json(replace(report, checkpoints=rows[:done]).to_dict(), output / "queries.json")
    print(report.text(args.stage))
    if args.json not in (None, "-"):
        write_json(report.to_dict(), args.json)  # not lost where the curves cannot be drawn
    draw_queries([report, *others], output / "queries.png", args.stage)
    print(f"metrics in {output / 'queries.json'}, curves in {output / 'queries.png'}")
    return report.to_dict()


def _check_stage(stage: int | None, cfg: DictConfig, run: str) -> None:
    """Refuses a stage that the config's decoder does not have, before anything is evaluated."""
    if stage is None:
        return
    from detrex_ext.inference import build_for_inference

    order = getattr(build_for_inference(cfg, num_classes=1).decoder, "eval_order", ())
    if not 1 <= stage <= len(order):
        raise UserError(f"--stage {stage}: the decoder of {run} has stages 1 to {len(order)}")


def _count(
    cfg: DictConfig, args: argparse.Namespace, checkpoint: str, thresholds: list[float], streams: list[str]
) -> dict[str, Any]:
    """What ``QueryEvaluator`` writes of a checkpoint."""
    from detrex_ext import engine
    from detrex_ext.analysis.queries import QueryEvaluator
    from detrex_ext.runtime import LazyCall

    cfg, truth = copy.deepcopy(cfg), truth_of(cfg)
    cfg.train.init_checkpoint = checkpoint
    counted = {"thresholds": thresholds, "affinity": args.affinity, "streams": streams, "start": _start(cfg)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "counts.json"
        cfg.dataloader.evaluator = LazyCall(QueryEvaluator)(json=truth, output=str(file), **counted)
        if not engine.evaluate(cfg, args):
            raise UserError(f"nothing to analyze: {truth} has no images or no objects")
        return json.loads(file.read_text(encoding="utf-8"))


def _numbers(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 <= value < 1 for value in values):
        raise UserError(f"--thresholds {text}: expected numbers from 0 to below 1, such as 0.6,0.7,0.8")
    return sorted(set(values))


def _read(path: str) -> Any:
    from detrex_ext.analysis.queries import QueryReport

    try:
        return QueryReport.from_dict(json.loads(Path(path).read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"--beside {path}: not the queries.json of an earlier analysis\n  {error}") from error


def _start(cfg: DictConfig) -> str:
    """Where auxiliary sets of the config's divide-and-conquer begin; as published where it has none."""
    from detrex_ext.config import parts

    for strategy in parts(cfg.model.get("strategies")).values():
        if isinstance(strategy, Mapping) and "DivideAndConquer" in str(strategy.get("_target_")):
            return strategy.get("start", "shared")
    return "shared"
