"""Sections of the report that a run folder alone tells: metrics, curves, config, environment, commands."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .causes import OVERFIT_AP, Cause, ap_of
from .charts import Axis, Curve, chart
from .folder import RunFacts
from .html import Html, el, folded, table

_MOST_CLASSES = 200
_CARDS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def causes_section(causes: Sequence[Cause]) -> Html:
    """What is wrong, and what to do."""
    rows = [el("p", el("b", cause.what), f": {cause.shown_by}. To do: {cause.to_do}.") for cause in causes]
    return el("section", el("h2", "What is wrong, most likely"), *rows, class_="warn")


def overfit_section(facts: RunFacts, causes: Sequence[Cause]) -> Html:
    """Whether a training on a handful of images learned them by heart; "" for any other."""
    images = facts.config.get("train.overfit", "0")
    if images in ("0", "null"):
        return Html("")
    ap = ap_of(facts)
    reached = ap is not None and ap > OVERFIT_AP
    told = f"train.overfit={images}: AP {'unknown' if ap is None else f'{ap:.1f}'} on the images it was trained on; "
    rest = "data, losses and model are sound" if reached else f"expected more than {OVERFIT_AP:g}"
    more = "" if reached or causes else "; train longer (train.max_iter), then look at learning rate and labels"
    return el("section", el("p", told + rest + more), class_="good" if reached else "warn")


def metrics_section(facts: RunFacts) -> Html:
    """AP as cards, the best threshold, and AP and threshold of each class."""
    ap, f1 = facts.results.get("bbox", {}), facts.results.get("bbox_f1", {})
    if not ap:
        return el("p", "Nothing was evaluated.", class_="muted")
    cards = [el("div", el("b", _share(ap.get(name))), name, class_="card") for name in _CARDS]
    cards += [el("div", el("b", _share(f1.get(name))), name, class_="card")
              for name in ("F1", "precision", "recall") if name in f1]  # fmt: skip
    told = []
    if not math.isnan(f1.get("threshold", math.nan)):
        never = f"{f1.get('never_found', 0):.0f} objects never found"
        counts = f"{f1.get('duplicates', 0):.0f} duplicates shown, {never}"
        told.append(el("p", f"F1, precision and recall at the score threshold {f1['threshold']:.3g}, which has the "
                            f"best F1 (IoU 0.5); {counts}."))  # fmt: skip
    if facts.evaluated is not None:
        told.append(el("p", f"Of the weights after {facts.evaluated:,} iterations.", class_="muted"))
    classes = {name[3:]: value for name, value in ap.items() if name.startswith("AP-")}
    if classes:
        worst = sorted(classes, key=lambda name: (math.isnan(classes[name]), classes[name]))
        rows = [[name, _share(classes[name]), _number(f1.get(f"threshold-{name}"))] for name in worst[:_MOST_CLASSES]]
        told += [el("h3", "By class, the lowest AP first"), table([["class", "AP", "best threshold"], *rows])]
        if len(worst) > _MOST_CLASSES:
            told.append(el("p", f"... and {len(worst) - _MOST_CLASSES} classes with a higher AP.", class_="muted"))
    others = [[f"{task}/{name}", _number(value)] for task, values in facts.results.items()
              if task not in ("bbox", "bbox_f1") for name, value in values.items()]  # fmt: skip
    if others:
        told.append(folded("other metrics", table([["metric", "value"], *others[:_MOST_CLASSES]])))
    return el("div", el("div", *cards, class_="cards"), *told)


def curves_section(facts: RunFacts) -> Html:
    """Loss, its parts, learning rate, AP."""
    series, iteration = facts.series, Axis("iteration")
    if not series:
        return el("p", "The folder holds no metrics.", class_="muted")
    parts = [name for name in series if name.startswith("loss_")]
    parts = sorted(parts, key=lambda name: -series[name][-1][1])[:8]
    total = [value for _, value in series.get("total_loss", ())]
    steep = bool(total) and min(total) > 0 and max(total) > 30 * min(total)
    up = Axis("", log=True) if steep else Axis("", low=0)
    charts = [
        chart("Loss", _curves(facts, ["total_loss", "val/total_loss"]), iteration, up),
        chart("Its largest parts", _curves(facts, parts), iteration, Axis("", log=steep)),
        chart("AP and AP50", _curves(facts, ["bbox/AP", "bbox/AP50"]), iteration, Axis("", low=0)),
        chart("Learning rate", _curves(facts, ["lr", "lr_adamw"]), iteration, Axis("", low=0)),
        chart("Gradient norm", _curves(facts, ["grad_norm"]), iteration, Axis("", log=True)),
    ]
    return el("div", *charts, class_="row")


def _curves(facts: RunFacts, names: Sequence[str]) -> list[Curve]:
    return [Curve(name, facts.series[name]) for name in names if name in facts.series]


def config_section(facts: RunFacts) -> Html:
    """The difference from the shipped config, and all of it folded."""
    if not facts.config:
        return el("p", "The folder holds no config that can be read.", class_="muted")
    told = []
    if facts.shipped:
        rows = [[key, before or "-", after or "-"] for key, (before, after) in facts.changed.items()]
        told.append(el("p", f"Started with the shipped config {facts.shipped}."))
        shown = table([["key", "shipped", "here"], *rows[:500]], "text") if rows else el("p", "Nothing was changed.")
        long = len(rows) > 25
        told.append(folded(f"{len(rows)} differences", shown) if long else shown)
    else:
        told.append(el("p", "Not started with a shipped config, so there is nothing to compare with."))
    rows = [[key, value[:300]] for key, value in list(facts.config.items())[:2000]]
    told.append(folded("the whole config", table([["key", "value"], *rows], "text")))
    return el("div", *told)


def environment_section(facts: RunFacts) -> Html:
    """Versions and devices, as the log has them."""
    if not facts.environment:
        return el("p", "The log of the run tells nothing of it.", class_="muted")
    return table([["part", "version"], *facts.environment], "text")


def commands_section(facts: RunFacts) -> Html:
    """What to type next."""
    return el("div", *(el("div", el("h3", what), el("pre", command)) for what, command in facts.commands()))


def _share(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"
