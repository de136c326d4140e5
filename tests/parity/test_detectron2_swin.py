"""Our Swin Transformer against detectron2's, the one that detrex's Swin configs use, at sizes of no whole windows."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.modeling.backbones import SwinTransformer

STAGES = ("res2", "res3", "res4", "res5")


@pytest.mark.parametrize("size", [(132, 196), (70, 101), (32, 33)])
def test_names_and_features_equal_detectron2(size):
    swin = pytest.importorskip("detectron2.modeling.backbone.swin", reason="detectron2 is not importable")
    torch.manual_seed(0)
    options = {"depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 5}
    reference = swin.SwinTransformer(embed_dim=8, drop_path_rate=0.3, **options).double().eval()
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model = SwinTransformer(8, **options, out_features=STAGES, drop_path=0.3).double().eval()
    assert reference.state_dict().keys() == model.state_dict().keys()
    model.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    wanted, found = reference(images), model(images)
    for want, got in zip(wanted.values(), found.values(), strict=True):
        assert torch.allclose(got, want, atol=1e-11)
    for out in (wanted, found):
        sum(x.square().mean() for x in out.values()).backward()
    ours = dict(model.named_parameters())
    for name, p in reference.named_parameters():
        assert torch.allclose(ours[name].grad, p.grad, rtol=1e-8, atol=1e-11), name


def test_the_probability_to_skip_rises_as_in_detectron2():
    swin = pytest.importorskip("detectron2.modeling.backbone.swin", reason="detectron2 is not importable")
    reference = swin.SwinTransformer(embed_dim=8, num_heads=(1, 2, 2, 4), drop_path_rate=0.3)
    model = SwinTransformer(8, num_heads=(1, 2, 2, 4), drop_path=0.3)
    wanted = [getattr(b.drop_path, "drop_prob", 0.0) for layer in reference.layers for b in layer.blocks]
    assert [b.rate for stage in model.layers for b in stage.blocks] == pytest.approx(wanted)
