"""Weights that torchvision and timm publish, ``torchvision://resnet50`` and ``timm://convnext_tiny``.

Each goes to the cache that its library uses itself, and a file that lies there already is taken without a network.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlparse

import torch
from torchvision.models import get_model_weights, get_weight, list_models

from detrex_ext.errors import UserError


def find_torchvision(name: str) -> str:
    """Local path of a model's weights: the first published ones, or those of a name like ``ResNet50_Weights.DEFAULT``.

    Raises:
        UserError: torchvision has no such model or no weights of it.
        OSError: not in the cache, and it cannot be fetched.
    """
    try:
        weights = get_weight(name) if "." in name else next(iter(get_model_weights(name)))
    except (ValueError, AttributeError, KeyError, StopIteration):
        near = list_models(include=f"{name.split('.')[0].split('_')[0].lower()}*")[:5]
        raise UserError(
            f"checkpoint torchvision://{name}: torchvision has no such weights\n"
            f"  names are like resnet50 or ResNet50_Weights.IMAGENET1K_V2; near: {', '.join(near) or 'nothing'}"
        ) from None
    return _of_address(weights.url)


def find_timm(name: str) -> str:
    """Local path of a model's weights, with or without a tag (``resnet50.a1_in1k``).

    Raises:
        UserError: timm is not installed, or has no weights of that name.
        OSError: not in the cache, and it cannot be fetched.
    """
    try:
        import timm
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
    except ImportError as error:
        raise UserError(f"checkpoint timm://{name}: needs timm ({error})\n  pip install timm") from None
    try:
        found = timm.models.get_pretrained_cfg(name)
    except (RuntimeError, ValueError, KeyError):
        found = None
    if found is None or not (found.hf_hub_id or found.url):
        near = timm.list_pretrained(f"*{name.split('.')[0].split('_')[0]}*")[:5]
        raise UserError(
            f"checkpoint timm://{name}: timm {timm.__version__} has no weights of that name\n"
            f"  near: {', '.join(near) or 'nothing'}"
        )
    if not found.hf_hub_id:
        return _of_address(found.url)
    where = (found.hf_hub_id, found.hf_hub_filename or "model.safetensors")
    cached = try_to_load_from_cache(*where)
    if isinstance(cached, str):
        return cached
    try:
        return hf_hub_download(*where)
    except Exception as error:
        raise OSError(f"{where[1]} of https://huggingface.co/{where[0]}: {error}") from error


def _of_address(url: str) -> str:
    """The copy in torch's cache, fetched if it is not there and held against the digest in its name."""
    name = os.path.basename(urlparse(url).path)
    path = os.path.join(torch.hub.get_dir(), "checkpoints", name)
    if not os.path.isfile(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        digest = re.search(r"-([0-9a-f]{8,64})\.", name)
        try:
            torch.hub.download_url_to_file(url, path, digest[1] if digest else None)
        except Exception as error:
            raise OSError(f"{url} to {path}: {error}") from error
    return path
