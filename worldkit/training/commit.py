"""Which commit of a git repository a file belongs to, for the record of a run."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit(path: Path) -> str | None:
    """The commit checked out where ``path`` lies, with "-dirty" after it where tracked files differ from it.

    Args:
        path: A folder, or a file that git must know (an installed package inside somebody's repository is not theirs).
    Returns:
        40 hexadecimal digits, perhaps with "-dirty"; None outside of a repository, or without git.
    Example:
        >>> commit(Path("/"))
    """
    folder = path if path.is_dir() else path.parent
    if path.is_file() and _git(folder, "ls-files", "--error-unmatch", path.name) is None:
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
