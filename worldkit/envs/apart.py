"""Packages that cannot live beside the others, because they need another MuJoCo or NumPy: what to type to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..errors import MissingExtraError

_NEEDS = {"metaworld": "mujoco 3.3.0", "aloha": "a mujoco before 3.9 and an older dm-control",
          "robotics": "a mujoco before 3.11", "procgen": "a numpy before 2"}


def apart_hint(extra: str) -> str:
    """What to type to get an extra that ``all-envs`` leaves out.

    Example:
        >>> apart_hint("metaworld").split(". ")[0]
        'It needs mujoco 3.3.0, so it goes into a Python environment of its own'
    """
    return (
        f"It needs {_NEEDS[extra]}, so it goes into a Python environment of its own. In the checkout of worldkit: "
        f'python -m venv {extra}-venv && {extra}-venv/bin/pip install -c constraints.txt -e ".[{extra}]"; '
        f"then use {extra}-venv/bin/worldkit and {extra}-venv/bin/python"
    )


def require_apart(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a package, or say how to make an environment of its own for it.

    Args:
        module: What to import.
        extra: Of worldkit, one that ``all-envs`` leaves out.
        purpose: What needs it; starts the error message.
    Raises:
        MissingExtraError: with the commands.
    Example:
        >>> require_apart("json", "metaworld", "an example").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise MissingExtraError(f"{purpose} needs {error.name}, which is not installed. {apart_hint(extra)}") from error
