"""One optimizer step: micro-batches, precision, clipping, what happens when numbers go bad."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from detrex_ext.config import load_config
from detrex_ext.engine import LrFactor, LRScheduler, ModelEMA, Precision, Trainer, metrics
from detrex_ext.engine.non_finite import NonFinite
from detrex_ext.engine.optim import build_optimizer, load_optimizer_state
from detrex_ext.engine.schedule import constant_then_cosine, multistep_schedule, warmed_up
from detrex_ext.engine.setup import batch_line
from detrex_ext.errors import UserError
from detrex_ext.runtime import HookBase
from detrex_ext.structures import LossDict


class Objects(list):
    """Stands for ``Instances``: only its length is looked at."""


class Model(nn.Module):
    """Squared error of a line, summed over samples and divided by objects, as a detector's losses are."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(3, 1)

    def forward(self, batch, effective=None):
        objects = effective[0] if effective else sum(len(s["instances"]) for s in batch)
        x = torch.stack([s["image"] for s in batch])
        error = (self.line(x)[:, 0] - 1) ** 2
        losses = {"loss_a": error.sum() / objects, "loss_b": 0.5 * error.sum() / objects}
        return LossDict(losses, {"stage0/x": error[0]})


class Loader:
    """Batches that depend on the iteration only."""

    def __init__(self, size=4, poison_at=None):
        self.size, self.poison_at, self.start = size, poison_at, 0

    def set_start(self, iteration):
        self.start = iteration

    def __iter__(self):
        i = self.start
        while True:
            g = torch.Generator().manual_seed(i)
            samples = [
                {"image": torch.randn(3, generator=g), "instances": Objects([0] * (k + 1)), "file_name": f"{i}-{k}.jpg"}
                for k in range(self.size)
            ]
            if i == self.poison_at:
                samples[-1]["image"][0] = math.nan
            yield samples
            i += 1


def trainer(model=None, lr=0.1, loader=None, **kwargs):
    model = model or Model()
    return Trainer(model, loader or Loader(), torch.optim.SGD(model.parameters(), lr=lr), **kwargs)


def trained(steps=3, **kwargs):
    t = trainer(**kwargs)
    t.train(0, steps)
    return t


def weights(t):
    return torch.cat([p.detach().flatten() for p in t.model.parameters()])


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_give_the_whole_batch_s_step_and_losses(parts):
    whole, split = trained(log_period=1), trained(log_period=1, accumulate_steps=parts)
    assert torch.allclose(weights(whole), weights(split), atol=1e-6)
    for name in ("total_loss", "loss_a", "loss_b"):
        a, b = (t.storage.history(name).values() for t in (whole, split))
        assert [i for _, i in a] == [i for _, i in b] == [0, 1, 2]
        assert [v for v, _ in a] == pytest.approx([v for v, _ in b], rel=1e-5)


def test_micro_batches_must_divide():
    with pytest.raises(UserError, match="batch of 4 does not divide into 3 parts"):
        trained(accumulate_steps=3)


def test_out_of_memory_says_what_did_not_fit_and_what_helps():
    class Full(Model):
        def forward(self, batch, effective=None):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    class Images(Loader):
        def __iter__(self):
            for batch in super().__iter__():
                yield [{**sample, "image": torch.zeros(3, 40, 60 + k)} for k, sample in enumerate(batch)]

    with pytest.raises(UserError, match=r"(?s)iteration 0: 4 images .* 63 x 40, up to 4 objects.*accumulate_steps=2"):
        trained(model=Full(), loader=Images())


@pytest.mark.parametrize("mixed", [False, True])
def test_losses_reach_the_storage_once_per_period_and_early_for_every_step(mixed):
    seen = []

    class Look(HookBase):
        def after_step(self):
            seen.append(len(self.trainer.storage.histories().get("total_loss", Empty()).values()))

    class Empty:
        def values(self):
            return []

    t = trainer(log_period=3, precision=Precision("cpu", mixed))
    t.register_hooks([Look()])
    t.train(0, 7)
    assert seen == [1, 2, 3, 3, 5, 6, 7], "after the first few steps too"
    assert [i for _, i in t.storage.history("stage0/x").values()] == list(range(7))


