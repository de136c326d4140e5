"""The commands: one module per verb, each with ``main(argv) -> exit code``."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence

from .waiting import settle_waiting

# verb -> (module, what it does); a module is imported when its verb is used
VERBS: dict[str, tuple[str, str]] = {
    "train": ("train", "train a model, or evaluate one with --eval-only"),
    "predict": ("predict", "draw and save what a model finds in images and videos"),
    "export": ("export", "write a trained model as ONNX or .pt2, compared with it"),
    "check": ("check", "check annotation files and their images"),
    "convert": ("convert", "write a checkpoint under the names of another project"),
    "analyze": ("analyze", "a model: parts and costs, errors by stage, queries at objects, attention"),
    "benchmark": ("benchmark", "measure time and memory on this machine"),
    "report": ("report", "one HTML page about a run: metrics, curves, errors, worst images, what is wrong"),
    "plot": ("plot", "draw the curves of runs"),
    "zoo": ("zoo", "trained models by name: list, check, build"),
    "doctor": ("doctor", "what this machine is, what was chosen for it, what is missing"),
}


def run(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Calls a verb's ``main``; bad input ends as one message on standard error.

    Returns:
        the exit code: what ``main`` returned, 2 for bad input, 1 for numbers that went bad or a process that was lost,
            130 for Ctrl-C.
    """
    from detrex_ext.errors import JobFailed, UserError, of_disk

    settle_waiting()
    try:
        return main(argv) or 0
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except (FloatingPointError, JobFailed) as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        return 1
    except OSError as error:
        if not (reason := of_disk(error)):
            raise
        print(reason, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def dispatch(argv: Sequence[str] | None = None) -> int:
    """``python -m detrex_ext VERB ...``."""
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if verb == "--version":
        from detrex_ext import __version__

        print(__version__)
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"unknown verb '{verb}'{hint}\n{_usage()}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"detrex_ext.cli.{VERBS[verb][0]}")
    return run(module.main, argv[1:])


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items())
    return f"usage: python -m detrex_ext VERB ...\n\n{verbs}\n\npython -m detrex_ext VERB --help says more"
