"""The flags of a training: detectron2's, in any order."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from detrex_ext.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse's, which names the flag or choice that is nearest to a mistyped one."""

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2 and the message."""
        flag = re.search(r"unrecognized arguments:.*?(--[\w-]+)", message)
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message, re.DOTALL)
        if flag:
            elsewhere = flag[1] in self._flags()
            message += "; it belongs to another of the verbs" if elsewhere else did_you_mean(flag[1], self._flags())
        elif choice:
            message += did_you_mean(choice[1], re.findall(r"[\w-]+", choice[2]))
        super().error(message)

    def _flags(self) -> list[str]:
        """Those of this parser and of its verbs."""
        found = list(self._option_string_actions)
        for action in self._actions:
            for verb in (action.choices or {}).values() if isinstance(action, argparse._SubParsersAction) else ():
                found += verb._flags()
        return found


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """"; did you mean ...?", or "" where nothing is near."""
    near = difflib.get_close_matches(word, list(dict.fromkeys(known)), 2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def check_overrides(opts: Sequence[str]) -> None:
    """Refuses `key = value`, three words of a shell.

    Raises:
        UserError: names the override as it is written.
    """
    for before, word, after in zip(["", *opts], opts, [*opts[1:], ""], strict=False):
        key, sign, value = word.partition("=")
        if sign and not key:
            raise UserError(f"'{word}' is no override; no blanks around =: {before}={value or after}")
        if word.endswith("=") and after and "=" not in after:
            raise UserError(f"'{word} {after}' is no override; no blanks around =: {word}{after}")


class _AnyOrderParser(Parser):
    """Flags and `key=value` overrides in any order."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        return self.parse_intermixed_args(args, namespace)


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """detectron2's flags, in any order and between the overrides, and `--overlay A,B`.

    `args.opts` is the list of overrides, `args.overlay` the list of overlays.
    """
    parser = _AnyOrderParser(epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="config by path or by short name")
    add("--resume", action="store_true", help="go on from the last checkpoint of train.output_dir")
    add("--eval-only", action="store_true", help="evaluate train.init_checkpoint (or the last one, with --resume)")
    add("--no-average", action="store_true", help="with --eval-only: the trained weights, not the averaged ones")
    add("--replay", default="", metavar="FILE", help="run the step again that a training left in non_finite.pth")
    add("--num-gpus", type=int, default=1, help="processes on this machine (with train.device=cpu too)")
    add("--num-machines", type=int, default=1, help="machines of the job")
    add("--machine-rank", type=int, default=0, help="rank of this machine, from 0")
    add("--dist-url", default="auto", help="tcp://HOST:PORT of machine 0; on one machine a free port is found")
    add_overlay(parser)
    add("opts", nargs="*", default=[], metavar="key=value", help="overrides of the config: key=value, +new.key=value")
    return parser


def add_overlay(parser: argparse.ArgumentParser) -> None:
    """Adds ``--overlay A,B``, which may be repeated: a list of overlays, in order."""
    parser.add_argument(
        "--overlay", action="extend", type=names, default=[], metavar="A,B", help="overlays, applied in this order"
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Adds which config and weights of a checkpoint are meant, and whether its config is trusted."""
    add = parser.add_argument
    add("--config-file", metavar="F", help="config of the model, for a checkpoint that holds none")
    add("--no-average", action="store_true", help="the trained weights, not the averaged ones")
    add("--trust", action="store_true", help="build models of unknown packages named in a checkpoint")


def is_run(args: argparse.Namespace, key: str) -> bool:
    """Whether ``--config-file`` names a run folder and no override sets the key that the folder answers too.

    A config states where its run was written and what it started from; neither need be so any more.
    """
    return os.path.isdir(args.config_file) and not any(opt.lstrip("+").startswith(f"{key}=") for opt in args.opts)


def names(text: str) -> list[str]:
    """The names in a list with commas.

    Raises:
        argparse.ArgumentTypeError: one is empty, as where a blank follows a comma.
    """
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"'{text}' has an empty name; names are written without blanks, as sqr,dac")
    return found
