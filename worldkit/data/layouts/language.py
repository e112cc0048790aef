"""Bridge and LanguageTable: ``{train,valid,test}/EPISODE/`` with frames, metadata and an instruction.

The files are ``frame_NUMBER.png``, ``metadata_NUMBER.pt`` and ``instruction.pt``. Metadata is a dict with ``action``:
for Bridge the rotation of the gripper ``[3]``, for LanguageTable ``[2]``. What lies beside it becomes ``state``: for
Bridge ``state`` ``[7]``, ``action_world_vector`` ``[3]`` (the translation), ``action_gripper``, ``reward``. The
instruction is a dict with ``raw_instruction`` and token embeddings ``[32, 1024]`` of T5-large:
``instruction_embedding_t5`` (Bridge) or ``instruction_embedding`` (LanguageTable).

As upstream: episodes in the order of their names as text, of Bridge the first 21000 for training and the first 49
frames of each (more if clips are longer), of both the first 100 for validation; windows that pass the end repeat the
last frame with action 0 and done mask 0; in ``val`` and ``test`` every episode gives one clip, its first frames.
Otherwise: upstream draws random clips, of LanguageTable one in each quarter of an episode, of Bridge where an episode
is shorter than a clip; here every start that could be drawn is one window. Its warm-up and its training scripts
ignore the done mask; see `worldkit.objectives.elbo`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import DataError
from .files import has_below, load_pt, names_in, numbered, part_of, subfolders
from .source import Episode, LayoutSource, PaddedSource, SparseSource, View, read_metadata

EXPECTED = "{train,valid,test}/EPISODE/ with frame_NUMBER.png, metadata_NUMBER.pt and instruction.pt"
INSTRUCTION = "instruction.pt"
MAX_TRAIN_BRIDGE, MAX_VALID = 21_000, 100
TRAIN_FRAMES_BRIDGE = 49


def _number(stem: str) -> int:
    return int(stem.split(".")[0].split("_")[-1])


class InstructionSource(LayoutSource):
    """Episodes with an instruction.

    Args:
        language: ``"embedding"``: the stored token embeddings; ``"text"``: the sentence.
    """

    beside, number = ("action", "done_mask"), staticmethod(_number)
    embedding: ClassVar[str]

    def __init__(self, *arguments: Any, language: str, **options: Any):
        if language not in ("embedding", "text"):
            raise DataError(f"language must be 'embedding' or 'text', got {language!r}")
        self._key = "raw_instruction" if language == "text" else self.embedding
        super().__init__(*arguments, **options)

    def columns(self, episode: Episode) -> dict[str, np.ndarray]:
        found = read_metadata(episode.views[0].metadata_paths(), {"action": "action"})
        return {**found, "done_mask": np.ones(len(found["action"]), np.float32)}

    def constants(self, episode: Episode) -> dict[str, Any]:
        file = episode.views[0].folder / INSTRUCTION
        held = load_pt(file)
        if not isinstance(held, dict) or self._key not in held:
            raise DataError(f"{file} has no '{self._key}'")
        value = held[self._key]
        if hasattr(value, "detach"):  # a tensor
            value = value.detach().float().numpy()
        if not isinstance(value, str) and not (isinstance(value, np.ndarray) and value.ndim == 2):
            got = list(value.shape) if isinstance(value, np.ndarray) else type(value).__name__
            raise DataError(f"{file}: '{self._key}' must be a sentence or embeddings [L, E], got {got}")
        return {"language": value}

    def read_entry(self, episode: int, name: str) -> Any:
        if name == "language":
            return self.constants(self.episodes[episode])["language"]
        return super().read_entry(episode, name)


class BridgeSource(InstructionSource, PaddedSource):
    """Episodes of Bridge."""

    kind, embedding = "bridge", "instruction_embedding_t5"

    def last_start(self, episode: int, span: int) -> int:
        start = super().last_start(episode, span)
        return min(start, max(0, TRAIN_FRAMES_BRIDGE - span)) if span <= self.length(episode) else start


class LanguageTableSource(InstructionSource, SparseSource):
    """Episodes of LanguageTable."""

    kind, embedding = "langtable", "instruction_embedding"


def _first_instruction(target: str) -> dict[str, Any]:
    """What the instruction of some episode holds; nothing if this is another layout."""
    root = Path(target).expanduser()
    for split in ("train", "valid", "test"):
        if has_below(root, split, "*", INSTRUCTION):
            try:
                held = load_pt(next((root / split).glob(f"*/{INSTRUCTION}")))
            except (DataError, StopIteration):
                continue
            return held if isinstance(held, dict) else {}
    return {}


def is_bridge(target: str) -> bool:
    """Whether episodes have an ``instruction.pt`` with embeddings of T5 under Bridge's name."""
    return BridgeSource.embedding in _first_instruction(target)


def is_langtable(target: str) -> bool:
    """Whether episodes have an ``instruction.pt`` with embeddings under LanguageTable's name."""
    held = _first_instruction(target)
    return LanguageTableSource.embedding in held and BridgeSource.embedding not in held


def open_bridge(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    language: str = "embedding",
    max_episodes: int | None = None,
    resize: str = "crop",
    on_error: str = "raise",
) -> BridgeSource:
    """Bridge as the official LPWM code lays it out; see the module docstring.

    Args:
        target: The folder.
        split: ``"train"``, ``"val"`` or ``"test"``.
        height: Default: the images'.
        width: Default: the height given, else the images'.
        language: ``"embedding"``, as the presets take it, or ``"text"``, for a conditioner with a text encoder.
        max_episodes: Use the first so many; default: as upstream.
        resize: ``"crop"`` as upstream, ``"stretch"`` or ``"pad"``.
        on_error: ``"raise"``, or ``"skip"`` to leave out episodes that cannot be read.
    Raises:
        DataError: for a folder that is not laid out so.
    """
    most = max_episodes or {"train": MAX_TRAIN_BRIDGE, "val": MAX_VALID}.get(split)
    options = {"height": height, "width": width, "language": language, "resize": resize, "on_error": on_error}
    return BridgeSource(Path(target).expanduser(), _episodes(target, split, most), split=split, **options)


def open_langtable(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    language: str = "embedding",
    max_episodes: int | None = None,
    resize: str = "crop",
    on_error: str = "raise",
) -> LanguageTableSource:
    """LanguageTable as the official LPWM code lays it out; arguments as for `open_bridge`."""
    most = max_episodes or {"val": MAX_VALID}.get(split)
    options = {"height": height, "width": width, "language": language, "resize": resize, "on_error": on_error}
    return LanguageTableSource(Path(target).expanduser(), _episodes(target, split, most), split=split, **options)


def _episodes(target: str, split: str, most: int | None) -> list[Episode]:
    folder = part_of(target, split, expected=EXPECTED)
    episodes = []
    for name in subfolders(folder)[:most]:
        here = folder / name
        images = numbered(names_in(here, ".png"), _number, here, "frame_NUMBER.png")
        files = numbered(names_in(here, ".pt", "metadata_"), _number, here, "metadata_NUMBER.pt")
        episodes.append(Episode(name, (View(here, tuple(images), tuple(files[: len(images)])),)))
    return episodes
