"""benchmarks/value.py: the choice by the selection split, the paired difference, equal time, and going on."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
value, runs, tables, data = map(importlib.import_module, ("value", "value_runs", "value_tables", "value_data"))
sys.path.pop(0)
Trained = tables.Trained


def made(variant="bare", seed=0, steps=100, select=50.0, report=None, seconds=1.0, overlay=""):
    return Trained("hard", variant, seed, steps, overlay, select, seconds, report)


def test_the_difference_is_that_of_pairs_of_one_seed_with_students_interval():
    found = tables.difference({0: 52.0, 1: 61.0, 2: 43.0, 7: 99.0}, {0: 50.0, 1: 60.0, 2: 40.0})
    assert found.mean == pytest.approx(2.0) and found.within == pytest.approx(4.302653 * 1.0 / 3**0.5)
    assert found.shown is False and str(found) == "+2.0 ± 2.5"
    # seeds differ by 20 AP, and each gains the same
    assert tables.difference({0: 51.0, 1: 71.0, 2: 31.1}, {0: 50.0, 1: 70.0, 2: 30.0}).shown is True
    assert tables.difference({0: 49.0, 1: 69.0, 2: 28.9}, {0: 50.0, 1: 70.0, 2: 30.0}).shown is True
    assert tables.difference({3: 1.0}, {3: 9.0}) == tables.Difference(-8.0, None)
    with pytest.raises(ValueError, match="no seed in common"):
        tables.difference({0: 1.0}, {1: 1.0})


def test_the_best_length_is_chosen_by_the_selection_split_alone():
    bare = [made(steps=n, seed=s, select=a + s, report=r) for n, a, r in ((1, 40, 90), (2, 60, 10), (4, 60, 50))
            for s in (0, 1)]  # fmt: skip
    assert tables.best_length(bare) == 2
    reached, said = tables.plateau(bare)
    assert reached and "from 2 to 4 steps the bare model gains +0.0 ± 0.0 AP on the selection split" in said
    rising = [replace(run, select=run.select + (run.steps == 4) * (5 + 0.1 * run.seed)) for run in bare]
    assert tables.best_length(rising) == 4 and not tables.plateau(rising)[0]
    unsure = [replace(run, select=run.select + (run.steps == 4) * (1 - 9 * (-1) ** run.seed)) for run in bare]
    assert not tables.plateau(unsure)[0] and "+1.0 ± 114.4 AP" in tables.plateau(unsure)[1]
    assert not tables.plateau([r for r in bare if r.steps == 1])[0]


def test_equal_time_is_by_the_seconds_of_a_step_on_a_grid():
    bare, own = [made(seconds=s) for s in (1.0, 1.1, 9.0)], [made("sqr", seconds=s) for s in (1.6, 1.4, 1.5)]
    assert tables.equal_time(1000, bare, own, 50) == 750 and tables.equal_time(1000, bare, own, 1) == 733
    assert tables.equal_time(10, bare, [made("slow", seconds=1e6)], 50) == 50
    assert tables.equal_time(1000, bare, [made("free", seconds=1.11)], 50) == 1000


def test_the_table_tells_what_is_shown_and_what_is_lacking():
    seeds, found = (0, 1, 2), []
    for seed, ap in zip(seeds, (50.0, 60.0, 40.0), strict=True):
        found += [made(seed=seed, steps=n, select=ap + n / 100, report=ap if n == 200 else None) for n in (100, 200)]
        found.append(made("sqr", seed, 200, ap, ap - 5 - 0.1 * seed, 2.0))
        found += [made("sqr", seed, 100, ap, ap + 9, 2.0)] if seed else []
    text = tables.tables("hard", found, seeds, 50)
    rows = [line for line in text.splitlines() if line.startswith("| bare |") or line.startswith("| sqr")]
    assert rows[0] == "| bare | | 200 | x 1.00 | 50.0 ± 10.0 | 50.0, 60.0, 40.0 | | |"
    assert rows[1] == "| sqr | steps | 200 | x 2.00 | 44.9 ± 10.1 | 45.0, 54.9, 34.8 | -5.1 ± 0.2 | yes |"
    assert rows[2].startswith("| sqr | time | 100 ") and rows[2].endswith("| yes; 2 of 3 seeds |")
    assert "best: 200 steps" in text and "the plateau is not reached" in text
    unknown = tables.tables("hard", [replace(run, report=None) for run in found], seeds, 50)
    assert "not evaluated yet" in unknown


@pytest.fixture()
def coco(tmp_path):
    def write(name, count):
        images = [{"id": 7 * i, "file_name": f"{name}{i}.png", "width": 8, "height": 8} for i in range(count)]
        boxes = [{"id": i, "image_id": 7 * (i % count), "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16,
                  "iscrowd": 0} for i in range(3 * count)]  # fmt: skip
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}))
        return file

    (tmp_path / "images").mkdir()
    return write


def test_the_selection_split_is_cut_once_and_shares_no_image(coco, tmp_path):
    source = coco("train", 20)
    read = [json.loads(f.read_text()) for f in data.cut(source, tmp_path / "a")]
    kept, chosen = ({image["id"] for image in part["images"]} for part in read)
    assert len(chosen) == 4 and not kept & chosen and len(kept | chosen) == 20
    for part, ids in zip(read, (kept, chosen), strict=True):
        assert {a["image_id"] for a in part["annotations"]} == ids and part["categories"]
    assert sum(len(part["annotations"]) for part in read) == 60
    again = [f.read_text() for f in data.cut(source, tmp_path / "b")]
    assert again == [(tmp_path / "a" / n).read_text() for n in ("train.json", "select.json")]
    assert data.cut(source, tmp_path / "c", seed=1)[1].read_text() != again[1]
    assert [len(json.loads(f.read_text())["images"]) for f in data.cut(coco("two", 2), tmp_path / "d")] == [1, 1]
    with pytest.raises(SystemExit, match="1 images, of which no selection split"):
        data.cut(coco("one", 1), tmp_path / "e")


def test_data_sets_that_are_not_there_are_told(coco, tmp_path):
    with pytest.raises(SystemExit, match="expected shapes, hard or NAME=FOLDER"):
        data.prepare("circles", tmp_path / "out", 8)
    with pytest.raises(SystemExit, match=r"instances_val|val\.json not found"):
        coco("train", 4)
        data.prepare(f"own={tmp_path}", tmp_path / "out", 8)


class Pretended(runs.Bench):
    """A bench whose processes leave what a training leaves, and are counted."""

    fails = ()

    def call(self, command, log, kept=0.0, needs=0.0):
        self.calls.append(command)
        if any(word in " ".join(command) for word in self.fails):
            raise RuntimeError("ended with 1")
        if "--eval-only" in command:
            log.write_text("x copypaste: Task: bbox\nx copypaste: AP,AP50\nx copypaste: 41.5,60.0\n")
            return
        steps = int(next(w for w in command if w.startswith("train.max_iter=")).partition("=")[2])
        rows = [{"iteration": i, "bbox/AP": 10.0 + (i == 3) * min(steps, 20)} for i in (1, 3, 5)]
        (log.parent / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        slow = "sqr" in command
        Path(command[2]).write_text(json.dumps({"seconds": 2.0 if slow else 1.0}))


@pytest.fixture()
def bench(coco, tmp_path):
    coco("train", 10), coco("val", 5)

    def begin(**options):
        args = {"output": tmp_path / "out", "minutes": None, "config_file": "", "base": "", "overrides": ["a.b=1"],
                "device": "cpu", "jobs": 2, "seeds": [0, 1], "steps": [10, 20, 40], "overlay": ["sqr"], "images": 8,
                "grid": 5, "data": [f"own={tmp_path}"]}  # fmt: skip
        (tmp_path / "out").mkdir(exist_ok=True)
        made = Pretended(SimpleNamespace(**{**args, **options}))
        made.calls = []
        return made

    return begin


def test_the_whole_protocol_goes_on_where_it_was_stopped(bench, tmp_path):
    first = bench()
    first.fails = ("own/sqr_20_1",)
    value.measure(f"own={tmp_path}", first)
    trainings = [c for c in first.calls if "--eval-only" not in c]
    asked = [next(w for w in c if w.startswith("dataset.val_json")) for c in trainings]
    assert {Path(w).name for w in asked} == {"select.json"} and all("a.b=1" in c for c in trainings)
    reports = [c for c in first.calls if "--eval-only" in c]
    assert all(f"dataset.val_json={tmp_path.resolve() / 'val.json'}" in c for c in reports)
    # 3 lengths of bare, the strategy as long and half as long, of two seeds; reported: the best length of bare alone
    assert len(trainings) == 10 and len(reports) == 2 + 1 + 2
    assert "not made: own sqr 20 1: ended with 1" in value.page(first)
    second = bench()
    value.measure(f"own={tmp_path}", second)
    assert len(second.calls) == 2 and any("train.seed=1" in w for w in second.calls[0])
    text = value.page(second)
    assert "best: 20 steps" in text and "| sqr | time | 10 | x 2.00 | 41.5 ± 0.0" in text and "not made" not in text
    third = bench()
    value.measure(f"own={tmp_path}", third)
    assert third.calls == [] and value.page(third) == text


def test_a_line_that_was_cut_off_is_left_out_and_a_name_stands_for_one_thing(bench, tmp_path):
    file = tmp_path / "results.jsonl"
    run = made("sqr", overlay="sqr window=3", report=1.0)
    file.write_text("".join(json.dumps(asdict(r)) + "\n" for r in (replace(run, report=None), run)) + '{"data": "ha')
    book = runs.Book(file)
    assert list(book.runs.values()) == [run] and book.known(run) and not book.known(replace(run, seed=5))
    book.add(replace(run, seed=5))
    assert runs.Book(file).known(replace(run, seed=5))
    with pytest.raises(SystemExit, match="sqr is 'sqr window=3' there, not 'sqr'"):
        book.known(replace(run, overlay="sqr"))


def test_results_of_another_protocol_are_not_mixed(bench, tmp_path):
    value.check_protocol(bench().args)
    value.check_protocol(bench(seeds=[0, 1, 2]).args)
    with pytest.raises(SystemExit, match=r"another protocol: device cpu -> cuda"):
        value.check_protocol(bench(device="cuda").args)


def test_nothing_outlasts_the_minutes(bench, tmp_path):
    late = runs.Bench(bench(minutes=0.05).args)
    with pytest.raises(RuntimeError, match="the time was over before"):
        late.call([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", late.kept)
    with pytest.raises(RuntimeError, match="no time left for it"):
        late.call([sys.executable, "-c", ""], tmp_path / "log", needs=1e3)
    with pytest.raises(RuntimeError, match=r"ended with 3, see .*: why"):
        runs.Bench(bench().args).call([sys.executable, "-c", "print('why'); exit(3)"], tmp_path / "log")


def test_overlays_and_overrides_are_laid_over_those_of_the_base():
    assert value._over("tiny a=1", "sqr,dac b=2") == "tiny,sqr,dac a=1 b=2"
    assert value._over("", "c=3") == "c=3" and value._over("tiny", "") == "tiny"


RESULTS = tables.read((BENCHMARKS / "value_results.jsonl").read_text(encoding="utf-8"))


def words(*parts):
    """A page as one line of words."""
    return " ".join(BENCHMARKS.parent.joinpath(*parts).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("name", sorted({run.data for run in RESULTS.values()}))
def test_the_page_has_the_tables_of_its_results(name):
    page = BENCHMARKS.joinpath("value.md").read_text(encoding="utf-8")
    assert tables.tables(name, [run for run in RESULTS.values() if run.data == name], (0, 1, 2), 50) in page


def test_other_pages_tell_of_the_same_gains():
    def figures(name, variant, steps):
        wanted = [r for r in RESULTS.values() if (r.data, r.variant, r.steps) == (name, variant, steps)]
        return tables.by_seed(wanted, "report")

    lengths = {"shapes": (3000, 2350), "kangaroo": (1600, 1600), "bccd": (1200, 1050)}
    gains, means = [], []
    for name, (steps, as_long) in lengths.items():
        three = [figures(name, "bare", steps), figures(name, "deim", steps), figures(name, "deim", as_long)]
        gains.append(str(tables.difference(three[2], three[0])).removeprefix("+"))
        means.append([f"{statistics.fmean(each.values()):.1f}" for each in three])
    said = "{} AP on 240 generated images, and from ImageNet weights {} on 105 photographs of kangaroos and {} on 164"
    assert said.format(*gains) in words("README.md")
    shapes, kangaroo, bccd = means
    page = words("projects", "deim", "README.md")
    assert "{}, {}, {} AP; 105 kangaroos".format(*shapes) in page
    assert "{}, {} for both".format(*kangaroo[:2]) in page and "{}, {}, {}.".format(*bccd) in page
