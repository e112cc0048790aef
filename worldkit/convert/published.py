"""Where official repositories of agents keep a game's checkpoint: on the hub, or in a folder laid out like it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ..errors import CheckpointError
from ..registry import suggestion

PLACES = {
    "diamond": {"atari_100k/models/": "atari_100k/config/agent/default.yaml",
                "csgo/model/": "csgo/config/agent/csgo.yaml"},
    "iris": {"pretrained_models/": None},
}
"""Kind -> folder of checkpoints, one ``GAME.pt`` each -> the configuration that goes with them."""


def published(kind: str, source: str | Path, game: str | None = None) -> tuple[Path, str]:
    """A game's checkpoint, and the text of the configuration that goes with it (empty where there is none).

    Args:
        kind: As ``worldkit convert`` calls it, see `PLACES`.
        source: The checkpoint itself, a folder laid out as the official repository, or ``"hub:org/name[@revision]"``.
        game: ``"Breakout"``, or an environment of it (``"ALE/Breakout-v5"``); may be left out where there is but one.
    Raises:
        CheckpointError: there is no such game (with the nearest one), or none is named.
    """
    text = str(source)
    if text.startswith("hub:"):
        return _from_hub(kind, text.removeprefix("hub:"), game)
    path = Path(text.removeprefix("dir:"))
    if not path.is_dir():
        return path, ""
    files = [f.relative_to(path).as_posix() for f in path.rglob("*.pt")]
    chosen, beside = choose(kind, files, game, where=str(path))
    told = path / beside if beside else None
    return path / chosen, told.read_text(encoding="utf-8") if told is not None and told.is_file() else ""


def choose(kind: str, files: Iterable[str], game: str | None, *, where: str) -> tuple[str, str | None]:
    """The file of a game among those of a repository, and where its configuration lies.

    Example:
        >>> files = ["atari_100k/models/Breakout.pt", "atari_100k/models/Pong.pt", "README.md"]
        >>> choose("diamond", files, "ALE/Breakout-v5", where="here")
        ('atari_100k/models/Breakout.pt', 'atari_100k/config/agent/default.yaml')
    """
    places = PLACES[kind]
    found = {PurePosixPath(f).stem: (f, beside) for folder, beside in places.items() for f in sorted(files)
             if f.endswith(".pt") and str(PurePosixPath(f).parent) + "/" == folder}
    if not found:
        raise CheckpointError(f"{where} is not laid out as the official repository of {kind}, which has "
                              f"{' and '.join(f'{folder}GAME.pt' for folder in places)}; give the .pt file itself")
    if game is None:
        if len(found) == 1:
            return next(iter(found.values()))
        raise CheckpointError(f"{where} has checkpoints of {len(found)} games, say which: --game {next(iter(found))} "
                              f"(game=...); games: {', '.join(found)}")
    plain = re.sub(r"(NoFrameskip|Deterministic)?-v\d+$", "", game.rpartition("/")[2])
    for name in found:
        if name.lower() == plain.lower():
            return found[name]
    raise CheckpointError(f"{where} has no checkpoint of '{game}'.{suggestion(plain, list(found))} Games: "
                          f"{', '.join(found)}")


def _from_hub(kind: str, name: str, game: str | None) -> tuple[Path, str]:
    from huggingface_hub import HfApi, hf_hub_download

    repo, _, revision = name.partition("@")
    try:
        files = HfApi().list_repo_files(repo, revision=revision or None)
        chosen, beside = choose(kind, files, game, where=f"hub:{name}")
        told = beside if beside in files else None
        got = [Path(hf_hub_download(repo, f, revision=revision or None)) for f in (chosen, told) if f]
    except CheckpointError:
        raise
    except Exception as error:  # many kinds: offline, private, misspelt
        raise CheckpointError(
            f"cannot get '{repo}' from the hub: {type(error).__name__}: {error}\nOffline? Download the repository "
            "elsewhere and give its folder"
        ) from error
    return got[0], got[1].read_text(encoding="utf-8") if told else ""
