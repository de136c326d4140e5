"""A two-stage DETR of 2.8 M parameters that learns from nothing on a CPU or a small GPU, for any COCO-format JSON.

Override the data set's four paths; see the README. Measured recipe: no pretrained weights, batch 8, bf16 where the
device has instructions for it.
"""

from detrex_ext import get_config
from detrex_ext.criterion import Rule
from detrex_ext.matching import GivenMatcher
from detrex_ext.modeling.backbones import BasicResNet
from detrex_ext.modeling.encoders import FlattenEncoder
from detrex_ext.modeling.necks import PAFPN
from detrex_ext.modeling.queries import DenoisingQueries, TwoStageQueries
from detrex_ext.runtime import LazyCall as L

_data = get_config("common/data/affine.py")
dataset, dataloader = _data.dataset, _data.dataloader
model = get_config("common/models/deformable_detr_r50.py").model
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_constant_cosine
train = get_config("common/train.py").train

model.update(dim=128, num_levels=3)
model.backbone = L(BasicResNet)(
    stem=[16, 32], widths=[32, 64, 128, 192], blocks=[1, 1, 1, 1], out_features=["res3", "res4", "res5"]
)
model.neck = L(PAFPN)(in_channels=dict(res3=64, res4=128, res5=192), out_channels="${model.dim}")
model.encoder = L(FlattenEncoder)()
model.queries = L(DenoisingQueries)(
    source=L(TwoStageQueries)(
        num_classes="${model.num_classes}",
        num_queries=60,
        dim="${model.dim}",
        content="learned",
        score="max",
        supervise="selected",
        anchor_size=0.08,
    ),
    num_classes="${model.num_classes}",
    dim="${model.dim}",
    groups=2,
    label_noise_ratio=0.5,
    box_noise_scale=0.4,
    inverse_sigmoid_eps="${model.decoder.inverse_sigmoid_eps}",
)
model.decoder.update(
    ffn_dim=512,
    dropout=0.0,
    num_layers=3,
    refine=True,
    position="reference",
    first_size_logit=0.0,
)
model.postprocess.top_k = 100
model.rules.main.terms["class"].weight = 2.0
model.rules.enc = L(Rule)(matcher="${model.rules.main.matcher}", terms="${model.rules.main.terms}")
model.rules.dn = L(Rule)(matcher=L(GivenMatcher)(), terms="${model.rules.main.terms}")

optimizer.lr = 1.5e-3
optimizer.weight_decay = 1e-4
optimizer.fused = True
# no decay on 1-d parameters
optimizer.params.weight_decay_bias = 0.0
optimizer.params.overrides = {"in_proj_bias": dict(weight_decay=0.0)}
lr_multiplier.warmup_iters = 50

train.output_dir = "./output/small"
train.max_iter = 2000
train.device = "cpu"
train.channels_last = True
train.clip_grad.enabled = True
train.clip_grad.params.max_norm = 1.0
train.reference_batch = 8
train.eval_period = 500
train.checkpointer.period = 500
train.checkpointer.max_to_keep = 2
train.model_ema.update(enabled=True, decay=0.995, warmup=True)
dataloader.train.total_batch_size = 8
