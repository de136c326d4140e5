"""One-to-many matching by loops over objects and queries, and problems for it."""

from __future__ import annotations

import math

import numpy as np
import torch

from detrex_ext.matching import OneToManyMatcher, TopKMatcher, stack_sets
from detrex_ext.structures import Given, SupervisedSet, Targets

K = 3


def problem(counts, Q, seed=0, N=2, spread=0.15, coarse=False, softmax=False, given=None, dtype=torch.float32):
    """Queries near the objects, so that they overlap; ``coarse``: few different values, so that scores tie."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        x = torch.rand(shape, generator=g, dtype=dtype)
        return (x * 3).round() / 3 if coarse else x

    boxes = tuple(torch.cat([0.3 + 0.4 * rand(n, 2), 0.2 + 0.3 * rand(n, 2)], 1) for n in counts)
    labels = tuple(torch.randint(0, K, (n,), generator=g) for n in counts)
    sets = []
    for stage in range(N):
        pred = torch.cat([0.3 + 0.4 * rand(len(counts), Q, 2), 0.2 + 0.3 * rand(len(counts), Q, 2)], -1)
        for b, n in enumerate(counts):
            near = torch.arange(0, Q, 2)
            if n:
                pred[b, near] = boxes[b][near % n] + spread * (rand(len(near), 4) - 0.5)
        logits = 4 * rand(len(counts), Q, K + softmax) - 2
        sets.append(SupervisedSet(logits, pred.clamp(0.05, 0.95), stage, given=given or Given(), softmax=softmax))
    return stack_sets(sets), Targets(labels, boxes, torch.ones(len(counts), 2))


def sides(box):
    return box[0] - box[2] / 2, box[1] - box[3] / 2, box[0] + box[2] / 2, box[1] + box[3] / 2


def iou(a, b):
    a, b = sides(a), sides(b)
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def of_one_image(score, m):
    """The rule for a table ``score[g][q]``: {object: its queries, best first}."""
    G, Q = len(score), len(score[0])
    ranked = [sorted(range(Q), key=lambda q: (-score[g][q], q)) for g in range(G)]
    if isinstance(m, TopKMatcher):
        return {g: ranked[g][: m.k] for g in range(G)}
    owner = [max(range(G), key=lambda g: (score[g][q], -g)) for q in range(Q)]
    candidate = [score[owner[q]][q] >= m.threshold for q in range(Q)]
    for g in range(G):
        candidate[ranked[g][0]] = True
    counts = [sum(candidate[q] and owner[q] == g for q in range(Q)) for g in range(G)]
    return {g: ranked[g][: min(counts[g], m.k)] for g in range(G)}


def score_of(m, p, u, box, seen):
    """A pair's score; scores are compared in single precision."""
    if isinstance(m, OneToManyMatcher):
        value = m.w_iou * (iou(seen, box) if m.boxes == "prior" else u) + m.w_cls * p
    else:
        value = u if m.priced is None else -5.0 * sum(abs(x - y) for x, y in zip(seen, box, strict=True))
    return float(np.float32(value))


def brute_force(m, stack, targets):
    """{(set, image, query, object): weight} for class and for box pairs, by loops."""
    prob = (stack.logits_NBQK.softmax(-1) if stack.softmax else stack.logits_NBQK.sigmoid()).tolist()
    own = stack.boxes_NBQ4.tolist()
    prior = stack.given.prior and stack.given.prior.boxes_BQ4.tolist()
    labels, truth = targets.labels_G.tolist(), targets.boxes_G4.tolist()
    cls, box, start = {}, {}, 0
    for b, count in enumerate(targets.counts):
        at = range(start, start + count)
        start += count
        for n in range(stack.shape[0] if count else 0):
            seen = prior[b] if prior else own[n][b]
            p = [[row[labels[g]] for row in prob[n][b]] for g in at]
            u = [[iou(x, truth[g]) for x in own[n][b]] for g in at]
            score = [
                [score_of(m, p[i][q], u[i][q], truth[g], seen[q]) for q in range(stack.shape[2])]
                for i, g in enumerate(at)
            ]
            positive, regressed = pairs_of(m, score, p, u, [labels[g] for g in at], stack.softmax)
            cls.update({(n, b, q, at[g]): w for (g, q), w in positive.items()})
            box.update({(n, b, q, at[g]): w for (g, q), w in regressed.items()})
    return cls, box


def pairs_of(m, score, p, u, labels, softmax):
    """{(object, query): weight} of one image, for class and for box pairs."""
    pairs = [(g, q) for g, queries in of_one_image(score, m).items() for q in queries]

    def wins(pair, rivals):
        return max(rivals, key=lambda gq: (score[gq[0]][gq[1]], -gq[0])) == pair

    if m.conflict == "best":
        pairs = [x for x in pairs if wins(x, [y for y in pairs if y[1] == x[1]])]
    quality = {(g, q): max(p[g][q] ** m.alpha * u[g][q] ** (1 - m.alpha), 0.01) for g, q in pairs}
    rank = {}
    for x in sorted(pairs, key=quality.get, reverse=True):  # equal ones stay in order
        rank[x] = sum(y[0] == x[0] for y in rank)
    box = {x: math.exp(-rank[x] / m.tau) if m.tau else 1.0 for x in pairs}

    def same_answer(x, y):
        return x[1] == y[1] and (softmax or m.conflict != "multi" or labels[x[0]] == labels[y[0]])

    def is_target(x, rivals):
        return x == max(rivals) if m.conflict == "last_class" else wins(x, rivals)

    return {x: box[x] for x in pairs if is_target(x, [y for y in pairs if same_answer(x, y)])}, box


def as_dict(pairs):
    index = zip(*(x.tolist() for x in (pairs.set_P, pairs.img_P, pairs.query_P, pairs.gt_P)), strict=True)
    weight = torch.ones(len(pairs)) if pairs.weight_P is None else pairs.weight_P
    valid = torch.ones(len(pairs)) if pairs.valid_P is None else pairs.valid_P
    found = [(at, w) for at, w, v in zip(index, weight.tolist(), valid.tolist(), strict=True) if v]
    assert len(found) == len(dict(found))
    return dict(found)


def check(matcher, stack, targets):
    """Equal to the loops; double precision keeps scores of both on the same side of each other."""
    found = matcher.match(stack, targets)
    for ours, loops in zip((found.cls, found.box), brute_force(matcher, stack, targets), strict=True):
        ours = as_dict(ours)
        assert ours.keys() == loops.keys()
        assert all(math.isclose(w, loops[at], rel_tol=1e-6) for at, w in ours.items())
    return found


def cases(number, seed=0, **options):
    """Problems of 50 images and two sets each, 100 cases: crowds, images without objects, few queries, ties."""
    g = torch.Generator().manual_seed(seed)
    for i in range(number // 100):
        counts = torch.randint(0, (4, 8)[i % 2], (50,), generator=g).tolist()
        Q = (1, 3, 8, 15, 20)[i % 5]
        more = {k: v(Q) if callable(v) else v for k, v in options.items()}
        yield i, *problem(counts, Q, i, coarse=i % 4 == 3, dtype=torch.float64, **more)
