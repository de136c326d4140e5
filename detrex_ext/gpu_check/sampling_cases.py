"""The step `sampling`: every type and odd size, nothing to sample, points that are no numbers, tensors over 2^31."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch

from detrex_ext.layers import ms_deform_backends
from detrex_ext.runtime import peers

from .sampling import DTYPES, Sizes, distances, drawn, in_double, inputs, outcome
from .table import Case, NotHere, Options, Row, found

SIZES = {
    "odd maps": Sizes(((5, 11), (3, 6), (7, 2)), B=3, T=17),
    "one cell": Sizes(((1, 1), (1, 9), (9, 1)), T=5),
    "one of each": Sizes(((3, 4),), B=1, T=1, H=1, D=1, K=1),
    "heads of 32": Sizes(((13, 17), (7, 9), (4, 5), (2, 3)), B=2, T=301, H=8, D=32, K=4),
    "heads of 5": Sizes(((5, 11), (3, 6)), T=33, H=3, D=5, K=2),
    "heads of 48": Sizes(((9, 8), (5, 4)), T=70, H=4, D=48, K=7),
    "heads of 256": Sizes(((6, 5),), B=1, T=19, H=1, D=256, K=4),
    "no query": Sizes(((5, 11), (3, 6)), T=0),
}
# an encoder's, of two images of 800 x 1333
REAL = Sizes(((100, 167), (50, 84), (25, 42), (13, 21)), B=2, T=22223, H=8, D=32, K=4)
_QUICK = ("odd maps", "heads of 5", "no query")


def backends(device: str) -> list[str]:
    """Those that are held against fp64: what the models use there, and detrex's own where it is installed."""
    used = "triton" if torch.device(device).type == "cuda" else ms_deform_backends.choose(torch.zeros(1, device=device))
    return [used, *(["detrex"] if used == "triton" and peers.detrex_msda_op() is not None else [])]


def cases(options: Options) -> list[Case]:
    """All of them."""
    return list(_cases(options))


def _cases(options: Options) -> Iterator[Case]:
    yield Case("what auto chooses", partial(chosen, options.device))
    for backend in backends(options.device):
        types = [name for name in DTYPES if not (backend == "detrex" and name != "fp32")]
        for name in types:
            for what, sizes in SIZES.items():
                if not options.quick or what in _QUICK:
                    yield Case(f"{backend} {name}, {what}", partial(compare, backend, sizes, name, options.device))
            if not options.quick:
                large = partial(compare, backend, REAL, name, options.device, options.device)
                yield Case(f"{backend} {name}, an encoder's, 800 x 1333", large)
            if backend != "detrex":
                yield Case(f"{backend} {name}, points that are no numbers", partial(no_numbers, backend, name, options))
        if backend == "detrex":  # counts in 32 bits
            continue
        for name in [name for name in types if name != "fp16"]:
            yield Case(f"{backend} {name}, values over 2^31", partial(many_values, backend, name, options))
        yield Case(f"{backend} fp32, queries over 2^31", partial(many_queries, backend, options))


def chosen(device: str) -> Row:
    """A GPU on which Triton does not work falls back to a slower way, with a warning: here that is a fault."""
    used, wanted = ms_deform_backends.choose(torch.zeros(1, device=device)), backends(device)[0]
    return found(used == wanted, "" if used == wanted else f"expected {wanted}: a warning in log.txt says why",
                 backend=used)  # fmt: skip


def compare(backend: str, sizes: Sizes, dtype: str, device: str, reference: str = "cpu") -> Row:
    """Outputs and gradients against grid_sample in fp64 on another device, or on the same where it is large."""
    leaves = inputs(sizes, DTYPES[dtype])
    own = [x.detach().to(device).requires_grad_() for x in leaves]
    outs = outcome(backend, sizes.shapes, own)
    upstream = drawn(outs[0]).to(outs[0].dtype)  # as it was rounded
    wanted = outcome("torch", sizes.shapes, in_double(leaves, reference), upstream)
    return judged(distances([x.to(reference) for x in outs], wanted))


def judged(far: dict[str, float]) -> Row:
    """The row of distances: figures are shares of what is allowed."""
    worst = max(far, key=far.get)
    note = "" if far[worst] <= 1 else f"{worst} is off by {far[worst]:.3g} times what its type allows"
    return found(far[worst] <= 1, note, **{f"{name}_of_allowed": round(value, 4) for name, value in far.items()})


def no_numbers(backend: str, dtype: str, options: Options) -> Row:
    """A point at infinity reads nothing; one that is NaN spoils its own query and head, and nothing else."""
    sizes = SIZES["odd maps"]
    value, at, weight = (x.detach().to(options.device) for x in inputs(sizes, DTYPES[dtype]))
    away = at.clone()
    at[0, 3, 1, 0, 0, 0], at[1, 4, 0, 0, 0, 1], at[1, 5, 0, 0, 0] = math.nan, math.inf, 1e30
    # where nothing is read, by a finite number
    away[0, 3, 1, 0, 0, 0] = away[1, 4, 0, 0, 0, 1] = 50.0
    away[1, 5, 0, 0, 0] = 50.0
    outs = [_forward(backend, sizes, (value, x, weight)) for x in (at, away)]
    wrong = []
    if not bool(outs[0][0, 3, 1].isnan().all()):
        wrong.append("a NaN is gone")
    outs[0][0, 3, 1], outs[1][0, 3, 1] = 0, 0
    if not bool(outs[0].isfinite().all()):
        wrong.append("what is not finite spreads")
    elif not torch.equal(*outs):
        wrong.append("a point at infinity reads something")
    return found(not wrong, "; ".join(wrong))


