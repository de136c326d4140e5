"""The report of a run: one HTML file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..analysis.sampling import Points, sampling_points
from ..checkpoint.files import write_whole
from ..data.ground_truth import GroundTruth
from . import detection_sections as of_detections
from . import facts_sections as of_run
from .causes import OVERFIT_AP, Cause, find_causes
from .detections import Detections
from .folder import RunFacts
from .html import Html, el, page
from .picture_sections import Opened, opener, points_section, stages_section, worst_section
from .pictures import Pictures
from .stages import StageLook

logger = logging.getLogger(__name__)
_WORST, _STAGES = 20, 3


@dataclass
class Material:
    """All that a report is made of; the more is known, the more sections it has.

    Attributes:
        facts: of the run folder.
        truth: of the validation data.
        files: image file by index.
        detections: on the validation data.
        look: stages on some of its images.
        points, points_image: of the best query of an image, and the image's index.
        notes: what is lacking and why, for people.
    """

    facts: RunFacts
    truth: GroundTruth | None = None
    files: dict[int, str] = field(default_factory=dict)
    detections: Detections | None = None
    look: StageLook | None = None
    points: list[Points] = field(default_factory=list)
    points_image: int = -1
    notes: list[str] = field(default_factory=list)

    def causes(self) -> list[Cause]:
        """Why nothing is found, where that is so."""
        overfit = self.facts.config.get("train.overfit", "0") not in ("0", "null")
        least = {"least_ap": OVERFIT_AP} if overfit else {}
        return find_causes(self.facts, self.truth, self.detections, self.look, **least)


def write_report(material: Material, path: str | Path) -> list[Cause]:
    """Writes the page, whole or not at all.

    Returns:
        The causes that it names.
    """
    facts, causes = material.facts, material.causes()
    opened, pictures = opener(material.files), Pictures()
    sections: list[tuple[str, Html]] = [("", of_run.causes_section(causes))] if causes else []
    sections.append(("", of_run.overfit_section(facts, causes)))
    if material.notes:
        sections.append(("", el("section", *(el("p", note, class_="muted") for note in material.notes))))
    sections += [("Metrics", of_run.metrics_section(facts)), ("Curves", of_run.curves_section(facts))]
    if (found := material.detections) is not None:
        sections += [
            ("Precision and recall", of_detections.curves_section(found)),
            ("Confusion", of_detections.confusion_section(found)),
            ("Missed objects", of_detections.missed_section(found)),
            ("Worst images", worst_section(found, _WORST, opened, pictures)),
        ]
    sections += _stage_sections(material, opened, pictures)
    sections += [
        ("Config", of_run.config_section(facts)),
        ("Environment", of_run.environment_section(facts)),
        ("Commands", of_run.commands_section(facts)),
    ]
    if pictures.left_out:
        logger.info("%s: %d images left out, the page is large enough", path, pictures.left_out)
    text = page(f"Run {facts.path.resolve().name}", sections)
    write_whole(Path(path), lambda file: file.write(text.encode("utf-8")))
    return causes


def _stage_sections(
    material: Material, opened: Callable[[int], Opened | None], pictures: Pictures
) -> list[tuple[str, Html]]:
    look, truth, found = material.look, material.truth, []
    if look is not None and look.looked and truth is not None:
        names = truth.classes.names
        found.append(("Stages", stages_section(look, _STAGES, names, opened, pictures)))
    if material.points and (image := opened(material.points_image)) is not None:
        found.append(("Sampling points", points_section(material.points, image, pictures)))
    return found


def add_looks(
    material: Material, model: nn.Module, samples: Sequence[Mapping[str, Any]], enough: Callable[[], bool]
) -> None:
    """Looks at what the stages of a model make of some images, one at a time, until it is enough.

    Args:
        material: takes what is found; its ``truth`` has the images.
        model: in evaluation mode.
        samples: inputs of a model; made when their turn comes.
        enough: whether to stop, asked after each image.
    """
    if material.truth is None or material.truth.boxes is None or not hasattr(model, "predict_sets"):
        return
    material.look = look = StageLook(material.truth)
    for number, sample in enumerate(samples):
        outputs, sets = model.predict_sets([dict(sample)])
        look.process([sample], outputs, sets)
        material.files |= look.files
        if number == 0:
            material.points_image = material.truth.index_of(sample)
            material.points = sampling_points(model, [dict(sample)])
        if enough():
            break
