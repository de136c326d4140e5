"""Work done ahead, and like things put together: order, bounds, errors in their place."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import pytest

from detrex_ext.data.ahead import ahead, together


def alive():
    return [t for t in threading.enumerate() if t.name.startswith("ahead")]


@pytest.mark.parametrize("threads", [1, 3])
def test_results_are_in_order_and_made_ahead_but_not_far(threads):
    taken, made = [], []

    def items():
        for i in range(12):
            taken.append(i)
            yield i

    def prepare(i):
        time.sleep(0.002 * (i % 3))
        made.append(threading.current_thread())
        return i * i

    for i, got in enumerate(ahead(items(), prepare, 2, threads)):
        assert got == i * i and len(taken) <= i + 3
    assert i == 11 and threading.current_thread() not in made and not alive()


def test_the_next_is_prepared_while_the_caller_is_busy():
    second = threading.Event()
    results = ahead([1, 2], lambda i: second.set() if i == 2 else None, 1)
    next(results)
    assert second.wait(10)  # nobody asked for it yet
    assert list(results) == [None]


@pytest.mark.parametrize("where", ["items", "prepare"])
def test_an_error_comes_when_its_turn_does(where):
    def items():
        yield from range(3)
        if where == "items":
            raise OSError("no more")
        yield 3

    def prepare(i):
        if i == 3:
            raise OSError("no more")
        return i

    seen = []
    with pytest.raises(OSError, match="no more"):
        for got in ahead(items(), prepare, 5):
            seen.append(got)
    assert seen == [0, 1, 2] and not alive()


def test_a_caller_that_stops_leaves_no_thread():
    results = ahead(iter(range(10**9)), lambda i: i, 2)
    assert next(results) == 0 and alive()
    results.close()
    assert not alive()
    assert list(ahead([], str, 2)) == []


@dataclass
class Item:
    number: int
    kind: str
    done: bool = False
    nbytes: int = 1


def run(kinds, size, waiting=10**6, nbytes=10**6, of=1):
    batches = []

    def work(items):
        batches.append("".join(str(i.number) for i in items))
        for item in items:
            assert not item.done
            item.done = True

    items = [Item(i, kind, kind == "x", of) for i, kind in enumerate(kinds)]
    out = [i.number for i in together(iter(items), size, work, waiting, nbytes)]
    assert out == list(range(len(kinds)))
    return batches


def test_like_ones_go_together_and_come_back_in_order():
    assert run("aabab", 1) == list("01234")
    assert run("abababa", 2) == ["02", "13", "46", "5"]
    assert run("axbxa", 2) == ["04", "2"]  # what is done already is waited for by nobody
    assert run("", 3) == [] == run("xx", 3)
    assert run("abc", 2) == ["0", "1", "2"]  # never with others
    assert run("abbbbbb", 3, waiting=4) == ["123", "0", "456"]  # the first does not wait for ever
    assert run("abababab", 8, nbytes=3000, of=1000) == ["02", "13", "46", "57"]
    assert run("ab", 8, nbytes=10, of=1000) == ["0", "1"]  # one that is larger than all room


def test_what_fails_ends_it():
    def work(items):
        raise FloatingPointError("nan")

    results = together([Item(0, "a"), Item(1, "a")], 2, work, 9, 9)
    with pytest.raises(FloatingPointError):
        next(results)
