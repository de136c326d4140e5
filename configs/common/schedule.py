"""Learning-rate schedules: factors on ``optimizer.lr`` over the progress of the training.

The ``lr_multiplier_{N}ep`` steps are COCO's at batch 16 (7,500 iterations an epoch); a schedule is a function of
progress, so another ``train.max_iter`` scales it. Warm-up is counted in iterations: ``lr_multiplier.warmup_iters=500``.
"""

from fvcore.common.param_scheduler import CosineParamScheduler

from detrex_ext.engine.schedule import constant_then_cosine, multistep_schedule, warmed_up
from detrex_ext.runtime import LazyCall as L

_EPOCH = 7500


def multistep(milestones, end, gamma=0.1):
    """Factor 1, times ``gamma`` at each milestone; milestones and end in iterations or any other unit."""
    return _warmed_up(L(multistep_schedule)(milestones=list(milestones), end=end, gamma=gamma))


def cosine(end_factor=0.01):
    """From 1 to ``end_factor`` along half a cosine."""
    return _warmed_up(L(CosineParamScheduler)(start_value=1.0, end_value=end_factor))


def constant_cosine(constant=0.7, end_factor=0.01):
    """1 for the fraction ``constant`` of the training, then a cosine down to ``end_factor``."""
    return _warmed_up(L(constant_then_cosine)(constant=constant, end_factor=end_factor))


def flat_cosine(constant=0.57, end_factor=0.5, tail=0.14):
    """1, then a cosine down to ``end_factor``, then flat there for the last ``tail``; DEIM's fractions (2412.04234)."""
    return _warmed_up(L(constant_then_cosine)(constant=constant, end_factor=end_factor, tail=tail))


def _warmed_up(scheduler):
    return L(warmed_up)(scheduler=scheduler, warmup_iters=0, warmup_factor=0.001, max_iter="${train.max_iter}")


lr_multiplier_50ep = multistep([40 * _EPOCH], 50 * _EPOCH)
lr_multiplier_36ep = multistep([30 * _EPOCH], 36 * _EPOCH)
lr_multiplier_24ep = multistep([20 * _EPOCH], 24 * _EPOCH)
lr_multiplier_12ep = multistep([11 * _EPOCH], 12 * _EPOCH)
lr_multiplier_cosine = cosine()
lr_multiplier_constant_cosine = constant_cosine()
lr_multiplier_flat_cosine = flat_cosine()