@pytest.mark.parametrize("clip", [None, {"max_norm": 1.0}])
def test_more_losses_are_not_waited_for_more_often(clip, monkeypatch):
    """Each value that Python looks at waits for a GPU, each gathering for the other processes."""

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    class Many(Model):
        def forward(self, batch, effective=None):
            losses = super().forward(batch, effective)
            return {f"{name}_{i}": loss / self.many for name, loss in losses.items() for i in range(self.many)}

    gathered = []
    monkeypatch.setattr(metrics.comm, "gather", lambda rows: gathered.append(len(rows)) or [rows])

    def reads(many, steps=40):
        model = Many()
        model.many = many
        with Reads() as found:
            trained(steps=steps, model=model, log_period=20, clip_grad=clip)
        return found.count

    assert reads(1) == reads(30)
    assert gathered[-1] == 20 and sum(gathered) == 80


def test_total_is_the_sum_of_the_losses():
    t = trained(steps=1)
    latest = {k: v for k, (v, _) in t.storage.latest().items()}
    assert latest["total_loss"] == pytest.approx(latest["loss_a"] + latest["loss_b"])


def test_a_bad_loss_stops_before_the_weights_change():
    t = trainer(loader=Loader(poison_at=2))
    before = []

    class Keep(HookBase):
        def before_step(self):
            before.append(weights(self.trainer))

    t.register_hooks([Keep()])
    with pytest.raises(FloatingPointError, match=r"(?s)iteration 2: total_loss, loss_a, loss_b not finite.*2-3\.jpg"):
        t.train(0, 5)
    assert torch.equal(weights(t), before[2])


def test_a_bad_micro_batch_is_found_wherever_it_is():
    for poison in (0, 3):
        loader = Loader(poison_at=1)
        plain = Loader.__iter__

        def moved(self, plain=plain, poison=poison):
            for batch in plain(self):
                batch[poison], batch[-1] = batch[-1], batch[poison]
                yield batch

        loader.__class__ = type("Moved", (Loader,), {"__iter__": moved})
        with pytest.raises(FloatingPointError, match="iteration 1"):
            trained(loader=loader, accumulate_steps=4)


def test_a_model_that_raises_on_its_own_is_reported_alike():
    class Raises(Model):
        def forward(self, batch, effective=None):
            raise FloatingPointError("loss_class of main is nan")

    with pytest.raises(FloatingPointError, match=r"(?s)iteration 0: loss_class of main is nan.*batch: 0-0\.jpg"):
        trained(model=Raises())


def test_a_bad_gradient_stops_before_the_weights_change():
    class Root(Model):
        def forward(self, batch, effective=None):
            return {"loss": (self.line.weight * 0).sum().abs().sqrt()}

    model = Root()
    before = model.line.weight.clone()
    with pytest.raises(FloatingPointError, match="gradient norm is nan"):
        trained(model=model, clip_grad={"max_norm": 1.0})
    assert torch.equal(model.line.weight, before)


def test_a_skipped_step_leaves_weights_and_statistics_of_norms(caplog):
    class Normed(Model):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, batch, effective=None):
            return {"loss": self.line(self.norm(torch.stack([sample["image"] for sample in batch]))).square().sum()}

    model = Normed()
    statistics = []

    class Keep(HookBase):
        def after_step(self):
            statistics.append((model.norm.running_var.clone(), model.norm.num_batches_tracked.clone(), weights(t)))

    t = trainer(model=model, loader=Loader(poison_at=1), non_finite=NonFinite("skip", 1))
    t.register_hooks([Keep()])
    t.train(0, 3)
    first, second, third = statistics
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert third[1] == 2 and torch.isfinite(third[0]).all() and not torch.equal(third[2], second[2])
    assert "step skipped (1 in a row, 1 in all): iteration 1" in caplog.text
    with pytest.raises(UserError, match="train.non_finite.policy=ignore: expected one of raise, skip"):
        NonFinite("ignore")


