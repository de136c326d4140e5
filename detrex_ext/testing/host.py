"""The contract of hosts."""

from __future__ import annotations

import torch

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
                sets = model.eval().forward_sets(batch)
            found = [(s.stage, s.group, s.path) for s in sets]
            wanted = [(i, "main", "plain") for i in range(len(model.decoder.eval_order))]
            hold(found == wanted, f"at inference the sets are {found}, expected one main set per stage: {wanted}")

        def boxes() -> None:
            for s in model.train().forward_sets(batch):
                if model.decoder.boxes_in_image:
                    good = bool(((s.boxes_BQ4 >= 0) & (s.boxes_BQ4 <= 1)).all())
                else:
                    # one without a sigmoid may leave the image a little, but not by pixels
                    center, size = s.boxes_BQ4.chunk(2, -1)
                    good = bool(((center.abs() <= 2) & (size >= 0) & (size <= 4)).all())
                hold(good, f"boxes of stage {s.stage} {s.group} leave [0, 1]: predict() returns normalized cxcywh")

        def permutation() -> None:
            with torch.no_grad():
                a = model.eval().forward_sets(batch)[-1]
                b = model.forward_sets(batch[::-1])[-1]
            far = float((a.boxes_BQ4 - b.boxes_BQ4.flip(0)).abs().max())
            hold(far <= tolerance, f"swapping the images changes an image's boxes by {far:.2e}")

        def sets_alone() -> None:
            far = _alone_or_together(model)
            hold(far <= tolerance, f"a set's outcome changes by {far:.2e} when another domain's set runs beside it")

        def scratch() -> None:
            kept = [k for _, q in entering(model.train(), batch)[1] for k in q.extra if k.startswith("_")]
            hold(not kept, f"predict() hands scratch on to the next stage: {sorted(set(kept))}")

        def chunks() -> None:
            q, mem = initial(model.train(), batch)
            both = cat(_another(q.take("main")), q)
            outs = []
            for chunk in (None, 1):
                model.decoder.chunk = chunk
                outs.append(model.decoder.stage(model.decoder.order[0], both, mem)[:2])
            model.decoder.chunk = None
            far = max(float((a - b).detach().abs().max()) for a, b in zip(*outs, strict=True))
            hold(far <= tolerance, f"running domains one at a time changes the outcome by {far:.2e}")

        return held(
            {
                "stages": stages,
                "normalized boxes": boxes,
                "permutation of images": permutation,
                "sets alone or together": sets_alone,
                "scratch dropped": scratch,
                "chunks": chunks,
                **supervision_checks(model, batch, objects, seed),
            }
        )


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
        far = max(far, *(float(x.detach().abs().max()) for x in changes))
        other = both[2].select([True] * len(other.slots) + [False] * len(q.slots))
        q = out
    return far
