"""Faults that people make in detectors, as edits of this package, and the tests that must notice each.

A fault is one replacement in one file: `old` stands there exactly once. `tests` is what a person would run after
touching that file; at least one test in it must fail.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One wrong edit.

    Attributes:
        name: what is wrong, in a few words.
        file: below `detrex_ext/`.
        old, new: the text that is replaced, and by what.
        tests: paths given to pytest.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


PROTOCOL = ("tests/unit/test_staged_protocol.py",)

FAULTS = (
    Fault(
        "GIoU with the wrong sign of the enclosing box",
        "layers/box_ops.py",
        "return iou - (hull - union) / _guarded(hull, eps)",
        "return iou + (hull - union) / _guarded(hull, eps)",
        ("tests/unit/test_box_ops.py",),
    ),
    Fault(
        "a reference is not detached between decoder stages",
        "modeling/decoders/deformable.py",
        "new = new if self.look_forward_twice else new.detach()",
        "new = new if self.look_forward_twice else new.clone()",
        PROTOCOL,
    ),
    Fault(
        "the attention mask with the opposite polarity",
        "layers/cpu/attention.py",
        'scores.masked_fill(~mask, float("-inf"))',
        'scores.masked_fill(mask, float("-inf"))',
        ("tests/unit/test_attention.py",),
    ),
    Fault(
        "matching queries may look at denoising queries",
        "modeling/queries/denoising.py",
        "mask[P:, :P] = False",
        "mask[P:, :P] = True",
        ("tests/unit/test_denoising.py",),
    ),
    Fault(
        "the negatives of denoising are the ones to restore their object",
        "modeling/queries/denoising.py",
        "x.view(groups, 2, G)[:, 0]",
        "x.view(groups, 2, G)[:, 1]",
        ("tests/unit/test_denoising.py",),
    ),
    Fault(
        "DINO's next reference comes from the normed content",
        "modeling/decoders/deformable.py",
        "move = self.bbox_embed[head](raw).to",
        "move = self.bbox_embed[head](content).to",
        ("tests/parity/test_golden_dino.py",),
    ),
    Fault(
        "strategies act at inference too",
        "modeling/decoders/staged.py",
        "tuple(strategies) if self.training or act else ()",
        "tuple(strategies)",
        (*PROTOCOL, "tests/unit/test_recollection.py"),
    ),
    Fault(
        "recollected queries share self-attention with the plain path",
        "structures/queries.py",
        "names[slot.domain] = slot.domain if part is parts[-1] else fresh",
        "names[slot.domain] = slot.domain",
        (*PROTOCOL, "tests/unit/test_recollection.py"),
    ),
    Fault(
        "losses divided by images instead of objects",
        "criterion/normalizers.py",
        "return self.factor * s.targets.num",
        "return self.factor * s.stack.shape[1]",
        ("tests/unit/test_criterion_normalizers.py",),
    ),
    Fault(
        "the number of denoising groups left out of the normalizer",
        "criterion/normalizers.py",
        "(s.stack.given.scale if n.scaled else 1.0)",
        "(1.0 if n.scaled else 1.0)",
        ("tests/unit/test_criterion_normalizers.py",),
    ),
    Fault(
        "alpha of the focal loss given to the negatives",
        "criterion/losses.py",
        "return 1 - self.alpha",
        "return self.alpha",
        ("tests/unit/test_losses.py",),
    ),
    Fault(
        "the matcher prefers boxes that overlap least",
        "matching/costs.py",
        "_corners(candidates.object_boxes), self.eps).neg_()",
        "_corners(candidates.object_boxes), self.eps)",
        ("tests/unit/test_matching_costs.py",),
    ),
    Fault(
        "height and width exchanged when boxes go to pixels",
        "modeling/postprocess.py",
        "limit_B14 = hw.flip(1).repeat(1, 2)[:, None]",
        "limit_B14 = hw.repeat(1, 2)[:, None]",
        ("tests/unit/test_postprocess.py",),
    ),
    Fault(
        "mirrored boxes off by one pixel",
        "data/transforms.py",
        "boxes[:, [0, 2]] = width - boxes[:, [2, 0]]",
        "boxes[:, [0, 2]] = width - 1 - boxes[:, [2, 0]]",
        ("tests/unit/test_data_transforms.py",),
    ),
    Fault(
        "class ids shifted by one",
        "data/checks.py",
        "class_of = {category_id: k for k, category_id in enumerate(names)}",
        "class_of = {category_id: k for k, category_id in enumerate(names, 1)}",
        ("tests/unit/test_data_coco.py",),
    ),
    Fault(
        "corners of a record read as width and height",
        "data/records.py",
        'a["bbox_mode"] == BoxMode.XYWH_ABS for a in kept',
        "True for a in kept",
        ("tests/unit/test_data_records.py",),
    ),
    Fault(
        "every epoch in the same order",
        "data/samplers.py",
        "np.random.default_rng((self.seed, epoch, 0, _ORDER_STREAM))",
        "np.random.default_rng((self.seed, 0, 0, _ORDER_STREAM))",
        ("tests/unit/test_data_samplers.py",),
    ),
    Fault(
        "loader processes of all ranks draw the same numbers",
        "data/workers.py",
        "(seed, start, comm.get_rank())",
        "(seed, start)",
        ("tests/unit/test_data_loader.py",),
    ),
    Fault(
        "a state is asked of rank 0 alone",
        "checkpoint/checkpointer.py",
        "if not self.save_dir:",
        "if not self.save_dir or not self.save_to_disk:",
        ("tests/unit/test_checkpoint_files.py",),
    ),
    Fault(
        "a sample goes by the progress of where the loader began",
        "data/samplers.py",
        "(self.progress(step),)",
        "(self.progress(self.start),)",
        ("tests/unit/test_data_mixing.py",),
    ),
    Fault(
        "boxes of a mosaic stay where they were in their image",
        "data/mixing.py",
        "boxes.append(part.boxes_G4 + np.array([left, top, left, top], dtype=np.float64))",
        "boxes.append(part.boxes_G4)",
        ("tests/unit/test_data_mixing.py",),
    ),
    Fault(
        "what is switched off still draws random numbers",
        "data/mixing.py",
        "if not self.on or not self.since <= progress < self.until or rng.random() >= self.prob:",
        "if rng.random() >= self.prob or not self.on or not self.since <= progress < self.until:",
        ("tests/unit/test_data_mixing.py",),
    ),
    Fault(
        "padding takes part in deformable attention",
        "layers/ms_deform_attn.py",
        "value = value.mul_((~pad_BS)[..., None].to(value.dtype))",
        "value = value.mul_(1.0)",
        ("tests/parity/test_golden_deformable.py",),
    ),
    Fault(
        "gradients of half-precision values are summed in half precision on a GPU",
        "layers/ms_deform_backends/triton_backend.py",
        "sums = torch.promote_types(torch.promote_types(value.dtype, at.dtype), torch.float32)",
        "sums = value.dtype",
        ("tests/unit/test_triton_sampling.py",),
    ),
    Fault(
        "a GPU told to be deterministic sums in any order",
        "layers/ms_deform_backends/__init__.py",
        'return "gather"',
        'return "triton"',
        ("tests/unit/test_sampling_operator.py",),
    ),
    Fault(
        "the averaged weights stay in the model after an evaluation",
        "engine/ema.py",
        "_copy(own, self.model)",
        "_copy(self._state, self.model)",
        ("tests/unit/test_engine_trainer.py",),
    ),
    Fault(
        "a resumed run begins the data from the start",
        "engine/trainer.py",
        "self.loader.set_start(self.start_iter)",
        "self.loader.set_start(0)",
        ("tests/e2e/test_train_resume.py",),
    ),
    Fault(
        "micro-batches normalized by their own objects",
        "engine/trainer.py",
        "effective = totals(batch, self.device) if len(parts) > 1 else None",
        "effective = None",
        ("tests/unit/test_engine_trainer.py",),
    ),
    Fault(
        "DAB-DETR's position code is moved, not scaled",
        "modeling/decoders/dab.py",
        "place = place * self.query_scale(q.content_BTC)",
        "place = place + self.query_scale(q.content_BTC)",
        ("tests/parity/test_golden_dense.py",),
    ),
    Fault(
        "padding is sampled by AdaMixer",
        "modeling/decoders/adamixer.py",
        "inside = (~mem.pad_BS)",
        "inside = torch.ones_like(mem.pad_BS)",
        ("tests/parity/test_golden_adamixer.py",),
    ),
    Fault(
        "dense recollection goes on after the last stage",
        "strategies/recollection.py",
        "stage < self.start_stage or stage == self._last",
        "stage < self.start_stage",
        ("tests/unit/test_recollection.py",),
    ),
    Fault(
        "a dilated stage starts with a dilated block",
        "modeling/backbones/resnet.py",
        "blocks = [block(channels, width, stride, 1, norm, shortcut, **options)]",
        "blocks = [block(channels, width, stride, dilation, norm, shortcut, **options)]",
        ("tests/unit/test_backbones.py",),
    ),
    Fault(
        "constant statistics of a norm move in training",
        "modeling/backbones/blocks.py",
        "self.bias, training=False, eps=self.eps",
        "self.bias, training=self.training, eps=self.eps",
        ("tests/unit/test_backbones.py",),
    ),
    Fault(
        "frozen parts of a backbone keep moving their statistics",
        "modeling/backbones/freezing.py",
        """        super().train(mode)
        for part in self._frozen:
            part.eval()
