"""The contract of hosts."""

from __future__ import annotations

import torch
from torch import Tensor

from detrex_ext.modeling.detector import Detector
from detrex_ext.structures import Queries, cat

from .batch import example_batch
from .invariants import as_found, held, hold, supervision_checks
from .passes import entering, initial


def check_host(model: Detector, objects: tuple[int, ...] = (3, 0), seed: int = 0) -> list[str]:
    """Hold a detector's decoder and query source against the contract.

    Args, Returns, Raises: as :func:`check_strategy`.
    """
    with as_found(model) as model:
        model.use({})
        batch = example_batch(model.num_classes, objects, seed=seed)
        tolerance = 1e-10 if next(model.parameters()).dtype == torch.float64 else 1e-4

        def stages() -> None:
            with torch.no_grad():
                found = [(s.stage, s.group, s.path) for s in model.eval().forward_sets(batch)]
            wanted = [(i, "main", "plain") for i in range(len(model.decoder.eval_order))]
            hold(found == wanted, f"at inference the sets are {found}, expected one main set per stage: {wanted}")

        def boxes() -> None:
            for s in model.train().forward_sets(batch):
                good = _normalized(s.boxes_BQ4, model.decoder.boxes_in_image)
                hold(good, f"boxes of stage {s.stage} {s.group} leave [0, 1]: predict() returns normalized cxcywh")

        def permutation() -> None:
            with torch.no_grad():
                a = model.eval().forward_sets(batch)[-1]
                b = model.forward_sets(batch[::-1])[-1]
            far = _furthest(a.boxes_BQ4 - b.boxes_BQ4.flip(0))
            hold(far <= tolerance, f"swapping the images changes an image's boxes by {far:.2e}")

        def sets_alone() -> None:
            far = _alone_or_together(model)
            hold(far <= tolerance, f"a set's outcome changes by {far:.2e} when another domain's set runs beside it")

        def scratch() -> None:
            kept = {k for _, q in entering(model.train(), batch)[1] for k in q.extra if k.startswith("_")}
            hold(not kept, f"predict() hands scratch on to the next stage: {sorted(kept)}")

        def chunks() -> None:
            far = _in_chunks_or_at_once(model, batch)
            hold(far <= tolerance, f"running domains one at a time changes the outcome by {far:.2e}")

        checks = {"stages": stages, "normalized boxes": boxes, "permutation of images": permutation}
        checks |= {"sets alone or together": sets_alone, "scratch dropped": scratch, "chunks": chunks}
        return held({**checks, **supervision_checks(model, batch, objects, seed)})


def _normalized(boxes_BQ4: Tensor, in_image: bool) -> bool:
    if in_image:
        return bool(((boxes_BQ4 >= 0) & (boxes_BQ4 <= 1)).all())
    center, size = boxes_BQ4.chunk(2, -1)  # without a sigmoid they may leave the image a little, but not by pixels
    return bool(((center.abs() <= 2) & (size >= 0) & (size <= 4)).all())


def _in_chunks_or_at_once(model: Detector, batch: list[dict]) -> float:
    """Largest change of the first stage's outcome when its domains run one at a time."""
    q, mem = initial(model.train(), batch)
    both = cat(_another(q.take("main")), q)
    outs = []
    for chunk in (None, 1):
        model.decoder.chunk = chunk
        outs.append(model.decoder.stage(model.decoder.order[0], both, mem)[:2])
    model.decoder.chunk = None
    return max(_furthest(a - b) for a, b in zip(*outs, strict=True))


def _furthest(change: Tensor) -> float:
    return float(change.detach().abs().max())


def _another(q: Queries) -> Queries:
    """Sets of the same kind with other content, as recollected ones."""
    return q.replace(content_BTC=q.content_BTC.flip(1) + 1.0).retag(path="recollect")


def _alone_or_together(model: Detector) -> float:
    """Largest change of a set's outcome in each stage when a set of another domain runs beside it."""
    q, mem = initial(model.train(), example_batch(model.num_classes, (2, 1)))
    q = q.take("main")
    other = _another(q)
    far = 0.0
    for layer in model.decoder.order:
        logits, boxes, out = model.decoder.stage(layer, q, mem)
        both = model.decoder.stage(layer, cat(other, q), mem)
        n = q.content_BTC.shape[1]
        changes = [logits - both[0][:, -n:], boxes - both[1][:, -n:]]
        far = max(far, *map(_furthest, changes))
        other = both[2].select([True] * len(other.slots) + [False] * len(q.slots))
        q = out
    return far