def test_clipping_bounds_the_step_and_logs_the_norm_before_it():
    free, clipped = trained(steps=1), trained(steps=1, clip_grad={"max_norm": 1e-3, "norm_type": 2})
    start = weights(trainer())
    assert (weights(clipped) - start).norm() == pytest.approx(0.1 * 1e-3, rel=1e-3)
    norm = clipped.storage.latest()["grad_norm"][0]
    assert norm == pytest.approx(float((weights(free) - start).norm()) / 0.1, rel=1e-4)


def test_a_gradient_too_large_for_fp16_is_a_step_that_is_skipped():
    """The scale of losses starts so high that the first ones are."""

    class Steep(Model):
        def forward(self, batch, effective=None):
            return {name: 1e3 * loss for name, loss in super().forward(batch, effective).items()}

    norms = []
    t = trainer(Steep(), 1e-6, precision=Precision("cpu", True, "fp16"), clip_grad={"max_norm": 1.0}, log_period=1)
    start = weights(t)

    class Look(HookBase):
        def after_step(self):
            norm = t.storage.latest()["grad_norm"][0]
            assert math.isfinite(norm) or norms or torch.equal(weights(t), start)
            norms.append(norm)

    t.register_hooks([Look()])
    t.train(0, 20)
    assert not math.isfinite(norms[0]) and math.isfinite(norms[-1]) and not torch.equal(weights(t), start)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_mixed_precision_trains_in_both_types(dtype):
    seen = []

    class Look(Model):
        def forward(self, batch, effective=None):
            out = super().forward(batch, effective)
            seen.append(self.line(batch[0]["image"]).dtype)
            return out

    t = trained(model=Look(), precision=Precision("cpu", True, dtype), steps=8)
    assert set(seen) == {torch.bfloat16 if dtype == "bf16" else torch.float16}
    assert t.precision.scaler.is_enabled() == (dtype == "fp16")
    # a loss scaler skips its first steps until its scale fits
    start, goal = weights(trainer()), weights(trained(steps=8))
    assert (weights(t) - goal).norm() < 0.3 * (start - goal).norm()
    assert ("grad_scaler" in t.state_dict()) == (dtype == "fp16")


def test_the_scale_of_losses_goes_on_where_it_stopped():
    t = trained(precision=Precision("cpu", True, "fp16"), steps=8)
    other = trainer(precision=Precision("cpu", True, "fp16"))
    scale = t.precision.scaler.get_scale()
    assert scale != other.precision.scaler.get_scale()
    other.load_state_dict({**t.state_dict(), "iteration": 7})
    assert other.precision.scaler.get_scale() == scale


def test_unknown_precision():
    with pytest.raises(UserError, match="train.amp.dtype=fp8: expected one of bf16, fp16"):
        Precision("cpu", True, "fp8")


def test_state_goes_on_where_it_stopped(caplog):
    whole = trained(steps=6)
    first = trained(steps=4)
    state = first.state_dict()
    state["iteration"] = 3
    second = trainer(model=first.model)
    second.load_state_dict(state)
    second.train(second.iter + 1, 6)
    assert torch.equal(weights(whole), weights(second))
    assert "train.max_iter 4 -> 6" in caplog.text


class TestOptimizer:
    def test_the_config_s_rates_count_on_resume_and_changes_are_told(self, caplog):
        p = nn.Parameter(torch.ones(2))
        old = torch.optim.AdamW([p], lr=1e-3, weight_decay=0.1)
        p.grad = torch.ones(2)
        old.step()
        new = torch.optim.AdamW([p], lr=1e-2, weight_decay=0.1)
        load_optimizer_state(new, old.state_dict())
        group = new.param_groups[0]
        assert group["lr"] == group["initial_lr"] == 1e-2
        assert torch.equal(new.state[p]["exp_avg"], old.state[p]["exp_avg"])
        assert "lr 0.001 -> 0.01" in caplog.text and "weight_decay" not in caplog.text

    def test_factors_by_name(self):
        factor = LrFactor({"backbone": 0.1, "sampling": 0.5})
        assert [factor(n) for n in ("backbone.a.weight", "x.sampling_offsets.bias", "x.weight")] == [0.1, 0.5, 1.0]


