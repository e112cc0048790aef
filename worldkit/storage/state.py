"""``state.pt`` of a checkpoint: tensors and plain values, with checksums of the weights beside it.

PyTorch writes a checksum of every tensor and does not look at it; files of safetensors have none. A number that a disk
or a copy has changed would go on unnoticed.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError

STATE_FILE = "state.pt"
_SUMS = "checksums"


def write_state(state: Mapping[str, Any], folder: Path) -> None:
    """Write ``folder/state.pt``, after all weights that it is to vouch for.

    Args:
        state: Tensors and plain values.
        folder: A checkpoint's, complete but for this file.
    """
    sums = {file.relative_to(folder).as_posix(): _checksum(file) for file in folder.rglob("*.safetensors")}
    torch.save({**state, _SUMS: sums}, folder / STATE_FILE)


def read_state(folder: Path) -> dict[str, Any]:
    """What `write_state` was given, where no number of it or of the weights has changed since.

    Raises:
        CheckpointError: naming the file that has changed. Files that are cut or no checkpoints raise what PyTorch and
            Python's ``zipfile`` raise.
    """
    path = folder / STATE_FILE
    with zipfile.ZipFile(path) as archive:
        if (changed := archive.testzip()) is not None:
            raise CheckpointError(f"{path} has changed since it was written: the checksum of {changed} in it is wrong")
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, stored in state.pop(_SUMS, {}).items():  # 0.1 had none at first
        if (folder / name).is_file() and _checksum(folder / name) != stored:
            raise CheckpointError(f"{folder / name} has changed since it was written: its checksum is wrong")
    return state


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while part := file.read(2**20):
            found = zlib.crc32(part, found)
    return found
