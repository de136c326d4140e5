"""Weights of one number of queries into a model of another: the common rows of what is learned of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from detrex_ext.modeling.queries import QuerySource

from .layouts import Sliced


def query_tables(model: nn.Module, own: Mapping[str, Tensor]) -> list[str]:
    """Keys of the model's tensors that have a row for each query of a source, or for each extra one of hybrid queries.

    Args:
        model: with the sources.
        own: its state dict, the parameters themselves.
    """
    tables = []
    for part in model.modules():
        if isinstance(part, QuerySource):
            try:
                tables.append(part.rows())
            except NotImplementedError:
                pass
            tables.append(getattr(part, "extra", None))
    known = {id(table.weight) for table in tables if isinstance(table, nn.Embedding)}
    return [key for key, value in own.items() if id(value) in known]


def common_rows(values: dict[str, Tensor], model: nn.Module, own: Mapping[str, Tensor]) -> list[Sliced]:
    """Fits the query tables of a file to the model's number of queries, in place; rows that it lacks stay.

    Args:
        values: tensors by the model's names.
        model: its values are used, and not changed.
        own: its state dict, the parameters themselves.
    """
    done = []
    for key in query_tables(model, own):
        there, here = values.get(key), own[key].detach()
        if there is None or there.shape[1:] != here.shape[1:] or there.shape == here.shape or not there.numel():
            continue
        rows = min(len(there), len(here))
        values[key] = here.clone().to(there.dtype)
        values[key][:rows] = there[:rows].to(here.device)
        kept = f", the last {len(here) - rows} as before" if rows < len(here) else ""
        done.append(Sliced(key, len(there), len(here), f"the first {rows} queries{kept}"))
    return done


def number_hint(mismatched: Sequence[tuple[str, tuple, tuple]], model: nn.Module) -> list[str]:
    """A line for a message, where (key, shape in the file, shape in the model) differ by the number of queries."""
    tables = query_tables(model, model.state_dict(keep_vars=True))
    found = [(a[0], b[0]) for key, a, b in mismatched if key in tables and a[:1] != b[:1] and a[1:] == b[1:]]
    if not found:
        return []
    there, here = found[0]
    return [f"the file is of {there} queries, the model of {here}: give the model the file's number (only a training "
            "that starts from the file, train.init_checkpoint, takes the rows they share)"]  # fmt: skip
