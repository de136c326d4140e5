"""A config as Python text, for a person to read or compare."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from detrex_ext.runtime.standalone.calls import to_name

_WIDTH = 88


def to_py(cfg: DictConfig, prefix: str = "cfg.") -> str:
    """One assignment per value, in order of keys; what is called as the call, references as their values.

    Args:
        cfg: a config; not changed.
        prefix: what stands before each key.

    Raises:
        omegaconf.errors.OmegaConfBaseException: a reference to nothing.
    """
    return "".join(_assignments(OmegaConf.to_container(cfg, resolve=True), prefix.removesuffix(".")))


def _assignments(value: Any, path: str) -> list[str]:
    if not isinstance(value, dict) or not value or "_target_" in value:
        return [f"{path} = {_text(value, len(path) + 3, 0)}\n"]
    lines = []
    for key in sorted(value, key=str):
        plain = isinstance(key, str) and key.isidentifier()
        lines += _assignments(value[key], f"{path}.{key}" if plain else f"{path}[{_text(key, 0, 0)}]")
    return lines


def _text(value: Any, taken: int, indent: int) -> str:
    """A value as an expression, over several lines where it is too wide.

    Args:
        value: plain, or a call.
        taken: characters of the line before it.
        indent: spaces before that line.
    """
    if isinstance(value, dict) and "_target_" in value:
        target = value["_target_"]
        name = target if isinstance(target, str) else _text(target, 0, indent)
        parts = [(f"{key}=", item) for key, item in value.items() if key != "_target_"]
        opening, closing = f"{name}(", ")"
    elif isinstance(value, dict):
        parts = [(f"{_text(key, 0, 0)}: ", item) for key, item in value.items()]
        opening, closing = "{", "}"
    elif isinstance(value, list):
        parts, opening, closing = [("", item) for item in value], "[", "]"
    else:
        return _atom(value)
    inner = indent + 4
    items = [before + _text(item, inner + len(before), inner) for before, item in parts]
    joined = ", ".join(items)
    if "\n" not in joined and taken + len(opening) + len(joined) + len(closing) < _WIDTH:
        return f"{opening}{joined}{closing}"
    if "\n" in joined or inner + len(joined) > _WIDTH:
        joined = "".join(f"{' ' * inner if number else ''}{item},\n" for number, item in enumerate(items))[:-1]
    return f"{opening}\n{' ' * inner}{joined}\n{' ' * indent}{closing}"


def _atom(value: Any) -> str:
    if isinstance(value, str):
        text = repr(value)
        return text if '"' in text else f'"{text[1:-1]}"'
    return to_name(value) if hasattr(value, "__qualname__") else repr(value)
