"""Files of other projects, made here from ours by renaming tables of this file's own, and back."""

import copy
import re
import sys

import pytest
import torch

from detrex_ext.checkpoint import load_state, load_weights
from detrex_ext.checkpoint.coco import COCO_IDS, COCO_NAMES
from detrex_ext.checkpoint.layouts import recognize, to_layout
from detrex_ext.errors import UserError
from detrex_ext.modeling.backbones import ResNet, SwinTransformer
from detrex_ext.modeling.decoders import DeformableDecoder, DETRDecoder
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.encoders import DeformableEncoder, DenseEncoder
from detrex_ext.modeling.necks import ChannelMapper, InputProj
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.modeling.preprocess import Preprocess
from detrex_ext.modeling.queries import (
    DenoisingQueries,
    GroupQueries,
    HybridQueries,
    LearnedQueries,
    PositionQueries,
    TwoStageQueries,
)

DIM, LAYERS = 32, 2
KINDS = ("plain", "refine", "two_stage", "mixed", "dac", "dino", "detr")
NAMES = dict(plain="official Deformable-DETR", mixed="official H-DETR, DAC-DETR or MS-DETR", dino="official DINO")
NAMES |= dict(refine=NAMES["plain"], two_stage=NAMES["plain"], dac=NAMES["mixed"], detr="official DETR")


def model_of(kind, classes=80, queries=5):
    """A narrow model of a kind, its weights random."""
    torch.manual_seed(3)
    sizes = {"dim": DIM, "num_heads": 4, "ffn_dim": 16, "dropout": 0.0, "num_layers": LAYERS}
    backbone = ResNet(18, ["res3", "res4", "res5"] if kind != "detr" else ["res5"])
    if kind == "detr":
        neck, encoder = InputProj(512, DIM), DenseEncoder(**sizes)
        source, decoder = PositionQueries(queries, DIM), DETRDecoder(classes, **sizes)
    else:
        neck = ChannelMapper(dict(res3=128, res4=256, res5=512), DIM, 4)
        encoder = DeformableEncoder(**sizes, num_points=2)
        more = dict(position="reference", post_norm=True) if kind == "dino" else {}
        decoder = DeformableDecoder(classes, **sizes, num_points=2, refine=kind != "plain", **more)
        content = {"mixed": "mixed", "dac": "mixed", "dino": "learned"}.get(kind, "projected")
        source = TwoStageQueries(classes, queries, DIM, content, "max" if kind == "dino" else "objectness")
        if kind in ("plain", "refine"):
            source = LearnedQueries(queries, DIM)
        if kind in ("dac", "dino"):
            source = DenoisingQueries(source, classes, DIM)
    model = Detector(Preprocess(), backbone, neck, encoder, source, decoder, Postprocess(), classes)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.normal_()
    return model


def torchvision_name(key):
    key = key.replace("stem.conv1.norm", "bn1").replace("stem.conv1", "conv1")
    key = re.sub(r"res(\d)", lambda m: f"layer{int(m[1]) - 1}", key)
    key = re.sub(r"(?<=\.)conv(\d)\.norm", r"bn\1", key)
    return key.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")


PARTS = {
    "encoder": {"attentions.0": "self_attn", "norms.0": "norm1", "norms.1": "norm2"},
    "decoder": {"attentions.0.attn": "self_attn", "attentions.1": "cross_attn"}
    | {"norms.0": "norm2", "norms.1": "norm1", "norms.2": "norm3"},
}
DETR_PARTS = {
    "encoder": {"attentions.0.attn": "self_attn", "norms.0": "norm1", "norms.1": "norm2"},
    "decoder": {"attentions.0.attn": "self_attn", "attentions.1.attn": "multihead_attn"}
    | {f"norms.{i}": f"norm{i + 1}" for i in range(3)},
}
FFN = {"ffns.0.layers.0.0": "linear1", "ffns.0.layers.1": "linear2"}


def with_ids(rows, kind):
    """Rows of 80 classes among those of 91 ids; the rest is noise that must not arrive anywhere."""
    out = torch.randn(92 if kind in ("detr", "labels") else 91, *rows.shape[1:])
    if kind == "objects":
        out[:80] = rows
    else:
        out[list(COCO_IDS)] = rows[:80]
    if kind == "detr":
        out[91] = rows[80]
    return out


