"""Verbs of `python -m detrex_ext analyze` that draw curves over the checkpoints of a run, one for each stage."""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrex_ext.errors import UserError

from .analyze_inputs import add_run, checkpoints_of, config_of, label_of, output_of, truth_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

_SPARSITY = """\
Evaluates a checkpoint, or all those of a run folder, and measures the cross-attention of each decoder stage (TSP-RCNN
and TSP-FCOS, arXiv 2011.10881, section 3.2). Writes sparsity.json and sparsity.png: curves over the checkpoints.
  sparsity   sum of p log p over the m keys of a query, divided by m; nearer to 0 = sparser; depends on the image's size
  size_free  1 - entropy / log m: 0 where attention is even, 1 where it is at one key
  keys       m, those of padding not counted
The whole map is never in memory. Models whose queries sample points have no such map and are refused.
"""
_STABILITY = """\
Evaluates all checkpoints of a run folder on the validation images, matches objects with queries as the training does,
and tells by stage the share of objects whose query is another one than in the checkpoint before (DN-DETR,
arXiv 2203.01305, section 3.1). Writes stability.json and stability.png: curves over the checkpoints.
  changed    share of the objects whose query changed
  matched    share of the objects that have one
Queries are known by their index, tokens by their point, proposals by their box (the same where IoU > 0.5).
"""


def add_parsers(verbs: Any) -> None:
    """Adds both verbs to the subparsers of ``analyze``."""
    for name, folder, text, about, main in (
        ("attention-sparsity", "sparsity", _SPARSITY, "entropy of cross-attention, by checkpoint and stage", _sparsity),
        ("matching-stability", "stability", _STABILITY, "objects whose query changes between checkpoints", _stability),
    ):
        raw = argparse.RawDescriptionHelpFormatter
        parser = verbs.add_parser(name, help=about, description=text, formatter_class=raw)
        add_run(parser, folder)
        parser.add_argument(
            "--beside", action="append", default=[], metavar="JSON", help=f"{folder}.json of another run, drawn beside"
        )
        parser.set_defaults(main=main)


def _sparsity(args: argparse.Namespace) -> dict[str, Any]:
    others = [_read(path, "sparsity") for path in args.beside]
    from detrex_ext.analysis.sparsity import SparsityEvaluator

    figures = {"sparsity": "sum of p log p / m", "size_free": "1 - entropy / log m", "keys": "keys of a query, m"}
    cfg, rows = _rows(args)
    output, truth = output_of(cfg, args, "sparsity"), truth_of(cfg)
    with tempfile.TemporaryDirectory() as folder:
        for done, row in enumerate(rows, 1):
            file = Path(folder) / "figures.json"
            _evaluate(cfg, args, row["checkpoint"], SparsityEvaluator, json=truth, output=str(file))
            row |= json.loads(file.read_text(encoding="utf-8"))
            _write(args, figures, rows[:done], output, "sparsity")
    return _finish(args, figures, rows, output, "sparsity", others)


def _stability(args: argparse.Namespace) -> dict[str, Any]:
    others = [_read(path, "stability") for path in args.beside]
    from detrex_ext.analysis.stability import Matches, MatchEvaluator, changed
    from detrex_ext.engine.distillation import main_rule

    figures = {"changed": "objects whose query changed", "matched": "objects with a query"}
    cfg, rows = _rows(args)
    if len(rows) < 2:
        raise UserError(f"{args.run}: matches of two checkpoints or more are compared; name a run folder that has them")
    rule, before = main_rule(cfg), None
    output, truth = output_of(cfg, args, "stability"), truth_of(cfg)
    with tempfile.TemporaryDirectory() as folder:
        for done, row in enumerate(rows, 1):
            file = Path(folder) / "matches.npz"
            _evaluate(cfg, args, row["checkpoint"], MatchEvaluator, json=truth, rule=rule, output=str(file))
            now = Matches.load(file)
            row["matched"] = (now.query_SG >= 0).mean(1).tolist()
            row["changed"] = [None] * len(now.query_SG) if before is None else changed(before, now).tolist()
            row |= {"images": now.images, "objects": now.query_SG.shape[1], "known_by": now.kind}
            before = now
            _write(args, figures, rows[:done], output, "stability")
    return _finish(args, figures, rows, output, "stability", others)


def _rows(args: argparse.Namespace) -> tuple[DictConfig, list[dict[str, Any]]]:
    cfg = config_of(args)
    return cfg, [{"checkpoint": path, "iteration": steps} for path, steps in checkpoints_of(cfg, args)]


def _evaluate(cfg: DictConfig, args: argparse.Namespace, checkpoint: str, evaluator: Any, **options: Any) -> None:
    from detrex_ext import engine
    from detrex_ext.runtime import LazyCall

    cfg = copy.deepcopy(cfg)
    cfg.train.init_checkpoint = checkpoint
    cfg.dataloader.evaluator = LazyCall(evaluator)(**options)
    if not engine.evaluate(cfg, args):
        raise UserError(f"nothing to analyze: {options['json']} has no images or no objects")


def _report(args: argparse.Namespace, figures: Mapping[str, str], rows: list[dict[str, Any]]) -> Any:
    from detrex_ext.analysis.curves import StageCurves

    return StageCurves(label_of(args, rows[0]["checkpoint"]), dict(figures), rows)


def _write(args: Any, figures: Mapping[str, str], rows: list[dict[str, Any]], output: Path, name: str) -> None:
    from detrex_ext.checkpoint.files import write_json

    write_json(_report(args, figures, rows).to_dict(), output / f"{name}.json")  # not lost by an interruption


def _finish(
    args: Any, figures: Mapping[str, str], rows: list[dict[str, Any]], output: Path, name: str, others: list[Any]
) -> dict[str, Any]:
    """Prints and draws; what was found."""
    from detrex_ext.analysis.curves import draw_stages
    from detrex_ext.checkpoint.files import write_json

    report = _report(args, figures, rows)
    print(report.text())
    if args.json not in (None, "-"):
        write_json(report.to_dict(), args.json)  # not lost where the curves cannot be drawn
    draw_stages([report, *others], output / f"{name}.png")
    print(f"metrics in {output / name}.json, curves in {output / name}.png")
    return report.to_dict()


def _read(path: str, name: str) -> Any:
    from detrex_ext.analysis.curves import StageCurves

    try:
        report = StageCurves.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        if name not in ("sparsity" if "sparsity" in report.figures else "stability"):
            raise ValueError(f"it has {', '.join(report.figures)}")
    except (OSError, ValueError) as error:
        raise UserError(f"--beside {path}: not the {name}.json of an earlier analysis\n  {error}") from error
    return report
