"""The arguments that constructors take, with their types, defaults and declared ranges."""

from __future__ import annotations

import builtins
import inspect
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from .files import PACKAGE
from .options_arguments import ARGUMENTS, EXCEPTIONS, FOREIGN
from .options_types import UNKNOWN, Option

_MODULE = "torch.nn.modules.module"
_OURS = ("detrex_ext.", "detectron2.solver.")


@dataclass(frozen=True)
class Argument:
    """An argument of a constructor: annotation, default (``UNKNOWN``: none) and declared range."""

    kind: Any
    default: Any
    option: Option


def is_ours(target: Any) -> bool:
    """Whether the annotations of a class or function are relied on; not one of a person's config file or overlay."""
    module = f"{getattr(target, '__module__', '')}."
    return module.startswith(_OURS) and not module.startswith(f"{PACKAGE}.")


@cache
def arguments(target: Any) -> tuple[dict[str, Argument], bool]:
    """(arguments by name, whether others are taken too) of a class or function."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return {}, True
    function = inspect.unwrap(target.__init__ if isinstance(target, type) else target)
    names = _Names({**getattr(function, "__globals__", {}), **vars(inspect.getmodule(target) or builtins)})
    named = [p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    more = any(p.kind is p.VAR_KEYWORD for p in parameters)
    torch_module = sys.modules.get(_MODULE)
    bare = torch_module is not None and isinstance(target, type) and target.__init__ is torch_module.Module.__init__
    return {p.name: _argument(target, p, names) for p in named}, more and not bare  # torch's signature says otherwise


def _argument(target: Any, parameter: inspect.Parameter, names: _Names) -> Argument:
    name, default = parameter.name, UNKNOWN if parameter.default is parameter.empty else parameter.default
    module = f"{getattr(target, '__module__', '')}."
    option, kind = None, Any
    if is_ours(target):
        option = EXCEPTIONS.get((getattr(target, "__name__", ""), name), ARGUMENTS.get(name))
        kind = parameter.annotation
        if isinstance(kind, str):
            kind = eval(kind, {"__builtins__": {}}, names)
        kind = Any if kind is parameter.empty else kind
    else:
        option = next((rows.get(name) for prefix, rows in FOREIGN.items() if module.startswith(prefix)), None)
    option = option or Option()
    return Argument(kind if option.type is None else option.type, default, option)


class _Part:
    """Stands for a name that is there for type checkers only: some class."""


class _Names(dict):
    """Names of a module, for its annotations."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, _Part)