def official(model, kind):
    """The model's tensors as the authors of its kind write them."""
    out = {}
    parts = DETR_PARTS if kind == "detr" else PARTS
    for key, value in model.state_dict().items():
        key = key.replace("queries.source.", "queries.")
        if key.startswith("backbone."):
            out["backbone.0.body." + torchvision_name(key.removeprefix("backbone."))] = value
        elif layer := re.match(r"(encoder|decoder)\.layers\.(\d)\.(.+)\.(\w+)$", key):
            table, inner = FFN | parts[layer[1]], layer[3]
            name = next(inner.replace(ours, theirs, 1) for ours, theirs in table.items() if inner.startswith(ours))
            joined = f"{name}.{layer[4]}"
            out[f"transformer.{layer[1]}.layers.{layer[2]}.{joined}"] = value
        elif head := re.match(r"(decoder|queries)\.(class|bbox)_embed\.(.+)$", key):
            put_head(out, kind, *head.groups(), value)
        elif level := re.match(r"neck\.(extra_)?convs\.(\d)\.(conv|norm)\.(\w+)$", key):
            out[f"input_proj.{3 if level[1] else level[2]}.{int(level[3] == 'norm')}.{level[4]}"] = value
        elif key == "queries.label_enc.weight":
            out["label_enc.weight"] = with_ids(value, "labels")
        else:
            simple = {"encoder.level_embeds": "transformer.level_embed", "neck.input_proj": "input_proj"}
            simple |= {"decoder.post_norm_layer": "transformer.decoder.norm", "decoder.": "transformer.decoder."}
            simple |= {"queries.query_embedding": "query_embed", "queries.query_embed": "query_embed"}
            simple |= {"queries.tgt_embed": "transformer.tgt_embed" if kind == "dino" else "query_embed"}
            simple |= {"queries.": "transformer."}
            ours = next(name for name in simple if key.startswith(name))
            out[key.replace(ours, simple[ours], 1)] = value
    return out


def put_head(out, kind, where, head, rest, value):
    if head == "class":
        by = "detr" if kind == "detr" else "objects" if where == "queries" and kind != "dino" else "classes"
        value = with_ids(value, by)
    if kind == "detr":
        out[f"{head}_embed.{rest}"] = value
    elif where == "queries":
        names = [f"{head}_embed.{LAYERS}.{rest}", f"transformer.decoder.{head}_embed.{LAYERS}.{rest}"]
        out.update(dict.fromkeys([f"transformer.enc_out_{head}_embed.{rest}"] if kind == "dino" else names, value))
    else:
        index, rest = rest.split(".", 1)
        for i in range(LAYERS) if kind == "plain" else [index]:
            out[f"{head}_embed.{i}.{rest}"] = value
            if kind not in ("plain", "refine") or (kind == "refine" and head == "bbox"):
                out[f"transformer.decoder.{head}_embed.{i}.{rest}"] = value


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("kind", KINDS)
def test_the_authors_files_fill_our_models(kind, tmp_path):
    model, other = model_of(kind), model_of(kind)
    theirs = official(model, kind)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    assert recognize(theirs).name == NAMES[kind]
    torch.save({"model": theirs, "epoch": 3}, tmp_path / "x.pth")
    report = load_weights(other, tmp_path / "x.pth")
    assert report.complete and not report.dropped and equal(model, other)
    heads = [k for k in model.state_dict() if "class_embed" in k or "label_enc" in k]
    assert sorted(done.key for done in report.sliced) == sorted(heads)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "detr"])
def test_our_models_are_written_as_the_authors_files(kind):
    model, other = model_of(kind), model_of(kind)
    written, theirs = to_layout(model, "official"), official(model, kind)
    assert {k: v.shape for k, v in written.items()} == {k: v.shape for k, v in theirs.items()}
    for key, value in written.items():
        if "class_embed" not in key and "label_enc" not in key:
            assert torch.equal(value, theirs[key]), key
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    report = load_state(other, written)
    assert report.complete and not report.dropped and not report.unexpected and equal(model, other)
    if kind != "plain":
        # ids that are no class are never answered
        logits = torch.randn(5, DIM) @ written["class_embed.0.weight"].T + written["class_embed.0.bias"]
        assert (logits[:, [i for i in range(91) if i not in COCO_IDS]] < -10).all()