""",
        "        super().train(mode)\n",
        ("tests/unit/test_backbones_mobilenet.py",),
    ),
    Fault(
        "weights of a package are not held against their digest",
        "checkpoint/installed.py",
        "if not digest.hexdigest().startswith(wanted):",
        "if not wanted:",
        ("tests/unit/test_checkpoint_installed.py",),
    ),
    Fault(
        "a package may name weights outside of the installation",
        "checkpoint/installed.py",
        "if not path.startswith(os.path.join(root, \"\")):",
        "if not root:",
        ("tests/unit/test_checkpoint_installed.py",),
    ),
    Fault(
        "a shifted window attends across the edges of the image",
        "modeling/backbones/swin_blocks.py",
        "masked_fill(different, -100.0)",
        "masked_fill(different, 0.0)",
        ("tests/unit/test_backbones_swin.py",),
    ),
    Fault(
        "numbers of the host wait for the GPU",
        "structures/placing.py",
        'non_blocking=x.device.type == "cpu"',
        "non_blocking=False",
        ("tests/contract/test_on_gpu.py",),
    ),
    Fault(
        "stage weights are one stage off",
        "criterion/rules.py",
        "return self.stage_weights[min(stage, len(self.stage_weights) - 1)]",
        "return self.stage_weights[min(max(stage - 1, 0), len(self.stage_weights) - 1)]",
        ("tests/unit/test_criterion_sets.py",),
    ),
    Fault(
        "a gradient that overflows in fp16 ends the training",
        "engine/metrics.py",
        "if not self._skipping and not math.isfinite",
        "if not math.isfinite",
        ("tests/unit/test_engine_trainer.py",),
    ),
    Fault(
        "a smaller decoder gets the weights of the wrong stage",
        "checkpoint/stages.py",
        "for (name, rest), value in parts[old].items()",
        "for (name, rest), value in parts[new].items()",
        ("tests/unit/test_convert_stages.py",),
    ),
    Fault(
        "the backward pass of attention forgets what was dropped",
        "layers/cpu/attention.py",
        "            grad_map *= factor\n",
        "",
        ("tests/unit/test_attention.py",),
    ),
    Fault(
        "costs, which are negative scores, order backwards",
        "matching/score_matcher.py",
        "bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)",
        "bits = bits + 0",
        ("tests/unit/test_matching_fixed_number.py",),
    ),
    Fault(
        "suppression after the best are taken",
        "modeling/postprocess.py",
        "self.top_k is None else self.nms_of",
        "self.top_k is None else self.top_k",
        ("tests/unit/test_postprocess.py",),
    ),
    Fault(
        "a box that misses its object has no class loss",
        "criterion/quality_losses.py",
        "return value.where(target > 0, negative(x_P, self.alpha, self.gamma))",
        "return value",
        ("tests/unit/test_quality_losses.py",),
    ),
    Fault(
        "twins of recollected sets are added anew in every stage",
        "strategies/divide_and_conquer.py",
        's.path == "recollect" and s.domain not in known',
        's.path == "recollect"',
        ("tests/unit/test_divide_and_conquer.py",),
    ),
    Fault(
        "the objectness of an official file is written as a category",
        "checkpoint/layouts/official_written.py",
        "ids = range(80) if of_encoder and not dino else COCO_IDS",
        "ids = COCO_IDS",
        ("tests/unit/test_checkpoint_official.py",),
    ),
    Fault(
        "what an abandoned part of a training left stays the newest",
        "checkpoint/rewinding.py",
        "if path != source and _at(path) > iteration]",
        "if path != source and _at(path) > math.inf]",
        ("tests/unit/test_rewinding.py",),
    ),
    Fault(
        "the checkpoint that is gone on with is pruned",
        "checkpoint/rewinding.py",
        "if path != tagged:",
        "if path != written:",
        ("tests/unit/test_rewinding.py",),
    ),
    Fault(
        "a process that is stopped is waited for",
        "engine/watch.py",
        "0 < self.limit <= for_s",
        "0 < self.limit <= for_s / 100",
        ("tests/unit/test_lost_processes.py",),
    ),
    Fault(
        "a broken connection is told in place of what broke it",
        "engine/failures.py",
        'if reports[rank].kind in ("user", "numbers", "lost")), None)',
        'if reports[rank].kind in ("connection", *_KINDS)), None)',
        ("tests/unit/test_lost_processes.py",),
    ),
    Fault(
        "a run that was made longer is predicted with as it was before",
        "checkpoint/run_folder.py",
        "            yield tagged\n",
        "            yield self.final\n",
        ("tests/unit/test_run_folder.py",),
    ),
    Fault(
        "trained weights are predicted with where averaged ones were evaluated",
        "checkpoint/weights.py",
        "else AVERAGE if saved.data.get(AVERAGE) else TRAINED",
        "else TRAINED",
        ("tests/unit/test_run_folder.py",),
    ),
    Fault(
        "a bound of an option is not a value of it",
        "config/options_types.py",
        "value >= self.least",
        "value > self.least",
        ("tests/unit/test_config_options.py",),
    ),
    Fault(
        "a norm of zero clips every gradient to nothing",
        "engine/optim.py",
        'clip["params"]["max_norm"] == 0',
        'clip["params"]["max_norm"] is None',
        ("tests/unit/test_config_options.py",),
    ),
    Fault(
        "a rounded first cell is the first that is looked at",
        "layers/fcos_targets.py",
        "else math.ceil(2 * radius) + 2",
        "else math.ceil(2 * radius)",
        ("tests/unit/test_fcos_targets.py",),
    ),
    Fault(
        "of two objects around a point the large one takes it",
        "layers/fcos_targets.py",
        "entry = first_least(key, area, places)",
        "entry = first_least(key, -area, places)",
        ("tests/unit/test_fcos_targets.py",),
    ),
    Fault(
        "an object takes the worst of its candidates",
        "matching/restricted.py",
        "first_least(segment_P, self.cost(stack, targets, gt_BQ).flatten(), N * G)",
        "first_least(segment_P, -self.cost(stack, targets, gt_BQ).flatten(), N * G)",
        ("tests/unit/test_matching_restricted.py",),
    ),
    Fault(
        "the boxes of matched tokens alone are regressed",
        "matching/restricted.py",
        'every if self.box_on == "candidates" else matched',
        "matched",
        ("tests/unit/test_tsp_losses.py",),
    ),
    Fault(
        "matched tokens count as little as other candidates",
        "matching/restricted.py",
        "index_fill(0, row_P.where(found_P, len(weight)), 1.0)",
        "index_fill(0, row_P.where(found_P, len(weight)), self.eos)",
        ("tests/unit/test_tsp_losses.py", "tests/unit/test_matching_restricted.py"),
    ),
    Fault(
        "where nothing is matched losses are divided by zero",
        "criterion/fcos_losses.py",
        "matched_N, candidates_N = mean.clamp(min=1).unbind(0)",
        "matched_N, candidates_N = mean.unbind(0)",
        ("tests/unit/test_tsp_losses.py",),
    ),
    Fault(
        "easy background has a gradient through its weight",
        "criterion/roi_losses.py",
        "log_p[:, -1].detach().exp()",
        "log_p[:, -1].exp()",
        ("tests/unit/test_tsp_losses.py",),
    ),
    Fault(
        "candidates of objects come first at inference too",
        "modeling/encoders/foi.py",
        "targets = targets if self.training else None",
        "targets = targets",
        ("tests/unit/test_tsp_fcos.py",),
    ),
    Fault(
        "points in the padding may be chosen",
        "modeling/encoders/foi.py",
        "scores_BP.masked_fill(pad_BP, -1.0)",
        "scores_BP.masked_fill(pad_BP, 0.5)",
        ("tests/unit/test_tsp_fcos.py",),
    ),
    Fault(
        "positions are added to the values too",
        "layers/attention.py",
        "split_heads(self._project(x_BLC, 2 * dim, 3 * dim), self.num_heads)",
        "split_heads(self._project(_placed(x_BLC, pos_BLC), 2 * dim, 3 * dim), self.num_heads)",
        ("tests/unit/test_set_encoder.py",),
    ),
    Fault(
        "the residual of a pre-norm layer is the normed tokens",
        "layers/set_encoder.py",
        "x_BNC = x_BNC + self.dropout(attended)",
        "x_BNC = self.norms[0](x_BNC) + self.dropout(attended)",
        ("tests/unit/test_set_encoder.py",),
    ),
    Fault(
        "factors of levels go by the wrong level",
        "modeling/decoders/set_head.py",
        "(level_BTL.to(ref.dtype) * self.scales).sum(-1)",
        "(level_BTL.to(ref.dtype) * self.scales.flip(0)).sum(-1)",
        ("tests/unit/test_tsp_fcos_head.py",),
    ),
    Fault(
        "the seventh level is made without the ReLU of the sixth",
        "modeling/necks/fpn.py",
        "level(F.relu(results[-1]) if i else results[-1])",
        "level(results[-1])",
        ("tests/unit/test_set_encoder.py",),
    ),
    Fault(
        "a case that hangs keeps its process",
        "gpu_check/watch.py",
        "now - self.case_since >= step.case_seconds",
        "now - self.case_since >= 1e9",
        ("tests/unit/test_gpu_check.py",),
    ),
    Fault(
        "a loss that is not a number is not the largest difference",
        "gpu_check/steps.py",
        'float("inf") if math.isnan(values[name]) else values[name]',
        "values[name]",
        ("tests/unit/test_gpu_check.py",),
    ),
    Fault(
        "what a kernel did to the GPU is told of the next case",
        "gpu_check/worker.py",
        "        row = case.run()\n        _wait()  # what the GPU has to object belongs to this case\n",
        "        row = case.run()\n",
        ("tests/unit/test_gpu_check.py",),
    ),
)
