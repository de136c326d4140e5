"""A training pass, from images to sets, is one graph without a break; a compiled model learns as one that is not."""

from __future__ import annotations

import copy

import pytest
import torch

from detrex_ext.engine.compiling import PARTS, compile_parts
from detrex_ext.errors import UserError
from detrex_ext.modeling.encoders import FoIEncoder, RoIEncoder
from detrex_ext.modeling.queries import DenoisingQueries
from detrex_ext.testing import example_batch

from .hosts import ALL_HOSTS, HOSTS, STRATEGIES, host_for

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6)
QUICK = {("dino", "sqr + dac"), ("tsp-fcos", "none"), ("tsp-rcnn", "none")}


def cells():
    found = [(host, "none") for host in ALL_HOSTS]
    found += [(host, "sqr + dac") for host in HOSTS]
    found += [("dino", name) for name in ("hybrid", "group", "sqr, one set at a time", "mr", "ms", "mr + ms")]
    for cell in found:
        yield pytest.param(*cell, id="-".join(cell), marks=[] if cell in QUICK else [pytest.mark.slow])


def training(host, strategy="none"):
    """A model of two stages, for every stage is traced anew, whose noise is the same by each way of drawing it."""
    torch.manual_seed(0)
    model = (host_for(host, strategy) if host in HOSTS else ALL_HOSTS[host]()).train()
    if host in HOSTS:
        model.use({"checked": STRATEGIES[strategy]("deformable, refine" if "sqr" in strategy else host)})
        model.decoder.order = (0, 1, 2)[: 3 if "sqr" in strategy else 2]
    model.criterion.check_finite = False
    if isinstance(model.encoder, RoIEncoder):  # all regions: how many a graph draws from is another number
        sampler = model.encoder.sampler
        sampler.num_samples, sampler.positive_share, sampler.token_keep = 1000, 1.0, (1.0, 1.0)
    return model


@pytest.fixture(autouse=True)
def compiled_anew(monkeypatch):
    """No test finds graphs of another; noise and what stays of tokens is drawn alike by all ways."""
    monkeypatch.setenv("DETREX_EXT_MS_DEFORM", "torch")
    monkeypatch.setattr(DenoisingQueries, "_noise_labels", lambda self, labels: labels)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.skipif(OLD, reason="torch 2.4 does not trace dataclasses: its graphs break, and are right")
@pytest.mark.parametrize("host, strategy", list(cells()))
def test_a_training_pass_is_one_graph(host, strategy):
    model = training(host, strategy)
    images, targets = model.inputs(example_batch(model.num_classes, (3, 1)))
    run = torch.compile(model.core, backend="eager", fullgraph=True)
    passes = []
    for core in (run, model.core):
        torch.manual_seed(1)
        passes.append(core(images.images_B3HW, images.valid_hw_B2, targets))
    if isinstance(model.encoder, FoIEncoder) and model.encoder.token_keep[0] < 1:
        return  # by masks in a graph, by rows otherwise
    assert [(s.group, s.path, s.stage) for s in passes[0]] == [(s.group, s.path, s.stage) for s in passes[1]]
    for ours, theirs in zip(*passes, strict=True):
        # a graph has more slots of padding, after the others
        rows = slice(None) if theirs.given is None or theirs.given.valid_BQ is None else theirs.given.valid_BQ
        for name in ("logits_BQK", "boxes_BQ4"):
            found, expected = getattr(ours, name)[:, : theirs.logits_BQK.shape[1]], getattr(theirs, name)
            torch.testing.assert_close(found[rows], expected[rows], rtol=1e-4, atol=1e-4)


def test_tokens_left_out_in_a_graph_are_padding():
    """As many stay as by rows, and no loss sees the others."""
    encoder = ALL_HOSTS["tsp-fcos"]().train().encoder
    encoder.token_keep = (0.25, 0.5)
    stay = [40 - int(encoder.left_out(40).sum()) for _ in range(50)]
    assert 10 <= min(stay) < max(stay) <= 20
    encoder.token_keep = (0.01, 0.01)
    assert int(encoder.left_out(40).sum()) == 39  # one at least
    encoder.token_keep = (1.0, 1.0)
    assert encoder.left_out(40) is None and encoder.eval().left_out(40) is None


def steps(model, count=2):
    """Losses of some training steps and what the model predicts after them."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    losses = []
    for step in range(count):
        torch.manual_seed(step)
        found = model.train()(example_batch(model.num_classes, (3, 1), seed=step))
        optimizer.zero_grad()
        sum(found.values()).backward()
        optimizer.step()
        losses.append({k: v.item() for k, v in found.items()})
    with torch.no_grad():
        sets = model.eval().forward_sets(example_batch(model.num_classes, (3, 1)))
    return losses, sets[-1].boxes_BQ4


def test_a_compiled_model_learns_and_predicts_as_one_that_is_not():
    plain, compiled = training("dab, dn"), training("dab, dn")
    compiled.decoder.eval_order = plain.decoder.eval_order = (0, 1)
    compile_parts(compiled, "all", backend="eager")
    assert compiled.queries.pad_to == compiled.queries.bucket and plain.queries.pad_to is None
    found, expected = steps(compiled), steps(plain)
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    copied = copy.deepcopy(compiled)  # is not compiled
    assert list(copied.state_dict()) == list(plain.state_dict()) and copied.decoder._compiled_call_impl is None


@pytest.mark.parametrize("what", PARTS)
def test_each_word_compiles_its_parts(what):
    model = training("dino")
    compile_parts(model, what, backend="eager")
    parts = {name for name, part in model.named_children() if part._compiled_call_impl is not None}
    assert parts == set(PARTS[what]) - {"queries"}
    source = model.queries.source
    assert (source._compiled_call_impl is not None) == (what == "all")
    assert (model.queries.pad_to is not None) == ("decoder" in PARTS[what])


def test_what_cannot_be_compiled_ends_in_one_message(monkeypatch):
    model = training("detr")
    compile_parts(model, None)
    with pytest.raises(UserError, match="train.compile=everything: expected one of backbone, encoder, decoder, all"):
        compile_parts(model, "everything")
    with pytest.raises(UserError, match="train.compile=encoder: Linear has no part 'encoder'"):
        compile_parts(torch.nn.Linear(2, 2), "encoder")
    with pytest.raises(UserError, match="cuda_graphs=true records what is compiled, and nothing is"):
        compile_parts(model, None, True)
    with pytest.raises(UserError, match="cuda_graphs=true: the model is on cpu, and only a CUDA device"):
        compile_parts(model, "all", True)

    def broken(*args, **kwargs):
        raise RuntimeError("\nno C++ compiler was found\nat all")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UserError, match=r"cannot compile for cpu .*no C\+\+ compiler was found\n  it needs a C\+\+"):
        compile_parts(model, "decoder")
    assert model.decoder._compiled_call_impl is None