@pytest.mark.parametrize("kind, classes", [("mixed", 91), ("dac", 91), ("dac", 4), ("dino", 91), ("dino", 4)])
def test_files_of_other_numbers_of_classes_keep_all_rows_both_ways(kind, classes):
    model, other = (model_of(kind, classes) for _ in range(2))
    written, coco = to_layout(model, "official"), to_layout(model_of(kind), "official")
    assert written.keys() == coco.keys() and len(written["class_embed.0.bias"]) == classes
    assert classes == 4 or all(written[k].shape == coco[k].shape for k in coco)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    assert load_state(other, written).complete and equal(model, other)


def test_a_dac_file_has_as_many_entries_as_the_published_list(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "LAYERS", 6)
    written = to_layout(model_of("dac"), "official")
    own = [k for k in written if not k.startswith("backbone.")]
    alias = [k for k in own if k.startswith(("transformer.decoder.class_embed", "transformer.decoder.bbox_embed"))]
    assert (len(own), len(alias)) == (367, 56)
    assert written["class_embed.6.weight"].shape[0] == 91 and written["label_enc.weight"].shape[0] == 92


def test_one_decoder_layer_by_the_published_names():
    """The list is of the authors' code; the norm after self-attention is their second."""
    theirs = official(model_of("two_stage"), "two_stage")
    linear = [f"{n}.{w}" for n in ("linear1", "linear2", "norm1", "norm2", "norm3") for w in ("weight", "bias")]
    self_attn = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    parts = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    cross = [f"cross_attn.{n}.{w}" for n in parts for w in ("weight", "bias")]
    prefix = "transformer.decoder.layers.1."
    expected = {prefix + k for k in (*linear, *cross, *(f"self_attn.{n}" for n in self_attn))}
    assert {k for k in theirs if k.startswith(prefix)} == expected
    other = model_of("two_stage")
    load_state(other, theirs | {f"{prefix}norm2.weight": torch.full((DIM,), 7.0)})
    assert (other.decoder.layers[1].norms[0].weight == 7).all()


def test_a_model_of_91_classes_keeps_all_rows():
    theirs = official(model_of("refine"), "refine")
    report = load_state(model := model_of("refine", classes=91), theirs)
    assert not report.sliced
    assert torch.equal(model.decoder.class_embed[1].weight, theirs["class_embed.1.weight"])


def test_queries_of_one_to_many_training_are_left_behind():
    model = model_of("mixed", queries=30)
    other = model_of("mixed", queries=5)
    report = load_state(other, official(model, "mixed"))
    assert torch.equal(other.queries.tgt_embed.weight, model.queries.tgt_embed.weight[:5])
    assert "queries.tgt_embed.weight: 30 -> 5 rows, the first, one-to-one queries" in str(report)


def hybrid(kind, extra=25):
    """A model of a kind with extra queries around its source, and how its own and the extra rows are called."""
    model = model_of(kind)
    inner = isinstance(model.queries, DenoisingQueries)
    made = HybridQueries(model.queries.source if inner else model.queries, extra)
    setattr(*((model.queries, "source") if inner else (model, "queries")), made)
    return model, made


@pytest.mark.parametrize("kind", ["plain", "mixed", "dac"])
def test_queries_of_one_to_many_training_become_extra_queries(kind):
    theirs = official(model_of(kind, queries=30), kind)
    model, made = hybrid(kind)
    report = load_state(model, theirs)
    assert report.complete
    assert torch.equal(torch.cat([made.source.rows().weight, made.extra.weight]), theirs["query_embed.weight"])
    other, left = hybrid(kind, extra=7)
    report = load_state(other, theirs, strict=False)
    assert [key.rpartition(".extra.")[2] for key in report.missing] == ["weight"]
    assert torch.equal(left.source.rows().weight, theirs["query_embed.weight"][:5])


@pytest.mark.parametrize("kind", ["plain", "dino"])
@pytest.mark.parametrize("source", [HybridQueries, GroupQueries])
def test_files_with_and_without_further_queries(kind, source):
    bare, model = model_of(kind), model_of(kind)
    if kind == "dino":
        model.queries.source = source(model.queries.source, 4)
    else:
        model.queries = source(model.queries, 4)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.normal_()
    further = [key for key in model.state_dict() if ".extra." in key or ".others." in key]
    host = copy.deepcopy(bare)
    report = load_state(host, model.state_dict())
    assert report.complete and sorted(report.dropped) == sorted(further)
    assert not equal(host, bare) and set(to_layout(model, "detrex")) == set(to_layout(host, "detrex"))
    report = load_state(model, bare.state_dict(), strict=False)
    assert report.missing == further and not report.unexpected
    written, wanted = to_layout(model, "detrex"), to_layout(bare, "detrex")
    assert all(torch.equal(written[k], v) for k, v in wanted.items())
    report = load_state(model, to_layout(bare, "detrex"), strict=False)
    assert report.missing == further and not report.unexpected


