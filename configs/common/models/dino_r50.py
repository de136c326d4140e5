"""DINO with a ResNet-50 (arXiv 2203.03605): Deformable-DETR with mixed selection, denoising and look-forward-twice.
"""

from detrex_ext import get_config
from detrex_ext.criterion import Rule
from detrex_ext.matching import GivenMatcher
from detrex_ext.modeling.queries import DenoisingQueries, TwoStageQueries
from detrex_ext.runtime import LazyCall as L

model = get_config("common/models/deformable_detr_r50.py").model

model.encoder.update(ffn_dim=2048, dropout=0.0, temperature=10000.0, offset=-0.5, checkpoint=False)
model.queries = L(DenoisingQueries)(
    source=L(TwoStageQueries)(
        num_classes="${model.num_classes}",
        num_queries=900,
        dim="${model.dim}",
        content="learned",
        score="max",
        supervise="selected",
    ),
    num_classes="${model.num_classes}",
    dim="${model.dim}",
    number=100,
    label_noise_ratio=0.5,
    box_noise_scale=1.0,
    inverse_sigmoid_eps="${model.decoder.inverse_sigmoid_eps}",
)
model.decoder.update(
    ffn_dim=2048,
    dropout=0.0,
    refine=True,
    position="reference",
    look_forward_twice=True,
    post_norm=True,
    first_size_logit=0.0,
)
model.rules.enc = L(Rule)(matcher="${model.rules.main.matcher}", terms="${model.rules.main.terms}")
model.rules.dn = L(Rule)(matcher=L(GivenMatcher)(), terms="${model.rules.main.terms}")
