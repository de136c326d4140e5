"""What is expected of detectron2's test files, at its commit 02b5c4e: how many cases pass, and why others do not."""

from __future__ import annotations

from dataclasses import dataclass, field

NEEDS = "needs "
"""A reason that begins so is one of the machine: where it has what is needed, the case may pass."""
CV2, DATA, COMPILED = "needs opencv", "needs a file of COCO", "needs detectron2's compiled part"
SCRIPT = "TorchScript of Boxes and Instances, which the runtime does not have"


@dataclass(frozen=True)
class File:
    """Cases that pass at least, and why others fail, by their names."""

    passed: int
    reasons: dict[str, str] = field(default_factory=dict)


ALONE = {
    "config/test_instantiate_config.py": File(8),
    "config/test_lazy_config.py": File(8, {
        "test_overrides": "an override keeps the type of the value: a string in place of a number is refused",
    }),
    "structures/test_boxes.py": File(16, {"test_scriptability": SCRIPT}),
    "structures/test_instances.py": File(1),
    "test_events.py": File(6),
    "test_packaging.py": File(1, {"test_import": "detectron2's own projects, which are not there"}),
    "test_registry.py": File(6),
    "test_scheduler.py": File(2, {
        "test_warmup_stepwithfixedgamma": "asks for an IndexError one step after the last, where ours keeps the rate",
    }),
    "test_solver.py": File(2),
    "utils/test_tensorboardx.py": File(2),
}  # fmt: skip
"""Nothing but our names."""

OVER = {
    "data/test_coco.py": File(3),
    "data/test_dataset.py": File(12, {
        "test_build_dataloader_train": DATA, "test_build_iterable_dataloader_train": DATA,
    }),
    "data/test_detection_utils.py": File(8, {
        "test_opencv_exif_orientation": CV2, "test_read_exif_orientation": "needs a network",
    }),
    "data/test_sampler.py": File(6),
    "data/test_transforms.py": File(13, {"test_resize_and_crop": "needs shapely"}),
    "modeling/test_anchor_generator.py": File(2, {"test_default_anchor_generator_centered": SCRIPT}),
    "modeling/test_box2box_transform.py": File(4),
    "modeling/test_fast_rcnn.py": File(5),
    "modeling/test_roi_pooler.py": File(2, {
        "test_roialignv2_roialignrotated_match_cpu": COMPILED, "test_scriptability_cpu": SCRIPT,
    }),
    "modeling/test_rpn.py": File(6, {"test_rpn_scriptability": SCRIPT, "test_rrpn": COMPILED}),
    "structures/test_masks.py": File(3),
    "test_checkpoint.py": File(4),
    "test_engine.py": File(9, {"test_default_trainer": DATA}),
    "tracking/test_bbox_iou_tracker.py": File(5),
    "tracking/test_hungarian_tracker.py": File(2),
    "tracking/test_iou_weighted_hungarian_bbox_iou_tracker.py": File(8),
    "tracking/test_vanilla_hungarian_bbox_iou_tracker.py": File(8),
}  # fmt: skip
"""The rest of detectron2 on our names."""

PASSED = {way: sum(file.passed for file in table.values()) for way, table in (("alone", ALONE), ("over", OVER))}
