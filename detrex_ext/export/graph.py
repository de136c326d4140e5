"""The path of inference as one graph of tensors, which a file can hold.

Shape legend: B images, N predictions of an image, (h, w) size of the original images, (H, W) of the frame.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrex_ext.errors import UserError
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.modeling.preprocess import Preprocess

from .fitting import Fitting

OUTPUTS = ("boxes", "scores", "labels")


class Graph(nn.Module):
    """A detector without dicts, Python numbers and lengths that depend on what is found.

    Predictions are (boxes (B, N, 4), scores (B, N), labels (B, N)), best first; boxes are xyxy in pixels, labels
    indices of classes. Where fewer are found the last ones have the score 0.

    Args:
        model: in evaluation mode.
        fitting: how images come into the frame.

    Raises:
        UserError: a model, or a part of it, that has no such form.
    """

    inputs: tuple[str, ...] = ()

    def __init__(self, model: nn.Module, fitting: Fitting) -> None:
        super().__init__()
        for part, kind in ((model, Detector), (getattr(model, "preprocess", None), Preprocess)):
            if not isinstance(part, kind):
                raise UserError(f"export knows {kind.__name__}, found {type(part).__name__}")
        post = model.postprocess
        if type(post) is not Postprocess:
            raise UserError(f"model.postprocess is {type(post).__name__}: export knows Postprocess")
        if post.soft is not None:
            raise UserError(
                f"model.postprocess.soft={post.soft} goes box by box, which a graph cannot\n"
                "  model.postprocess.soft=null suppresses at once"
            )
        self.model, self.fitting = model, fitting

    @property
    def frame(self) -> tuple[int, int]:
        """(height, width) of what the model sees."""
        return self.fitting.frame

    def framed(self, images_BhwC: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 RGB images of one size as normalized, padded ones (B, 3, H, W), and their size (2,) in the frame."""
        x, hw_2 = self.fitting(images_BhwC)
        pre, (H, W) = self.model.preprocess, self.frame
        inside = (torch.arange(H)[:, None] < hw_2[0]) & (torch.arange(W) < hw_2[1])
        x = (x - pre.pixel_mean) / pre.pixel_std * inside
        return x.flip(1) if pre.bgr else x, hw_2

    def detect(self, images_B3HW: Tensor, hw_B2: Tensor, output_hw_B2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions on normalized, padded images.

        Args:
            images_B3HW: as large as the frame.
            hw_B2: height and width of each image in it.
            output_hw_B2: height and width that boxes are told in.
        """
        post = self.model.postprocess
        sets = self.model.core(images_B3HW, hw_B2)
        boxes, scores, labels, keep, _ = post.candidates(sets, output_hw_B2)
        scores = scores.where(keep, 0.0)
        most = scores.shape[1] if post.top_k is None else min(post.top_k, scores.shape[1])
        scores, index = scores.topk(most, 1)
        boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        return boxes, scores, labels.gather(1, index)


class FromPixels(Graph):
    """With the preprocessing inside: (B, h, w, 3) uint8 RGB of any size; boxes are in pixels of it."""

    inputs = ("images",)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions on images of one size."""
        x, hw_2 = self.framed(images)
        own_2 = torch.stack([torch.scalar_tensor(n, dtype=torch.float32) for n in images.shape[1:3]])
        return self.detect(x, *(size.expand(x.shape[0], 2) for size in (hw_2, own_2)))


class FromFrames(Graph):
    """With the preprocessing outside: (B, 3, H, W) float, normalized, zero right of and below each image.

    ``sizes`` (B, 2) are height and width of the images in it; boxes are in pixels of the same.
    """

    inputs = ("images", "sizes")

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions on frames."""
        return self.detect(images, sizes, sizes)
