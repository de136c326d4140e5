"""Least total cost on a GPU: all assignment problems of a step in one kernel, without a copy to the host.

Each program solves one problem by shortest augmenting paths, row by row (D. F. Crouse, "On implementing 2D rectangular
assignment algorithms", 2016), in fp64 and in the order in which SciPy's ``linear_sum_assignment`` looks at rows and
columns, so that of equally good assignments it finds SciPy's. With ``TRITON_INTERPRET=1`` it runs on a CPU, for tests.

Shape legend: N sets, G objects of the batch (flat), Q queries, I images that have objects.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from detrex_ext.structures.placing import placed

COLUMNS, ROWS = 4096, 1024  # a problem's vectors are held in registers; larger problems are not solved here


@triton.jit
def _search(costs, rows, columns, left, taken, u, v, current, column_stride, row_stride):
    """The shortest path from a row to a free column: that column or -1, its length, rows, costs, and what is left.

    Columns are looked at from the last on; one that is done with leaves its place to the one looked at last.
    """
    place = tl.sum(left.to(tl.int32), axis=0) - 1 - columns
    count = tl.sum(left.to(tl.int32), axis=0)
    shortest = tl.where(left, float("inf"), float("inf")).to(tl.float64)
    path = tl.where(left, -1, -1)
    entered = u * 0.0
    visited = rows < 0
    least = tl.sum(u * 0.0, axis=0)
    row, sink = current, current * 0 - 1
    searching = True
    while searching:
        visited = visited | (rows == row)
        u_row = tl.sum(tl.where(rows == row, u, 0.0), axis=0)
        price = tl.load(costs + row * row_stride + columns * column_stride, mask=left, other=float("inf"))
        reduced = least + price.to(tl.float64) - u_row - v
        better = left & (reduced < shortest)
        shortest = tl.where(better, reduced, shortest)
        path = tl.where(better, row, path)
        lowest = tl.min(tl.where(left, shortest, float("inf")), axis=0)
        # of equal ones the last that is free, or the first
        equal = left & (shortest == lowest) & (shortest < float("inf"))
        free = tl.max(tl.where(equal & (taken < 0), place, -1), axis=0)
        first = tl.min(tl.where(equal, place, count), axis=0)
        at = tl.where(free >= 0, free, first)
        column = tl.max(tl.where(left & (place == at), columns, -1), axis=0)
        found = column >= 0
        owner = tl.sum(tl.where(columns == column, taken, 0), axis=0)
        count -= 1
        place = tl.where(found & left & (place == count), at, place)
        left = (left & ((columns != column) | (found == 0))) != 0  # a mask, whatever the type of "and" is
        least = tl.where(found, lowest, least)
        sink = tl.where(found & (owner < 0), column, sink)
        searching = found & (owner >= 0)
        row = tl.where(searching, owner, row)
        entered = tl.where(searching & (rows == owner), lowest, entered)
    return sink, least, path, shortest, entered, visited, left


@triton.jit
def _solve(
    cost, spans, answer, set_stride, object_stride, query_stride, G, Q,
    BR: tl.constexpr, BC: tl.constexpr, QUERIES_FIRST: tl.constexpr,
):  # fmt: skip
    n, image = tl.program_id(0), tl.program_id(1)
    start, count = tl.load(spans + 2 * image), tl.load(spans + 2 * image + 1)
    costs = cost + n.to(tl.int64) * set_stride + start.to(tl.int64) * object_stride
    answer += n.to(tl.int64) * G + start
    # the shorter side are rows, as SciPy has it
    num_rows, num_columns = (Q, count) if QUERIES_FIRST else (count, Q)
    row_stride, column_stride = (query_stride, object_stride) if QUERIES_FIRST else (object_stride, query_stride)
    rows, columns = tl.arange(0, BR), tl.arange(0, BC)
    u, v = tl.zeros((BR,), tl.float64), tl.zeros((BC,), tl.float64)
    column_of, taken = tl.full((BR,), -1, tl.int32), tl.full((BC,), -1, tl.int32)
    for current in range(0, num_rows):
        inside = columns < num_columns
        sink, least, path, shortest, entered, visited, left = _search(
            costs, rows, columns, inside, taken, u, v, current, column_stride, row_stride
        )
        solved = sink >= 0
        gain = tl.where(rows == current, least, least - entered)
        u = tl.where(solved & visited, u + gain, u)
        v = tl.where(solved & inside & (left == 0), v - (least - shortest), v)
        column, going = sink, solved
        while going:
            row = tl.sum(tl.where(columns == column, path, 0), axis=0)
            before = tl.sum(tl.where(rows == row, column_of, 0), axis=0)
            taken = tl.where(columns == column, row, taken)
            column_of = tl.where(rows == row, column, column_of)
            column = before
            going = row != current
    if QUERIES_FIRST:
        tl.store(answer + columns, taken, mask=columns < num_columns)
    else:
        tl.store(answer + rows, column_of, mask=rows < num_rows)


def fits(counts: list[int], queries: int) -> bool:
    """Whether no problem is too large."""
    most = max(counts, default=0)
    return max(most, queries) <= COLUMNS and min(most, queries) <= ROWS


def solve(cost_NGQ: Tensor, counts: list[int]) -> Tensor:
    """The query of each object in the assignment of least total cost of each image of each set, (N, G) int32.

    -1 marks an object without one: there are more objects than queries, or costs are not finite.

    Args:
        cost_NGQ: cost of every object and query.
        counts: objects of each image; their sum is G.
    """
    N, G, Q = cost_NGQ.shape
    answer_NG = torch.full((N, G), -1, dtype=torch.int32, device=cost_NGQ.device)
    spans = {False: [], True: []}
    start = 0
    for count in counts:
        if count:
            spans[count > Q].append([start, count])
        start += count
    for queries_first, members in spans.items():
        if not members or not Q or not N:
            continue
        most = max(count for _, count in members)
        short, long = (Q, most) if queries_first else (most, Q)
        sizes = {"BR": triton.next_power_of_2(short), "BC": triton.next_power_of_2(long)}
        _solve[(N, len(members))](
            cost_NGQ, placed(members, cost_NGQ, torch.int32), answer_NG, *cost_NGQ.stride(), G, Q,
            **sizes, QUERIES_FIRST=queries_first, num_warps=min(8, max(1, sizes["BC"] // 128)),
        )  # fmt: skip
    return answer_NG