def _forward(backend: str, sizes: Sizes, tensors: tuple) -> torch.Tensor:
    with torch.no_grad():
        out = ms_deform_backends.load(backend)(tensors[0], sizes.shapes, *tensors[1:])
    return out.unflatten(-1, (sizes.H, sizes.D)).float()


def _room(options: Options, needed: float, what: str) -> None:
    """Skips where the memory of the GPU has no room for so many bytes."""
    if not options.on_gpu:
        return
    free, _ = torch.cuda.mem_get_info()
    if free < needed:
        raise NotHere(f"{what} needs {needed / 2**30:.0f} GiB, {free / 2**30:.0f} are free")


def many_values(backend: str, dtype: str, options: Options) -> Row:
    """A map with more elements than 32 bits count; points lie in its last rows, which are looked at alone."""
    H, D, side, rows = (8, 32, 2900, 16) if not options.quick else (2, 8, 60, 16)
    bytes_each = torch.empty(0, dtype=DTYPES[dtype]).element_size()
    # values, their gradient, and its sum in fp32
    _room(options, side * side * H * D * (2 * bytes_each + 4) * 1.2, f"a map of {side} x {side}")
    crop = Sizes(((rows, side),), B=1, T=50, H=H, D=D, K=4)
    few, at, weight = inputs(crop, DTYPES[dtype])
    value = torch.zeros(1, side * side, H, D, dtype=DTYPES[dtype], device=options.device)
    last = value[:, -rows * side :]
    last.copy_(few.detach())
    with torch.no_grad():  # no point above the crop
        at[..., 1] = at[..., 1].clamp_min(0.7 / rows)
    scale = torch.tensor([1.0, rows / side])
    exact = at.detach().double() * scale + torch.tensor([0.0, 1 - rows / side])
    moved = exact.float()
    # the location as it was rounded, in the crop
    within = ((moved.double() - torch.tensor([0.0, 1 - rows / side])) / scale).requires_grad_()
    upstream = drawn(_out(crop)).to(DTYPES[dtype]).float()
    wanted = outcome("torch", crop.shapes, [in_double([few])[0], within, in_double([weight])[0]], upstream)
    own = [value.requires_grad_(), *(x.detach().to(options.device).requires_grad_() for x in (moved, weight))]
    out, of_value, of_at, of_weight = outcome(backend, ((side, side),), own, upstream)
    outside = int(of_value[:, : -rows * side].count_nonzero())
    outs = [x.cpu() for x in (out, of_value[:, -rows * side :], of_at, of_weight)]
    far = distances([*outs[:2], outs[2] * scale, outs[3]], [*wanted[:2], wanted[2], wanted[3]])
    # a location on so large a map has few bits left within a cell
    row = judged({name: value if outs[1].dtype != torch.float32 and name == "value" else value / 10
                  for name, value in far.items()})  # fmt: skip
    row["elements"] = value.numel()
    if outside:
        row.update(held=False, note=f"{outside} gradients where no point is; {row['note']}")
    return row


def _out(sizes: Sizes) -> torch.Tensor:
    return torch.empty(sizes.B, sizes.T, sizes.H * sizes.D)


def many_queries(backend: str, options: Options) -> Row:
    """More sampled values than 32 bits count; the last queries are looked at alone."""
    T, last = (8_400_000, 64) if not options.quick else (2000, 64)
    sizes = Sizes(((6, 5),), B=1, T=T, H=8, D=32, K=1)
    _room(options, T * 256 * 4 * 2.4, f"{T} queries")
    leaves = inputs(sizes, torch.float32, options.device)
    with torch.no_grad():
        leaves[2][:, :-last] = 0  # nothing of the others reaches the gradient of the values
    tail = Sizes(sizes.shapes, B=1, T=last, H=8, D=32, K=1)
    few = [leaves[0].detach().cpu(), *(x.detach()[:, -last:].cpu() for x in leaves[1:])]
    wanted = outcome("torch", sizes.shapes, in_double(few), drawn(_out(tail)))
    out = ms_deform_backends.load(backend)(leaves[0], sizes.shapes, *leaves[1:])
    upstream = torch.zeros_like(out)
    upstream[:, -last:] = drawn(_out(tail)).to(out)
    grads = torch.autograd.grad(out, leaves, upstream)
    outs = [out[:, -last:], grads[0], grads[1][:, -last:], grads[2][:, -last:]]
    row = judged(distances([x.detach().cpu() for x in outs], wanted))
    row["elements"] = out.numel()
    return row
