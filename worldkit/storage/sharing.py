"""Sharing models: a folder with everything that belongs to a model, and uploading it to the hub."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .folders import WEIGHTS_FILE, check_target, digest, read_facts, write_folder, writing_model
from .hub import load_folder, locate, write_model
from .model_card import model_card

if TYPE_CHECKING:
    from ..model import WorldModel


def export_model(
    source: WorldModel | str | Path, folder: str | Path, *, title: str | None = None, name: str | None = None,
    licence: str | None = None,
) -> Path:
    """Write a folder that is ready to be shared: weights, full config, model card, evaluations, pictures.

    Args:
        source: A model, a model folder, a hub id, or a run folder: the model that `from_pretrained` takes, the newest
            pictures, and those results of ``worldkit eval`` (``eval-*.md``, ``.json``) that scored these very weights.
        folder: Where to write: a new folder, or an earlier export, which is replaced in one step.
        title: Heading of the card.
        name: What the card tells readers to load; default: the folder.
        licence: Of the weights, as the hub spells it: ``"mit"``.
    Returns:
        The folder.
    Raises:
        CheckpointError: there is no model, or ``folder`` holds something else, overlaps with ``source``
            or cannot be written.
    """
    place = locate(source) if isinstance(source, (str, Path)) else None
    run = None if place is None else _run(source, place)
    target = check_target(folder, run)
    model = source if place is None else load_folder(place)
    facts = _facts(place) if place is not None else {}
    evaluations = _evaluations(run, place)[0] if run is not None else {}
    texts = {file: text for table, results in evaluations.items() for file, text in _published(table, results).items()}
    pictures = _pictures(run) if run is not None else {}

    def fill(new: Path) -> None:
        write_model(model, new, facts=facts, weights=None if place is None else place / WEIGHTS_FILE,
                    whole=False)
        for name_, file in pictures.items():
            shutil.copyfile(file, new / name_)
        for file, text in texts.items():
            (new / file.name).write_text(text, encoding="utf-8")
        card = model_card(
            model, facts, title=title or target.name, source=name or f"dir:{folder}", licence=licence,
            evaluations={_heading(found[0]): _body(texts[table]) for table, found in evaluations.items()},
            pictures=list(pictures),
        )
        (new / "README.md").write_text(card, encoding="utf-8")

    with writing_model(folder):
        write_folder(target, fill)
    return Path(folder)


def push_to_hub(
    source: WorldModel | str | Path, repo: str, *, licence: str | None = None, private: bool = False,
    revision: str | None = None, message: str = "Upload a worldkit model", token: str | None = None,
) -> str:
    """Upload a model to the Hugging Face hub, with a model card.

    Args:
        source: As in `export_model`.
        repo: ``"org/name"``; made if need be.
        licence: Of the weights.
        private: Of a repository that is made.
        revision: Branch.
        message: Of the commit.
        token: Default: the one of ``hf auth login``.
    Returns:
        Address of the commit. Others then load ``"hub:org/name"``, or ``"hub:org/name@revision"``.
    Raises:
        CheckpointError: nothing to upload, or the hub refused or was not reached.
    """
    from huggingface_hub import HfApi

    repo = repo.removeprefix("hub:")
    with tempfile.TemporaryDirectory() as temporary:
        folder = export_model(source, Path(temporary) / "model", title=repo, name=f"hub:{repo}", licence=licence)
        try:
            api = HfApi(token=token)
            api.create_repo(repo, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo, branch=revision, exist_ok=True)
            return str(api.upload_folder(repo_id=repo, folder_path=folder, revision=revision, commit_message=message))
        except Exception as error:  # many kinds: offline, no token, no such organisation
            raise CheckpointError(
                f"cannot upload to '{repo}': {type(error).__name__}: {error}\nLogged in? Run hf auth login. Offline? "
                "Write a folder, worldkit push MODEL dir:/path/to/folder, and upload it elsewhere"
            ) from error


def left_out(source: str | Path) -> list[str]:
    """A line for every evaluation in a run or model folder that `export_model` leaves out, with the reason."""
    place = locate(source)
    return _evaluations(_run(source, place), place)[1]


def _run(source: str | Path, place: Path) -> Path:
    """The folder that was named, which holds evaluations and pictures; of a hub id, the downloaded one."""
    return place if str(source).startswith("hub:") else Path(str(source).removeprefix("dir:"))


def _evaluations(run: Path, place: Path) -> tuple[dict[Path, list[Path]], list[str]]:
    """(table -> its results) of the evaluations that scored the weights in ``place``, and why others are left out."""
    weights, tables = digest(place / WEIGHTS_FILE), sorted(run.glob("eval-*.md"))
    taken: dict[Path, list[Path]] = {}
    problems = []
    for file in sorted(run.glob("eval-*.json")):
        found = [table for table in tables if file.stem.startswith(f"{table.stem}-")]
        problem = _mismatch(file, weights) if found else "its table (.md) is missing"
        if problem:
            problems.append(f"{file.name}: {problem}")
        else:
            taken.setdefault(max(found, key=lambda table: len(table.stem)), []).append(file)
    for table in tables:
        if table not in taken or weights[:12] not in table.read_text("utf-8"):
            taken.pop(table, None)
            problems.append(f"{table.name}: these weights are not in it; run worldkit eval again")
    return taken, problems


def _mismatch(file: Path, weights: str) -> str:
    """Why a result is not about these weights; empty if it is."""
    try:
        scored = json.loads(file.read_text("utf-8"))["protocol"]["weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return "it does not say which weights it scored: of several models, or not by this version of worldkit eval"
    return "" if scored == weights else f"it scored the weights {str(scored)[:12]}, these are {weights[:12]}"


def _facts(place: Path) -> Mapping[str, Any]:
    """What ``train.json`` says, without the folders of the machine it was written on."""
    return _rename(read_facts(place), _base_name)


def _published(table: Path, results: Sequence[Path]) -> dict[Path, str]:
    """File -> text of an evaluation, without the folders of the machine it was made on."""
    folders: set[str] = set()
    texts = {}

    def rename(text: str) -> str:
        if (short := _base_name(text)) != text:
            folders.add(text)
        return short

    for file in results:
        result = _rename(json.loads(file.read_text("utf-8")), rename)
        texts[file] = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    text = table.read_text("utf-8")
    for folder in sorted(folders, key=len, reverse=True):
        text = text.replace(folder, _base_name(folder))
    return {table: text, **texts}


def _rename(value: Any, rename: Callable[[str], str]) -> Any:
    """A JSON value with all its texts renamed, however deep they lie."""
    if isinstance(value, str):
        return rename(value)
    if isinstance(value, Mapping):
        return {rename(key): _rename(entry, rename) for key, entry in value.items()}
    return [_rename(entry, rename) for entry in value] if isinstance(value, list) else value


def _base_name(text: str) -> str:
    """The last part of an absolute path; any other text as it is."""
    path = Path(text.removeprefix("dir:"))
    return path.name if path.is_absolute() and path.name else text


def _heading(result: Path) -> str:
    protocol = json.loads(result.read_text("utf-8"))["protocol"]
    return f"Evaluation {protocol.get('evaluation', '')}, split {protocol.get('split', '?')}"


def _body(table: str) -> str:
    """A table's file without its title, for which the card has a heading of its own."""
    return table.split("\n", 1)[1].lstrip() if table.startswith("# ") else table


def _pictures(run: Path) -> dict[str, Path]:
    """The newest decomposition panel and rollout of a run, under short names."""
    found = {"panel.png": "step-*-panel.png", "rollout.gif": "step-*-rollout.gif"}
    newest = {name: sorted((run / "figures").glob(pattern)) for name, pattern in found.items()}
    return {name: files[-1] for name, files in newest.items() if files}
