"""Recorded outputs of semantic-wm's code, and the names of its weights."""

import re
from pathlib import Path

import torch

from . import jepa_files
from .jepa_files import Fixture, close

__all__ = ["Fixture", "close", "folders", "load", "close_grads"]
ROOT = jepa_files.ROOT.parent / "semanticwm"


def folders(pattern):
    """Fixture folders, and the mark of tests that need one."""
    import pytest

    found = sorted(path for path in Path(ROOT).glob(pattern) if path.is_dir())
    return found, pytest.mark.skipif(not found, reason=f"golden files not found at {ROOT}; set WORLDKIT_PARITY")


def load(module, weights, name_of):
    """Fill a module with foreign weights, every one of them, and every parameter of ours.

    ``name_of``: their key -> ours, or (ours, number of the third of its rows) of separate queries, keys and values.
    """
    ours, filled = dict(module.named_parameters()), {}
    with torch.no_grad():
        for key, value in weights.items():
            name, part = rows_of(name_of(key))
            target = ours[name]
            rows = slice(None) if part is None else slice(part * len(value), (part + 1) * len(value))
            assert target[rows].numel() == value.numel(), f"{key} {list(value.shape)}, {name} {list(target.shape)}"
            target[rows] = value.reshape(target[rows].shape)
            filled[name] = filled.get(name, 0) + value.numel()
    assert filled == {name: p.numel() for name, p in ours.items()}, "parameters that stay empty"


def rows_of(name):
    return name if isinstance(name, tuple) else (name, None)


def close_grads(module, norms, name_of, rtol=1e-9):
    """Norms of gradients by their key; what should be 0 is so up to rounding."""
    ours = dict(module.named_parameters())
    largest = max(norm or 0.0 for norm in norms.values())
    for key, norm in norms.items():
        name, part = rows_of(name_of(key))
        grad = ours[name].grad
        if norm is None:
            assert grad is None or not grad.any(), key
            continue
        if part is not None:
            count = len(grad) // 3
            grad = grad[part * count : (part + 1) * count]
        found = 0.0 if grad is None else grad.norm().item()
        assert abs(found - norm) <= rtol * max(norm, 1e-3 * largest), f"gradient of {key}: {found}, {norm}"


def renamed(key, rules):
    for pattern, into in rules:
        key = re.sub(pattern, into, key)
    return key
