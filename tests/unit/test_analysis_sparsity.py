"""Sparsity of cross-attention: against the map itself, on every host with one, refused on the others."""

from __future__ import annotations

import json
import math

import pytest
import torch
from contract.hosts import HOSTS, LAYERS
from data_sets import coco, write

from detrex_ext.analysis.sparsity import SparsityEvaluator, negative_entropy
from detrex_ext.analysis.sparsity.evaluator import figures
from detrex_ext.errors import UserError
from detrex_ext.evaluation import inference_on_dataset
from detrex_ext.layers import attention, conditional_attention
from detrex_ext.layers.attention import MultiheadAttention


def direct(q, k, mask=None):
    """By the whole map, as the definition has it: (B, H, L) sums, and keys."""
    scores = (q.double() @ k.double().transpose(-1, -2)) / math.sqrt(q.shape[-1])
    allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    p = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    return torch.xlogy(p, p).sum(-1), allowed.sum(-1)


def masks(kind, B, H, L, M, g):
    if kind == "none":
        return None
    if kind == "padding":
        keys = torch.tensor([M, max(1, M // 2), 1][:B])
        return (torch.arange(M) < keys[:, None])[:, None, None]
    mask = torch.rand(B, H, L, M, generator=g) > 0.4
    mask[..., 0] = True
    return mask


@pytest.mark.parametrize("kind", ["none", "padding", "any"])
@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_equal_to_the_whole_map(kind, chunk, spread):
    g = torch.Generator().manual_seed(0)
    B, H, L, M, D = 3, 2, 7, 33, 4
    q, k = (spread * torch.randn(B, H, n, D, generator=g) for n in (L, M))
    mask = masks(kind, B, H, L, M, g)
    found, keys = negative_entropy(q, k, mask, chunk)
    wanted, number = direct(q, k, mask)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    assert torch.equal(keys, number)
    if mask is not None:
        added = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
        assert torch.equal(negative_entropy(q, k, added, chunk)[0], found)


def test_even_attention_and_attention_at_one_key():
    m = 1050
    q, k = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, m, 4)
    assert figures(q, k, None)[0].tolist() == pytest.approx([-math.log(m) / m, 0.0, m], abs=1e-9)
    k[..., 0, 0], q[..., 0] = 1e6, 1e6
    assert figures(q, k, None)[0].tolist() == pytest.approx([0.0, 1.0, m])
    one = torch.zeros(1, 1, 1, m, dtype=torch.bool)
    assert negative_entropy(q, k, one)[0].isnan().all()
    one[..., 5] = True
    assert figures(q, k, one)[0].tolist() == [0.0, 1.0, 1.0]


def test_no_more_than_a_chunk_is_in_memory(monkeypatch):
    sizes, inner = [], torch.Tensor.logsumexp
    monkeypatch.setattr(torch.Tensor, "logsumexp", lambda x, *a: sizes.append(x.numel()) or inner(x, *a))
    negative_entropy(torch.randn(2, 4, 100, 8), torch.randn(2, 4, 50, 8), None, chunk=1000)
    assert max(sizes) <= 1000 and sum(sizes) == 2 * 4 * 100 * 50


@pytest.fixture
def data(tmp_path):
    return write(tmp_path, coco(3, 4, (64, 96)), images=False)


def batches():
    """One image, and two of different sizes, so that one is padded."""
    made = []
    for image, (h, w) in ((5, (64, 96)), (6, (64, 96)), (7, (48, 64))):
        g = torch.Generator().manual_seed(image)
        pixels = torch.randint(0, 256, (3, h, w), generator=g, dtype=torch.uint8)
        made.append({"image": pixels, "image_id": image, "height": h, "width": w})
    return [made[:1], made[1:]]


def by_hand(model, seen):
    """The figures of each image and layer, from the attention that was seen."""
    found = {}
    with torch.no_grad():
        for batch in batches():
            seen.clear()
            model.forward_sets(batch)
            cross = seen[-2 * LAYERS :][1::2]  # self-attention and cross-attention in turn
            assert len(cross) == LAYERS
            for b, given in enumerate(batch):
                rows = found[given["image_id"]] = []
                for q, k, mask in cross:
                    total, m = direct(q, k, mask)
                    rows.append([float(x[b].mean()) for x in (total / m, 1 + total / m.log(), m.double())])
    return found


@pytest.mark.parametrize("host", ["detr", "dab", "dab, patterns", "dab, dn"])
def test_figures_of_an_evaluation(host, data, tmp_path, monkeypatch):
    model, seen = HOSTS[host]().eval(), []

    def attend(q, k, v, mask=None, dropout=0.0):
        seen.append((q, k, mask))
        return attention.attention(q, k, v, mask, dropout)

    inner = MultiheadAttention._attend
    with monkeypatch.context() as patch:
        patch.setattr(conditional_attention, "attention", attend)
        patch.setattr(MultiheadAttention, "_attend", lambda self, q, kv, mask, *how: inner(self, q, kv, mask, attend))
        by_image = by_hand(model, seen)
    file = tmp_path / "new" / "figures.json"
    result = inference_on_dataset(model, batches(), SparsityEvaluator(data, file))
    found = json.loads(file.read_text())
    wanted = torch.tensor([by_image[i] for i in (5, 6, 7)]).mean(0)
    for n, name in enumerate(("sparsity", "size_free", "keys")):
        assert found[name] == pytest.approx(wanted[:, n].tolist(), abs=1e-6)
        assert result["attention"][name] == found[name][-1]
    assert found["images"] == 3 and len(found["sparsity"]) == LAYERS
    assert by_image[5][0][2] == by_image[6][0][2] > by_image[7][0][2]  # keys of padding do not count


def test_predictions_are_not_changed(data):
    model = HOSTS["dab"]().eval()
    with torch.no_grad():
        bare = model(batches()[0])[0]["instances"].scores
        inference_on_dataset(model, batches(), SparsityEvaluator(data))
        assert torch.equal(model(batches()[0])[0]["instances"].scores, bare)


@pytest.mark.parametrize("host", ["deformable", "dino", "adamixer"])
def test_hosts_that_sample_are_refused(host, data):
    with pytest.raises(UserError, match=r"(?s)does not attend to all tokens of its memory.*DETR and DAB-DETR do"):
        inference_on_dataset(HOSTS[host]().eval(), batches(), SparsityEvaluator(data))


def test_a_model_without_stages_is_refused(data):
    model = torch.nn.Linear(1, 1)
    model.predict_sets = None
    with pytest.raises(UserError, match="staged decoder; Linear has none"):
        inference_on_dataset(model, [], SparsityEvaluator(data))
