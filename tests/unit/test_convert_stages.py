"""`convert --inference-stages`: the stages that inference runs, as a smaller model with the same answers."""

from __future__ import annotations

import pytest
import torch

from detrex_ext import load
from detrex_ext.checkpoint import read_checkpoint
from detrex_ext.checkpoint.stages import inference_stages
from detrex_ext.cli import dispatch
from detrex_ext.config import find_config, load_config, save_config
from detrex_ext.inference import build_for_inference
from detrex_ext.runtime import instantiate
from detrex_ext.testing import example_batch


def trained(name, folder, *overrides):
    """A run folder as a training leaves it: config.yaml, and a model with other weights than a fresh one."""
    cfg = load_config(find_config(name), ["tiny"], ["model.num_classes=4", *overrides])
    torch.manual_seed(0)
    model = instantiate(cfg.model).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    save_config(cfg, folder / "config.yaml")
    torch.save({"model": model.state_dict(), "class_names": list("abcd")}, folder / "model_final.pth")
    return model


def convert(folder):
    files = [folder / "model_final.pth", folder / "small.pth"]
    return dispatch(["convert", *map(str, files), "--config-file", str(folder), "--inference-stages"])


@pytest.mark.parametrize(
    "name, run, kept",
    [
        ("adamixer_r50_12ep_dqrr", None, 1),
        ("dino_r50_4scale_12ep", "[2,2]", 1),
        ("deformable_detr_r50_box_refine_50ep", "[0,2,2]", 2),
        ("detr_r50_300ep", "[1,1,1]", 1),
        ("dab_detr_r50_50ep", "[0,2]", 2),
    ],
)
def test_the_smaller_model_gives_the_same_answers(name, run, kept, tmp_path, capsys):
    model = trained(name, tmp_path, *([f"model.decoder.eval_order={run}"] if run else []))
    assert convert(tmp_path) == 0 and "with decoder stages" in capsys.readouterr().out
    small = load(tmp_path / "small.pth").model
    assert small.decoder.num_layers == len(small.decoder.layers) == kept
    items = example_batch(4)
    with torch.no_grad():
        expected, found = model.forward_sets(items), small.forward_sets(items)
    assert len(expected) == len(found) and len(model.decoder.eval_order) == len(small.decoder.eval_order)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a.logits_BQK, b.logits_BQK) and torch.equal(a.boxes_BQ4, b.boxes_BQ4)
    state = read_checkpoint(tmp_path / "small.pth")["model"]
    assert sum(v.numel() for v in state.values()) < sum(v.numel() for v in model.state_dict().values())


def test_a_first_stage_of_its_own_kind_has_no_substitute(tmp_path, capsys):
    """DAB-DETR's first layer has a projection that the others lack."""
    trained("dab_detr_r50_50ep", tmp_path, "model.decoder.eval_order=[2,2]")
    assert convert(tmp_path) == 2
    error = capsys.readouterr().err
    assert "stage 2 cannot become stage 0" in error and "query_pos_proj" in error
    assert not (tmp_path / "small.pth").exists()


def test_inference_stages_come_from_a_config(tmp_path, capsys):
    assert dispatch(["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), "--inference-stages"]) == 2
    assert "--inference-stages needs --config-file" in capsys.readouterr().err


def test_a_host_that_names_neither_order_nor_number_of_stages_keeps_all():
    cfg = load_config(find_config("detr_r50_300ep"), ["sqr", "tiny"], ["model.num_classes=4"])
    del cfg.model.decoder.num_layers
    small, kept = inference_stages(cfg, build_for_inference(cfg).decoder.eval_order)
    assert kept == list(range(6)) and list(small.model.decoder.eval_order) == kept and not small.model.strategies
    assert cfg.model.strategies  # the config of the training is not changed
    assert build_for_inference(small).decoder.eval_order == tuple(range(6))