def mmdetection(model, kind, head="bbox_head"):
    """The model's tensors as mmdetection 2.x writes them; its neck's convolutions have no bias."""
    out = {}
    with torch.no_grad():
        for level in (*model.neck.convs, *model.neck.extra_convs):
            level.conv.bias.zero_()
    for key, value in model.state_dict().items():
        key = key.replace("queries.source.", "queries.")
        if key.startswith("neck."):
            out[key.replace(".norm.", ".gn.")] = value
        elif key.startswith("backbone."):
            out[torchvision_name(key)] = value
        elif found := re.match(r"(decoder|queries)\.(class|bbox)_embed\.(.+)$", key):
            index, rest = (LAYERS, found[3]) if found[1] == "queries" else found[3].split(".", 1)
            for i in range(LAYERS) if kind == "plain" else [index]:
                if found[2] == "class":
                    out[f"{head}.cls_branches.{i}.{rest}"] = value
                else:
                    out[f"{head}.reg_branches.{i}.{in_sequence(rest)}"] = value
        else:
            out[f"{head}.{mmdetection_name(key, kind)}"] = value
    return {k: v for k, v in out.items() if not re.match(r"neck.*conv\.bias", k)}


def in_sequence(rest):
    """``layers.1.weight`` of a perceptron whose activations are layers too."""
    layer, what = rest.removeprefix("layers.").split(".")
    return f"{2 * int(layer)}.{what}"


def mmdetection_name(key, kind):
    simple = {"queries.query_embedding": "query_embedding", "queries.label_enc": "label_embedding"}
    simple |= {"queries.tgt_embed": "transformer.query_embed" if kind == "dino" else "query_embedding"}
    simple |= {"encoder.level_embeds": "transformer.level_embeds", "queries.": "transformer."}
    simple |= {"encoder.": "transformer.encoder.", "decoder.": "transformer.decoder."}
    ours = next(name for name in simple if key.startswith(name))
    head, found, rest = key.replace(ours, simple[ours], 1).partition("ref_point_head.")
    return head + found + (in_sequence(rest) if found else "")


@pytest.mark.parametrize("kind", ["plain", "refine", "two_stage"])
def test_mmdetection_has_no_bias_in_its_neck(kind, tmp_path):
    model, other = model_of(kind), model_of(kind)
    theirs = mmdetection(model, kind)
    theirs["backbone.bn1.num_batches_tracked"] = torch.tensor(3)
    torch.save({"meta": {"CLASSES": COCO_NAMES, "epoch": 50}, "state_dict": theirs}, tmp_path / "epoch_50.pth")
    report = load_weights(other, tmp_path / "epoch_50.pth")
    assert report.complete and equal(model, other) and report.layout == "mmdetection Deformable-DETR"
    assert report.dropped == ["backbone.bn1.num_batches_tracked"]
    assert len(report.sliced) == 4 and "zeros" in str(report)


def with_twins(state):
    """Beside averages, mmcv's ``EMAHook`` keeps what is trained, as buffers."""
    return state | {"ema_" + key.replace(".", "_"): value + 1 for key, value in state.items()}


@pytest.mark.parametrize("kind, head", [("two_stage", "bbox_head"), ("dino", "query_head")])
def test_mmcv_keeps_second_values_beside_averages(kind, head):
    model, other = model_of(kind), model_of(kind)
    theirs = mmdetection(model, kind, head)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    report = load_state(other, with_twins(theirs))
    assert report.complete and not report.unexpected and equal(model, other)
    assert len(report.dropped) == len(theirs) and all(key.startswith("ema_") for key in report.dropped)
    stranger = {"ema_head_weight": torch.zeros(2)}  # no name of the model
    assert load_state(other, with_twins(theirs) | stranger, strict=False).unexpected == ["ema_head_weight"]