class TestSchedule:
    def test_steps(self):
        schedule = multistep_schedule([40, 48], 50)
        assert [schedule(i / 50) for i in (0, 39, 40, 47, 48, 49)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])

    def test_constant_then_cosine(self):
        schedule = constant_then_cosine(0.5, 0.01)
        assert [schedule(w) for w in (0, 0.49)] == [1, 1]
        assert schedule(0.75) == pytest.approx(0.505) and schedule(1.0) == pytest.approx(0.01)

    def test_warm_up_is_counted_in_iterations(self):
        schedule = warmed_up(constant_then_cosine(0.9), warmup_iters=50, warmup_factor=0.1, max_iter=1000)
        values = [schedule(i / 1000) for i in (0, 25, 50, 100)]
        assert values == pytest.approx([0.1, 0.55, 1.0, 1.0], abs=1e-3)
        assert warmed_up(schedule, 0) is schedule

    @pytest.mark.parametrize("max_iter", [1, 3, 7, 100])
    def test_schedules_live_through_the_last_step(self, max_iter):
        warm = warmed_up(constant_then_cosine(), 2, 0.1, 3)
        for schedule in (multistep_schedule([1], 2), constant_then_cosine(), warm):
            t = trainer()
            t.register_hooks([LRScheduler(scheduler=schedule)])
            t.train(0, max_iter)
            assert len(t.storage.history("lr").values()) == max_iter


class TestEMA:
    def test_warm_up_and_copies(self):
        model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
        ema = ModelEMA(model, decay=0.5, warmup=True)
        start = model[0].weight.item()
        with torch.no_grad():
            model[0].weight.fill_(start + 1)
            model[1].running_mean.fill_(2.0)
            model[1].num_batches_tracked.fill_(19)
        ema.update()
        state = ema.state_dict()
        assert state["0.weight"].item() == pytest.approx(start + 0.9)
        assert state["1.running_mean"].item() == pytest.approx(1.8)
        assert state["1.num_batches_tracked"].item() == 19
        for _ in range(20):
            ema.update()
        before = ema.state_dict()["0.weight"].item()
        with torch.no_grad():
            model[0].weight.add_(1)
        ema.update()
        assert ema.state_dict()["0.weight"].item() == pytest.approx((before + start + 2) / 2)

    def test_the_swap_is_undone_after_an_error(self):
        model = nn.Linear(2, 2)
        ema = ModelEMA(model, decay=0.9)
        averaged = model.weight.detach().clone()
        with torch.no_grad():
            model.weight.add_(1)
        own = model.weight.detach().clone()
        with pytest.raises(RuntimeError), ema.applied():
            assert torch.equal(model.weight, averaged)
            raise RuntimeError("evaluation failed")
        assert torch.equal(model.weight, own) and torch.equal(ema.state_dict()["weight"], averaged)


def test_learning_rates_scale_with_the_batch_where_that_is_asked_for():
    cfg = load_config("small", (), ["dataloader.train.total_batch_size=4", "train.scale_lr=true"])
    plain = load_config("small", (), ["dataloader.train.total_batch_size=4"])
    model = Model()
    rates = [[group["lr"] for group in build_optimizer(c, model).param_groups] for c in (cfg, plain)]
    assert rates[0] == [rate / 2 for rate in rates[1]]  # the recipe's batch is 8
    assert "lr 0.00075, 0.5 times that of the config" in batch_line(cfg)
    assert "times" not in batch_line(plain)
