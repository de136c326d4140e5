"""`python -m detrex_ext report`: one HTML page about a run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrex_ext.errors import UserError

from .analyze_inputs import truth_of
from .arguments import Parser, check_overrides
from .outputs import check_file, in_run, show

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from detrex_ext.report import Material

_TEXT = """\
Writes one HTML file that needs no network: metrics, curves, config, precision and recall, confusion, what is missed,
the worst images, stages, sampling points. What the folder lacks is predicted on the validation data; predictions that
dataloader.evaluator.output_dir has kept are taken. Where AP is near 0 it says the likeliest cause, here too.
"""
_LOOKED = 100  # images whose stages are looked at


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = Parser(prog="python -m detrex_ext report", description=_TEXT,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("run", metavar="RUN", help="run folder of a training")
    add("opts", nargs="*", default=[], metavar="key=value", help="overrides, as dataset.val_images=DIR")
    add("--output", metavar="FILE", help="the page (default: report.html in the run)")
    add("--no-predictions", action="store_true", help="from the files of the folder alone")
    add("--device", metavar="D", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    add("--trust", action="store_true", help="build models of unknown packages named in the run")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page.

    Returns:
        0.

    Raises:
        UserError: no run there, or the page cannot be written.
    """
    args = build_parser().parse_args(argv)
    check_overrides(args.opts)
    if not os.path.isdir(args.run):
        raise UserError(f"report {args.run}: expected the folder of a run")
    from detrex_ext.checkpoint import RunFolder
    from detrex_ext.report import Material, read_run, write_report

    output = args.output or str(in_run(args.run, RunFolder(args.run).report.name))
    check_file(output, "--output")
    facts = read_run(args.run)
    if not (facts.config or facts.series or facts.results):
        held = ", ".join(sorted(os.listdir(args.run))[:8]) or "nothing"
        raise UserError(f"report {args.run}: no run of a training; it holds {held}")
    material = Material(facts)
    if args.no_predictions:
        material.notes.append("Made without predictions (--no-predictions).")
    else:
        try:
            _predicted(args, material)
        except (UserError, FloatingPointError) as error:  # the rest of the page is worth having
            reason = " ".join(str(error).split())
            material.notes.append(f"No predictions: {reason}")
            show(f"without predictions: {reason}", sys.stderr)
    causes = write_report(material, output)
    for cause in causes:
        show(f"likely: {cause}")
    show(f"report in {output}")
    return 0


def _predicted(args: argparse.Namespace, material: Material) -> None:
    """Adds detections and stages.

    Raises:
        UserError: there is no model, no data, or what is there is not trusted.
    """
    from detrex_ext.api import load
    from detrex_ext.config import laid_over
    from detrex_ext.data import CocoDataset
    from detrex_ext.inference import config_in, for_evaluation
    from detrex_ext.report import add_looks, matched

    cfg = config_in({}, args.run, args.trust)
    kept = _kept_file(cfg)
    cfg = laid_over(cfg if args.trust else for_evaluation(cfg, args.run), [], args.opts)
    dataset = CocoDataset(truth_of(cfg), cfg.dataset.get("val_images"))
    truth = material.truth = dataset.truth
    material.files = {i: str(Path(dataset.images) / image["file_name"]) for i, image in enumerate(truth.images)}
    predictor = load(cfg, weights=args.run, device=args.device)
    everything = list(range(len(truth.image_ids)))
    if kept is None:
        found = _evaluated(predictor, dataset, material)
    else:
        from detrex_ext.report.kept import read_results

        found = read_results(kept, truth)
    if truth.boxes is None:
        return
    material.detections = matched(truth, found, everything)
    worst = [x.image for x in material.detections.worst(8)]
    order = list(dict.fromkeys([*worst, *everything]))[:_LOOKED]
    add_looks(material, predictor.model, (_sample(predictor, dataset, i) for i in order), lambda: False)


def _kept_file(cfg: DictConfig) -> str | None:
    """The detections that the run's evaluation has written."""
    from omegaconf import OmegaConf

    from detrex_ext.evaluation.coco import RESULTS_FILE

    folder = OmegaConf.select(cfg, "dataloader.evaluator.output_dir", throw_on_resolution_failure=False)
    path = os.path.join(folder, RESULTS_FILE) if isinstance(folder, str) else ""
    return path if os.path.isfile(path) else None


def _sample(predictor: Any, dataset: Any, index: int) -> dict[str, Any]:
    from detrex_ext.data.read import read_image

    record = dataset[index]
    return {**predictor.as_input(read_image(record["file_name"])), **{k: record[k] for k in ("file_name", "image_id")}}


def _evaluated(predictor: Any, dataset: Any, material: Material) -> Any:
    """Detections on all images; the metrics become those of the report."""
    import torch

    from detrex_ext.evaluation import CocoEvaluator

    evaluator = CocoEvaluator(dataset.truth)
    show(f"predicting on {len(dataset):,} images", sys.stderr)
    with torch.no_grad():
        for index in range(len(dataset)):
            sample = _sample(predictor, dataset, index)
            evaluator.process([sample], predictor.model([sample]))
            if (index + 1) % 200 == 0:
                show(f"{index + 1:,} of {len(dataset):,}", sys.stderr)
    found, _ = evaluator.detections()
    material.facts.results, material.facts.evaluated = evaluator.evaluate(), None
    return found
