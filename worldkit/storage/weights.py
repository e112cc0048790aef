"""Weights in a safetensors file, tensors that share memory included.

A file holds every tensor once. Its metadata say which other names stood for the same one (tied weights), so that a
reader has them all: ``"aliases": '{"head.weight": "embed.weight"}'``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError

ALIASES = "aliases"


def write_weights(state: Mapping[str, Any], path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write the tensors of a state dict.

    Args:
        state: Name -> tensor, on any device. Two names of one tensor are stored once; overlapping parts of one memory
            are stored apart.
        path: File to write.
        metadata: Further facts for its header.
    Raises:
        CheckpointError: for an entry that a safetensors file cannot hold.
        OSError, SafetensorError: the file cannot be written.
    """
    from safetensors.torch import save_file

    check_storable(state)
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    names: dict[tuple, str] = {}
    memories: set[int] = set()
    for name, tensor in state.items():
        place = _place(tensor)
        if tensor.numel() and place in names:
            aliases[name] = names[place]
            continue
        names[place] = name
        own = tensor.detach().contiguous().cpu()
        memory = own.untyped_storage().data_ptr()
        tensors[name] = own.clone() if memory in memories else own
        memories.add(memory)
    known = {**metadata, **({ALIASES: json.dumps(aliases)} if aliases else {})}
    save_file(tensors, path, metadata=known)


def _place(tensor: Tensor) -> tuple:
    """Equal for two tensors that are one and the same memory."""
    memory = tensor.untyped_storage().data_ptr()
    return tensor.device, memory, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def check_storable(state: Mapping[str, Any]) -> None:
    """Refuse what no safetensors file holds, before a training begins rather than at its first checkpoint.

    Raises:
        CheckpointError: naming the entry, what it is, and what to do.
    """
    for name, value in state.items():
        if not torch.is_tensor(value):
            what, instead = f"a {type(value).__name__}", "keep it in the config, or in a buffer"
        elif value.layout != torch.strided:
            what, instead = f"a tensor of layout {value.layout}", "register it with .to_dense()"
        elif not _holds(value.dtype):
            what, instead = f"a tensor of dtype {value.dtype}", "register it in another dtype"
        else:
            continue
        raise CheckpointError(
            f"'{name}' is {what}, which a weights file (safetensors) cannot hold: {instead}, or, if it can be made "
            "again, with register_buffer(..., persistent=False)"
        )


@functools.cache
def _holds(dtype: torch.dtype) -> bool:
    from safetensors.torch import save

    try:
        return bool(save({"x": torch.empty(0, dtype=dtype)}))
    except Exception:  # a KeyError, in some versions
        return False


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; names that stood for one tensor have one.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            aliases = _aliases(file, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read weights {path}: {error}") from error
    return tensors | {name: tensors[kept] for name, kept in aliases.items()}


def stored_shapes(path: Path) -> dict[str, list[int]]:
    """Name -> shape of the tensors in a safetensors file, from its header.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            aliases = _aliases(file, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read weights {path}: {error}") from error
    return shapes | {name: shapes[kept] for name, kept in aliases.items()}


def _aliases(file: Any, path: Path) -> dict[str, str]:
    """Name -> name of the tensor it stands for.

    Raises:
        CheckpointError: if they are not of this file.
    """
    text, names = (file.metadata() or {}).get(ALIASES, "{}"), set(file.keys())
    try:
        aliases = json.loads(text)
        if not isinstance(aliases, dict) or not all(name not in names and kept in names
                                                    for name, kept in aliases.items()):
            raise ValueError(f"it says that {text[:200]} stand for its tensors")
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"cannot read weights {path}: its header is damaged: {error}") from error
    return aliases


def put(model: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Load tensors that fit; parameters that were one and the same when they were saved are so again.

    Args:
        model: Changed in place.
        state: Name -> tensor.
        strict: There must be one for every tensor of the model.
    """
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if 0 in buffer.stride() and buffer.numel():  # expanded: torch cannot write into it
                module._buffers[name] = buffer.clone(memory_format=torch.contiguous_format)
    model.load_state_dict(dict(state), strict=strict)
    own, first = dict(model.named_parameters(remove_duplicate=False)), {}
    for name in own.keys() & state.keys():
        if state[name].numel():
            first.setdefault(_place(state[name]), []).append(name)
    for names in first.values():
        kept, *others = sorted(names)
        for name in others:
            if own[name] is not own[kept]:
                owner, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(owner), leaf, own[kept])
