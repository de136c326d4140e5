"""Draws docs/images/predictions.jpg: what a trained model finds on images that it has not seen, and the truth.

    python docs/images/predictions.py RUN VAL_JSON IMAGES [OUTPUT]     # RUN: of `make quickstart`, say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import detrex_ext
from detrex_ext.visualization import draw_boxes

COUNT, SIDE, GAP, BAR = 5, 280, 8, 34


def row(drawn: list[Image.Image], title: str) -> Image.Image:
    canvas = Image.new("RGB", (COUNT * SIDE + (COUNT - 1) * GAP, SIDE + BAR), "white")
    ImageDraw.Draw(canvas).text((2, 4), title, fill="#1f2933", font=ImageFont.load_default(20))
    for i, image in enumerate(drawn):
        canvas.paste(image, (i * (SIDE + GAP), BAR))
    return canvas


def main(run: str, val_json: str, folder: str, output: str) -> None:
    data = json.loads(Path(val_json).read_text(encoding="utf-8"))
    names = [c["name"] for c in data["categories"]]
    index = {c["id"]: i for i, c in enumerate(data["categories"])}
    predictor = detrex_ext.load(run)
    found, truth = [], []
    for entry in data["images"][:COUNT]:
        path = Path(folder) / entry["file_name"]
        picture = Image.open(path).convert("RGB")
        result = predictor.predict(path)
        found.append(draw_boxes(picture, result.pred_boxes.tensor.tolist(), result.pred_classes.tolist(),
                                predictor.class_names, result.scores.tolist(), long_side=SIDE))  # fmt: skip
        own = [a for a in data["annotations"] if a["image_id"] == entry["id"]]
        boxes = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in own)]
        truth.append(draw_boxes(picture, boxes, [index[a["category_id"]] for a in own], names, long_side=SIDE))
    rows = [row(found, "found, above the threshold with the best F1"), row(truth, "ground truth")]
    sheet = Image.new("RGB", (rows[0].width, 2 * rows[0].height + GAP), "white")
    for i, part in enumerate(rows):
        sheet.paste(part, (0, i * (part.height + GAP)))
    sheet.save(output, quality=85, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:4], sys.argv[4] if len(sys.argv) > 4 else str(Path(__file__).with_suffix(".jpg")))
