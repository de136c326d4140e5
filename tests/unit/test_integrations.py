"""What ``from_detrex`` reads off parts, on stand-ins with their attributes; tests/parity has detrex itself."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from detrex_ext.config import load_config
from detrex_ext.errors import UserError
from detrex_ext.integrations import as_guest, from_detrex, guest_parts
from detrex_ext.modeling.backbones import ResNet
from detrex_ext.runtime import LazyCall as L


def criterion(**weights):
    matcher = SimpleNamespace(
        cost_class=2.0, cost_bbox=4.0, cost_giou=1.0, cost_class_type="focal_loss_cost", alpha=0.3, gamma=1.5
    )
    base = {"loss_class": 1, "loss_bbox": 5.0, "loss_giou": 2.0}
    own = dict(loss_class_type="focal_loss", alpha=0.25, gamma=2.0, eos_coef=0.1, matcher=matcher)
    return SimpleNamespace(criterion=SimpleNamespace(**own, weight_dict={**base, **weights}), aux_loss=True)


def test_supervision_is_that_of_the_criterion():
    model = criterion(loss_bbox_0=5.0, loss_class_enc=3.0, loss_class_dn=0.5, loss_class_dn_0=0.5)
    rules = guest_parts.rules(model, ("main", "enc", "dn"), objectness=True)
    weights = {g: [t.weight for t in r.terms.values()] for g, r in rules.items()}
    assert weights == {"main": [1, 5, 2], "enc": [3, 1, 1], "dn": [0.5, 1, 1]}
    assert [c.weight for c in rules["main"].matcher.costs] == [2, 4, 1]
    assert [r.objectness for r in rules.values()] == [False, True, False]
    with pytest.raises(UserError, match="weights of loss_bbox differ between layers"):
        guest_parts.rules(criterion(loss_bbox_3=1.0), ("main",))
    with pytest.raises(UserError, match="aux_loss=False"):
        guest_parts.rules(SimpleNamespace(**{**vars(model), "aux_loss": False}), ("main",))


@pytest.mark.parametrize("depth, freeze_at", [(18, 1), (34, 3), (50, 0)])
def test_a_resnet_is_known_by_its_blocks(depth, freeze_at):
    with torch.device("meta"):
        guest = ResNet(depth, ["res3", "res5"], freeze_at)
        guest.stage_names, guest._out_features = ("res2", "res3", "res4", "res5"), ["res3", "res5"]
        ours = guest_parts.backbone(guest)
        assert ours.state_dict().keys() == guest.state_dict().keys() and ours.out_features == ("res3", "res5")
        trained = [[n for n, p in m.named_parameters() if p.requires_grad] for m in (guest, ours)]
        assert trained[0] == trained[1]
        guest.res5[0].conv2.dilation = (2, 2)
        assert guest_parts.backbone(guest) is None
        assert guest_parts.backbone(nn.Conv2d(3, 4, 1)) is None


def test_mean_and_deviation_are_found_in_the_normalizer():
    pixel_mean, pixel_std = torch.tensor([[[1.0]], [[2.0]], [[3.0]]]), torch.tensor([[[4.0]], [[5.0]], [[6.0]]])
    model = SimpleNamespace(normalizer=lambda x: (x - pixel_mean) / pixel_std)
    found = guest_parts.preprocess(model, parity_padding=True)
    assert torch.equal(found.pixel_mean, pixel_mean) and torch.equal(found.pixel_std, pixel_std)
    assert found.parity_padding


def test_the_number_of_classes_of_a_guest_has_one_place():
    model = L(nn.Linear)(in_features=2, out_features=3, device="cuda", num_classes=80, criterion={"num_classes": 80})
    node = as_guest(model)
    node.num_classes = 5
    assert node.guest.num_classes == node.guest.criterion.num_classes == 5 and node.guest.device == "cpu"
    assert model.device == "cuda" and model.num_classes == 80


FILE_OF_DETREX = """
from detrex_ext.runtime import LazyCall as L
model = L("builtins.dict")(num_queries=7, num_classes=80,
                           criterion=dict(num_classes=80, queries="${..num_queries}"))
dataloader = dict(train=dict(total_batch_size=6, num_workers=1))
train = dict(max_iter=9, wandb=dict(enabled=False), model_ema=dict(enabled=False, use_ema_weights_for_eval_only=True))
optimizer, lr_multiplier = L("builtins.dict")(lr=1e-4, params=dict(f=lambda name: 1)), dict()
"""


def test_a_config_file_of_detrex_under_the_overlay(tmp_path):
    (tmp_path / "theirs.py").write_text(FILE_OF_DETREX)
    cfg = load_config(tmp_path / "theirs.py", ["from_detrex"], ["dataset.train_json=a.json", "train.seed=3"])
    assert cfg.model.guest.criterion.queries == 7
    assert cfg.model.num_classes is None and cfg.model.guest.criterion.num_classes is None
    assert cfg.dataloader.train.total_batch_size == 6 and cfg.dataloader.train.dataset.json == "a.json"
    assert cfg.train.max_iter == 9 and cfg.train.log_period == 20 and cfg.train.model_ema.average is True
    with pytest.raises(UserError, match="from_detrex is for a config file of detrex; this one needs none"):
        load_config("small", ["from_detrex"])


def test_what_is_no_model_of_detrex():
    with pytest.raises(UserError, match="Linear is none of detrex's DeformableDETR, DINO, DABDETR, DETR"):
        from_detrex(nn.Linear(1, 1))
    with pytest.raises(UserError, match="expected a detrex model or its config, found keys train"):
        from_detrex({"train": 1})
