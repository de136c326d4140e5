"""Names of before, and what they are called now: configs, checkpoints and command lines that use them still work.

Each use is told once in the log, with the new name.
"""

from __future__ import annotations

# `_target_` of a config: where the class or function was -> where it is.
TARGETS: dict[str, str] = {
    "detrex_ext.evaluation.QueryEvaluator": "detrex_ext.analysis.queries.QueryEvaluator",
    "detrex_ext.evaluation.StageEvaluator": "detrex_ext.analysis.stages.StageEvaluator",
    "detrex_ext.evaluation.queries.QueryEvaluator": "detrex_ext.analysis.queries.QueryEvaluator",
    "detrex_ext.evaluation.stages.StageEvaluator": "detrex_ext.analysis.stages.StageEvaluator",
    "detrex_ext.matching.by_score.ScoreMatcher": "detrex_ext.matching.ScoreMatcher",
    "detrex_ext.data.cache.SampleCache": "detrex_ext.data.mapper.SampleCache",
    "detrex_ext.data.fetch.MappedDataset": "detrex_ext.data.mapper.MappedDataset",
    "detrex_ext.evaluation.truth.GroundTruth": "detrex_ext.data.ground_truth.GroundTruth",
}

# Config keys: before -> now.
KEYS: dict[str, str] = {
    "dataloader.evaluator.pictures": "dataloader.evaluator.images",
    "train.wandb.enabled": "train.writers.wandb",
    "train.model_ema.use_ema_weights_for_eval_only": "train.model_ema.average",
}
