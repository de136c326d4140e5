"""What the models of the zoo are trained by. All of them learn the generated shapes, which are this package's own."""

from __future__ import annotations

from dataclasses import dataclass

SEED = 0
# the same numbers on processors with and without bf16 instructions
EVERYWHERE = ("train.amp.enabled=false", f"train.seed={SEED}")
DATA = "600 training and 100 validation images of python -m detrex_ext.data.shapes output/shapes"


@dataclass(frozen=True)
class Recipe:
    """A training.

    Attributes:
        config, overlays: short names.
        overrides: ``key=value``.
    """

    config: str
    overlays: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    def all_overrides(self, steps: int | None = None) -> list[str]:
        """With those that every model has, and another number of steps."""
        return [*self.overrides, *EVERYWHERE, *([] if steps is None else [f"train.max_iter={steps}"])]


_DEFORMABLE = "deformable_detr_r50_two_stage_50ep"
RECIPES = {
    "small_shapes": Recipe("quickstart"),
    "small_shapes_dac": Recipe("quickstart", ("dac",)),
    "tiny_deformable_shapes": Recipe(_DEFORMABLE, ("tiny",), ("train.max_iter=2400",)),
    "tiny_deformable_shapes_sqr": Recipe(_DEFORMABLE, ("tiny", "sqr"), ("train.max_iter=2400",)),
}
