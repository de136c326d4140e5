"""Devices by name, as people give them."""

from __future__ import annotations

import torch

from detrex_ext.errors import UserError


def usable_device(name: str | torch.device, option: str) -> torch.device:
    """The device of that name.

    Args:
        name: such as "cpu", "cuda" or "cuda:1".
        option: what it was given by, for messages.

    Raises:
        UserError: torch knows no such device, or there is no such GPU.
    """
    try:
        device = torch.device(name)
        if device.type != "cuda":
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{option}={name}: no device that torch can use\n  expected cpu, cuda or cuda:1") from error
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= found:
        few = f"only {found} GPU{'s' if found > 1 else ''}" if found else "no GPU"
        raise UserError(f"{option}={name}: there is {few} that torch can use\n"
                        f"  for the CPU: {option}{' ' if option.startswith('--') else '='}cpu")  # fmt: skip
    return device


def own_device(name: str | torch.device, option: str, processes: int) -> torch.device:
    """The usable device of that name, as this process's own: a GPU given by number becomes the current one.

    It is the current GPU whose memory and random numbers are meant where none is named.

    Args:
        name: such as "cpu", "cuda" or "cuda:1".
        option: what it was given by, for messages.
        processes: of the job.

    Raises:
        UserError: as :func:`usable_device`; or several processes would share the GPU.
    """
    device = usable_device(name, option)
    if device.type == "cuda" and device.index is not None:
        if processes > 1:
            raise UserError(
                f"{option}={name} with {processes} processes: each has a GPU of its own\n  use {option}=cuda"
            )
        torch.cuda.set_device(device)
    return device
