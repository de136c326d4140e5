"""A detector that needs no training: each bright patch of an image is an object, red ones of class 0, others of 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from detrex_ext import api
from detrex_ext.predictor import Predictor
from detrex_ext.runtime import Boxes, Instances

NAMES = ["red", "white"]


class Bright(nn.Module):
    """Boxes are exact to the pixel of the input; the score of a larger patch is higher."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, batch):
        self.seen.append([tuple(x["image"].shape[1:]) for x in batch])
        return [{"instances": self._found(x)} for x in batch]

    def _found(self, x):
        image = x["image"].numpy()
        labels, _ = ndimage.label(image[0] > 150)
        scale = [x["width"] / image.shape[2], x["height"] / image.shape[1]] * 2
        boxes, scores, classes = [], [], []
        for rows, columns in ndimage.find_objects(labels):
            inside = image[:, rows, columns]
            boxes.append([columns.start, rows.start, columns.stop, rows.stop])
            scores.append(0.9 - 1 / (10 + inside[0].size))
            classes.append(int(inside[1].mean() > inside[0].mean() / 2))
        found = Instances((x["height"], x["width"]))
        found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) * torch.tensor(scale))
        found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes, dtype=torch.int64)
        return found


def bright(transforms=(), names=NAMES):
    """A predictor of it."""
    return Predictor(Bright(), names, transforms)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with three images of two objects each, and the command predicts with this detector."""
    folder = tmp_path / "run"
    folder.mkdir()
    for number, size in enumerate(((60, 90), (90, 60), (60, 90))):
        image = np.zeros((*size, 3), dtype=np.uint8)
        image[5:25, 10:20], image[30:50, 30 + number : 50, 0] = 255, 255
        Image.fromarray(image).save(folder / f"{number}.png")
    monkeypatch.setattr(api, "load", lambda *source, **how: bright())
    return folder
