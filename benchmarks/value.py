#!/usr/bin/env python
"""Where a training strategy pays: every strategy beside the bare model, after trainings that are long enough.

    python benchmarks/value.py --data shapes --data hard --data kangaroo=DIR --steps 1000,2000,4000
    python benchmarks/value.py --data hard --overlay mal --overlay "late: sqr model.strategies.sqr.since=0.2"
    python benchmarks/value.py --data hard --device cuda --minutes 8 --jobs 6 --steps 300,600,1200 --seeds 0,1

Protocol. A selection split, a fifth, is cut from the training images. The bare model is trained at each length; of a
training the checkpoint that is best on the selection split is kept, and of the lengths the one of the best mean there.
Then every strategy is trained as many steps, and as many as it makes in the same time. Only then the kept checkpoints
of these, and of the bare model at its best length, are evaluated on the reported split, each once. A difference is
paired by seed, and shown where it is beyond the 95 % interval of its mean (Student's t over the seeds).

Time is that of a step: processor time on a CPU, wall time on a GPU, where all of `--jobs` trainings share it. Every
result is a line of `results.jsonl` in the output folder as soon as it is known, `value.md` has the tables; what is
there is not made again, so the same command goes on with a run that was stopped. With `--minutes` no training outlasts
them. `--data`: shapes, hard, or NAME=FOLDER with train.json, val.json and images. Without `--overlay` all that there
are, but for those that need more than a data set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pairs import strategies
from value_data import prepare
from value_runs import Bench
from value_tables import best_length, equal_time, tables
from variants import named, split

NEED_MORE = ("distill",)


def measure(text: str, bench: Bench) -> None:
    """The protocol on one data set."""
    args = bench.args
    data = prepare(text, args.output, args.images)
    bare = bench.trained(data, [("bare", args.base, steps) for steps in args.steps])
    if not bare:
        return
    best = best_length(bare)
    bare = [run for run in bare if run.steps == best]
    variants = [(name, _over(args.base, more)) for name, more in map(named, args.overlay)]
    same = bench.trained(data, [(name, more, best) for name, more in variants])
    longer = []
    for name, more in variants:
        if own := [run for run in same if run.variant == name]:
            longer.append((name, more, equal_time(best, bare, own, args.grid)))
    made = [*bare, *same, *bench.trained(data, longer)]
    left = {run.key: run for run in made if run.report is None}
    bench.all_of(data, bench.report, left.values())


def page(bench: Bench) -> str:
    """What is known, with how it was made."""
    args, clock = bench.args, "wall" if bench.args.device.startswith("cuda") else "processor"
    shown = [tables(name, runs, args.seeds, args.grid) for text in args.data
             if (runs := bench.book.of(name := text.partition("=")[0])) and any(r.variant == "bare" for r in runs)]
    made_by = sorted({run.commit for run in bench.book.runs.values()})
    how = (f"Time of a step: {clock} time; {args.jobs} trainings at a time on {args.device}; ± of figures is the "
           "standard deviation over seeds, of differences the 95 % interval of the mean, paired by seed "
           f"(Student's t); commit {', '.join(made_by)}.")  # fmt: skip
    failed = "".join(f"- not made: {' '.join(map(str, key))}: {why}\n" for key, why in bench.failed.items())
    return "\n\n".join([*shown, how, *filter(None, [failed.strip()])]) + "\n"


def _over(base: str, text: str) -> str:
    """Overlays and overrides laid over a base's."""
    overlays, overrides = split(text)
    first, more = split(base)
    return " ".join([",".join(filter(None, [first, overlays])), *more, *overrides]).strip()


def check_protocol(args: argparse.Namespace) -> None:
    """Writes down what all results of a folder have in common, or compares with it.

    Raises:
        SystemExit: the folder holds results of something else.
    """
    now = {"config": args.config_file, "base": args.base, "overrides": args.overrides, "images": args.images,
           "device": args.device}  # fmt: skip
    file = args.output / "protocol.json"
    if file.is_file() and (then := json.loads(file.read_text(encoding="utf-8"))) != now:
        differs = ", ".join(f"{key} {then.get(key)} -> {now[key]}" for key in now if then.get(key) != now[key])
        raise SystemExit(f"{args.output} holds results of another protocol: {differs}\n  choose another --output")
    file.write_text(json.dumps(now) + "\n", encoding="utf-8")


def numbers(text: str) -> list[int]:
    """Numbers with commas between."""
    return sorted({int(word) for word in text.split(",")})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", action="append", required=True, metavar="NAME[=FOLDER]")
    parser.add_argument("--overlay", action="append", metavar="[NAME:] A,B KEY=VALUE", help="a strategy")
    parser.add_argument("--config-file", default="", metavar="F", help="the host; default: the one for the data")
    parser.add_argument("--base", default="", metavar="A,B", help="laid over the host first")
    parser.add_argument("--steps", type=numbers, default=[1000, 2000, 4000], metavar="N,N,N", help="of the bare model")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], metavar="S,S")
    parser.add_argument("--grid", type=int, default=50, metavar="N", help="steps at equal time: a multiple of N")
    parser.add_argument("--images", type=int, default=600, metavar="N", help="of a generated training set")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, metavar="M", help="no training or evaluation outlasts them")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time")
    parser.add_argument("--output", type=Path, default=Path("output/value"), metavar="DIR")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    args.overlay = args.overlay or [name for name in strategies() if name not in NEED_MORE]
    args.output.mkdir(parents=True, exist_ok=True)
    check_protocol(args)
    bench = Bench(args)
    for text in args.data:
        measure(text, bench)
        (args.output / "value.md").write_text(page(bench), encoding="utf-8")
    print(page(bench))


if __name__ == "__main__":
    main()
