"""`inside`: files that a data set names, never outside of it; and `fill_template`, paths with numbers in them.

A data set that was downloaded may name any file: by ``..``, by an absolute path, or by a link that it brings along.
Reading such a file, or copying it with ``worldkit data convert``, would give away what lies beside the data. Files that
a user's own folder lists (a folder of clips) are another matter: links there are the user's.
"""

from __future__ import annotations

import functools
import os
import re
import string
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import DataError

FOLLOW_LINKS = "WORLDKIT_FOLLOW_LINKS"
"""Set to 1: links may lead out of a data set, for people who laid them themselves."""

_SPEC = re.compile(r"(0?[1-9][0-9]?)?d?")  # at most 99 wide
_LONGEST = 1000


def inside(root: Path, name: str | os.PathLike[str], source: Path | None = None) -> Path:
    """The path of a file that a data set names, after a check that it lies in the data set.

    The root itself may be a link. A link inside may lead to another place inside, or, in a snapshot of the Hugging Face
    cache, to that cache's ``blobs``. A file need not exist.

    Args:
        root: Folder of the data set.
        name: Path below it.
        source: The file that names it, for the message; default: the root.
    Raises:
        DataError: for an absolute path, one with ``..``, or one that a link leads out of the root.
    Example:
        >>> inside(Path("data"), "videos/a.mp4").as_posix()
        'data/videos/a.mp4'
    """
    named = f"{source or root} names the file {os.fspath(name)!r:.200}"
    parts = Path(name).parts
    if not parts or "\0" in os.fspath(name) or Path(name).is_absolute() or ".." in parts:
        raise DataError(f"{named}, which is no path inside the data set {root}: it is not read")
    path = root / name
    try:
        real, homes = path.resolve(), _homes(root.absolute())
    except (OSError, RuntimeError) as error:  # links in a circle
        raise DataError(f"{named}, which cannot be followed ({error})") from error
    if os.environ.get(FOLLOW_LINKS, "") not in ("", "0") or any(real.is_relative_to(home) for home in homes):
        return path
    raise DataError(
        f"{named}, which is a link out of the data set {root}, to {real}: it is not read. Put the file itself there; "
        f"or, if you laid the link yourself, set {FOLLOW_LINKS}=1"
    )


def links_out(root: Path, files: Iterable[Path]) -> str | None:
    """What to say of files in a user's folder of clips that are links out of it, or lie in such links; None: none are.

    They are read, as the links are the user's; somebody who got the folder from elsewhere should know.
    """
    home, folders, found = root.resolve(), {}, []
    for file in files:
        folder = folders.setdefault(file.parent, file.parent.resolve())
        real = file.resolve() if file.is_symlink() else folder / file.name
        if not real.is_relative_to(home):
            found.append(f"{file.relative_to(root)} -> {real}")
    if not found:
        return None
    return f"{len(found)} file(s) are links out of the folder, and are read all the same, as by 'convert': {found[0]}"


@functools.lru_cache(maxsize=32)
def _homes(root: Path) -> list[Path]:
    """Folders in which the files of a data set may really lie."""
    homes = [root.resolve()]
    for parent in homes[0].parents:  # REPOSITORY/snapshots/COMMIT/... links to REPOSITORY/blobs
        blobs = parent.parent / "blobs"
        if parent.name == "snapshots" and blobs.is_dir() and not blobs.is_symlink():
            homes.append(blobs)
    return homes


def fill_template(template: object, fields: Mapping[str, int | str]) -> str:
    """A path whose numbers and names stand in braces, as ``"data/chunk-{chunk_index:03d}/file.parquet"``.

    Args:
        template: Text; numbers may have a width of at most two digits (``:03d``), names none.
        fields: Values by name.
    Raises:
        ValueError: for anything but text with some of these fields; says what is wrong with it.
    Example:
        >>> fill_template("chunk-{chunk:03d}/{key}.mp4", {"chunk": 7, "key": "front"})
        'chunk-007/front.mp4'
    """
    if not isinstance(template, str) or len(template) > _LONGEST:
        raise ValueError(f"it is no text of at most {_LONGEST} letters")
    path = ""
    for text, name, spec, conversion in string.Formatter().parse(template):
        path += text
        if name is None:
            continue
        if name not in fields:
            raise ValueError(f"it has an unknown field {{{name:.40}}}")
        value = fields[name]
        if conversion or not _SPEC.fullmatch(spec or "") or (spec and not isinstance(value, int)):
            raise ValueError(f"the field {{{name}}} may have a width of two digits if it is a number, and nothing else")
        path += format(value, spec or "")
    return path