IN_TRAINING = (
    "rpn_head.rpn_conv.weight", "rpn_head.rpn_cls.bias", "roi_head.0.bbox_head.fc_cls.weight",
    "bbox_head.0.atss_reg.bias", "bbox_head.0.scales.0.scale", "query_head.downsample.0.weight",
    "query_head.transformer.aux_pos_trans.1.weight", "query_head.transformer.aux_pos_trans_norm.0.bias",
    "query_head.transformer.head_pos_embed.weight", "query_head.transformer.pos_feats_trans.0.bias",
    "query_head.transformer.pos_feats_norm.1.weight",
)  # fmt: skip


@pytest.mark.parametrize("kind, classes", [("mixed", 80), ("dac", 80), ("dino", 80), ("dino", 1203)])
def test_the_host_within_co_detr(kind, classes, tmp_path):
    """Its heads of training are told as left out; classes are as many as the model's, of COCO or of another set."""
    model, other = (model_of(kind, classes) for _ in range(2))
    theirs = mmdetection(model, kind, "query_head") | {key: torch.randn(4) for key in IN_TRAINING}
    torch.save({"meta": {"epoch": 12}, "state_dict": theirs}, tmp_path / "co.pth")
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    report = load_weights(other, tmp_path / "co.pth")
    assert report.complete and equal(model, other) and report.layout == "Co-DETR" and not report.unexpected
    assert set(IN_TRAINING) <= set(report.dropped)


def swin_detector():
    model = model_of("plain")
    model.backbone = SwinTransformer(8, (1, 1, 2, 1), (1, 1, 1, 1), window_size=2)
    with torch.no_grad():
        for value in model.backbone.parameters():
            value.normal_()
    return model


@pytest.mark.parametrize("late", [False, True])
def test_swin_of_a_classifier_fills_the_backbone(late):
    """timm has the merging of patches at the start of a stage, the authors at its end."""
    model, other = swin_detector(), swin_detector()
    theirs = {k: v for k, v in model.backbone.state_dict().items() if not re.match(r"norm\d", k)}
    if late:
        theirs = {
            re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", k): v
            for k, v in theirs.items()
        }
    theirs |= {"head.weight": torch.ones(10, 64), "head.bias": torch.ones(10), "norm.weight": torch.ones(64)}
    with torch.no_grad():
        other.backbone.layers[0].downsample.reduction.weight.zero_()
    report = load_state(other, theirs, strict=False)
    assert not report.unexpected and not report.mismatched and len(report.dropped) == 3
    assert {k.split(".")[1] for k in report.missing} == {"norm1", "norm2", "norm3"}
    ours, filled = model.backbone.layers[0].downsample.reduction, other.backbone.layers[0].downsample.reduction
    assert torch.equal(ours.weight, filled.weight)


def test_a_file_of_timm_fills_a_timm_backbone():
    timm = pytest.importorskip("timm")
    from detrex_ext.modeling.backbones import TimmBackbone

    for name in ("convnext_atto", "resnet18"):
        theirs = timm.create_model(name).state_dict()
        model = model_of("plain")
        model.backbone = TimmBackbone(name)
        report = load_state(model, theirs)
        assert report.complete and len(report.matched) + len(report.dropped) == len(theirs)
        assert all(re.match(r"head|fc|norm", k) for k in report.dropped)


def test_a_backbone_of_ours_alone_fits_a_model_of_any_host():
    model, other = model_of("plain"), model_of("dino")
    state = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    assert load_state(other, state).complete and equal(model.backbone, other.backbone)


def test_a_wrong_file_is_refused_with_its_guess():
    torchvision = pytest.importorskip("torchvision")
    densenet = torchvision.models.densenet121(weights=None).state_dict()
    with pytest.raises(UserError, match=r"looks like timm classifier, 0 of \d+ tensors fit"):
        load_state(model_of("plain"), densenet, strict=False)
    detr = {k: v for k, v in official(model_of("detr"), "detr").items() if not k.startswith("backbone.")}
    with pytest.raises(UserError, match=r"looks like official DETR, \d+ of \d+ tensors fit"):
        load_state(model_of("dino"), detr, strict=False)
    with pytest.raises(UserError, match="looks like no layout that is known, 0 of"):
        load_state(model_of("plain"), {"blocks.1.weight": torch.ones(1)}, strict=False)


def test_the_full_report_names_every_key():
    report = load_state(model_of("dac"), official(model_of("dac"), "dac"))
    text = report.full()
    assert "transformer.decoder.layers.1.norm1.bias -> decoder.layers.1.norms.1.bias" in text
    assert text.count("\n") > len(report.renamed) > 200 > str(report).count("\n")
