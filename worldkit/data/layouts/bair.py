"""BAIR robot pushing at 256 pixels (``bair``) and at 64 (``bair64``).

``bair``: ``{train,val,test}/NUMBER/NUMBER.png`` with ``actions.pkl``, ``rewards.pkl`` and ``dones.pkl``, one row per
frame. ``bair64``: ``{train,test}/traj_X_to_Y/NUMBER/NUMBER.png`` with ``endeffector_positions.csv``.

As upstream: windows slide over the first 30 frames; the done mask is 1 until the frame that ends the episode
(``bair``), rewards are kept (as ``state``); ``bair64`` validates on test, and its positions serve as actions.
Otherwise: upstream evaluates whole episodes, here windows of the length asked for, and frames after the 30th are
never shown. The pickles are read by an unpickler that knows numpy arrays only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import DataError
from .files import check_rows, has_below, load_pickle, names_in, numbered, numbers, part_of, subfolders
from .source import Episode, LayoutSource, View

EXPECTED = "{train,val,test}/NUMBER/NUMBER.png with actions.pkl, rewards.pkl and dones.pkl"
EXPECTED_64 = "{train,test}/traj_X_to_Y/NUMBER/NUMBER.png with endeffector_positions.csv"
_POSITIONS = "endeffector_positions.csv"
_PICKLES = {"action": "actions.pkl", "state.reward": "rewards.pkl", "done_mask": "dones.pkl"}


class BAIRSource(LayoutSource):
    """Episodes of ``bair``."""

    kind, beside = "bair", tuple(_PICKLES)

    def columns(self, episode: Episode) -> dict[str, np.ndarray]:
        folder = episode.views[0].folder
        found = {name: numbers(load_pickle(folder / file), str(folder / file)) for name, file in _PICKLES.items()}
        found["done_mask"] = (found["done_mask"].reshape(-1) == 0).astype(np.float32)
        check_rows(episode.views[0].images, found, folder)
        return found

    def column_files(self, episode: Episode) -> list[Path]:
        return [episode.views[0].folder / file for file in _PICKLES.values()]


class BAIR64Source(LayoutSource):
    """Episodes of ``bair64``."""

    kind, beside = "bair64", ("action",)

    def columns(self, episode: Episode) -> dict[str, np.ndarray]:
        file = self.column_files(episode)[0]
        try:
            rows = np.genfromtxt(file, delimiter=",", dtype=float, ndmin=2)
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read as a table of numbers: {error}") from error
        check_rows(episode.views[0].images, {"action": rows}, file.parent)
        return {"action": rows}

    def column_files(self, episode: Episode) -> list[Path]:
        return [episode.views[0].folder / _POSITIONS]


def is_bair(target: str) -> bool:
    """Whether numbered folders below the splits hold ``actions.pkl``."""
    return any(has_below(Path(target).expanduser(), split, "*", "actions.pkl") for split in ("train", "test"))


def is_bair64(target: str) -> bool:
    """Whether folders of trajectories hold ``endeffector_positions.csv``."""
    return any(has_below(Path(target).expanduser(), split, "*", "*", _POSITIONS) for split in ("train", "test"))


def open_bair(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    episode_length: int = 30,
    resize: str = "stretch",
    on_error: str = "raise",
) -> BAIRSource:
    """BAIR as the official LPWM code lays it out; see the module docstring.

    Args:
        target: The folder.
        split: ``"train"``, ``"val"`` or ``"test"``.
        height: Default: the images'.
        width: Default: the height given, else the images'.
        episode_length: Longer episodes are cut.
        resize: ``"stretch"`` as upstream, ``"crop"`` or ``"pad"``.
        on_error: ``"raise"``, or ``"skip"`` to leave out episodes that cannot be read.
    Raises:
        DataError: for a folder that is not laid out so.
    """
    folder = part_of(target, split, expected=EXPECTED)
    episodes = [_episode(folder, name, episode_length) for name in numbered(subfolders(folder), int, folder, EXPECTED)]
    root = Path(target).expanduser()
    return BAIRSource(root, episodes, split=split, height=height, width=width, resize=resize, on_error=on_error)


def open_bair64(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    episode_length: int = 30,
    resize: str = "stretch",
    on_error: str = "raise",
) -> BAIR64Source:
    """BAIR at 64 pixels as the official LPWM code lays it out; arguments as for `open_bair`."""
    folder, episodes = part_of(target, split, expected=EXPECTED_64, stand_in={"val": "test"}), []
    for group in numbered(subfolders(folder), lambda name: int(name.split("_")[1]), folder, "traj_X_to_Y"):
        for name in numbered(subfolders(folder / group), int, folder / group, "NUMBER"):
            episodes.append(_episode(folder, f"{group}/{name}", episode_length))
    root = Path(target).expanduser()
    return BAIR64Source(root, episodes, split=split, height=height, width=width, resize=resize, on_error=on_error)


def _episode(folder: Path, name: str, longest: int) -> Episode:
    here = folder / name
    images = numbered(names_in(here, ".png"), int, here, "NUMBER.png")
    return Episode(name, (View(here, tuple(images[:longest])),))
