"""Every error worldkit raises on purpose. A message says what was given, what was expected, and what to type next."""

from __future__ import annotations

import importlib
from types import ModuleType


class WorldkitError(Exception):
    """Base class of every error worldkit raises on purpose."""


class UnknownComponentError(WorldkitError, LookupError):
    """A name is not registered (model, encoder, dynamics, ...)."""

    def __str__(self) -> str:  # LookupError would show the repr of a long message
        return str(self.args[0]) if self.args else ""


class DuplicateComponentError(WorldkitError, ValueError):
    """Two components claim the same registered name."""


class ConfigError(WorldkitError, ValueError):
    """A configuration field is unknown, misspelt, of the wrong type or out of range."""


class IncompatibleComponentsError(WorldkitError, TypeError):
    """Two components cannot be assembled into one model."""


class ShapeError(WorldkitError, ValueError):
    """A tensor has the wrong rank, size, dtype or value range."""


class ConditionError(WorldkitError, ValueError):
    """A condition the model needs is missing, or one it does not know was given."""


class MissingExtraError(WorldkitError, ImportError):
    """An optional dependency is not installed."""


class NoDecoderError(WorldkitError, TypeError):
    """The model has no decoder, so it cannot produce pixels."""


class NoPretrainedWeightsError(WorldkitError, LookupError):
    """Nobody has published weights for this preset."""

    __str__ = UnknownComponentError.__str__


class CheckpointError(WorldkitError, ValueError):
    """A checkpoint is damaged, or its weights and its config disagree."""


class DataError(WorldkitError, ValueError):
    """A data source is missing, empty, damaged or of an unknown format."""


class EnvError(WorldkitError, RuntimeError):
    """An environment failed, or the process that played it died."""


class ExportError(WorldkitError, RuntimeError):
    """What a model computes cannot be written as a file for another runtime, or the file differs from the model."""


class TrainingError(WorldkitError, RuntimeError):
    """Training cannot go on: a loss became NaN or Inf, or the run folder cannot be used."""


def require_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Args:
        module: Module to import, for example ``"av"``.
        extra: Name of the worldkit extra that installs it, for example ``"video"``.
        purpose: What needs it; starts the error message.
    Returns:
        The imported module.
    Raises:
        MissingExtraError: if the module is not installed.
    Example:
        >>> require_extra("json", "video", "reading a video").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the package is there, something inside it is broken: keep that message
        raise MissingExtraError(
            f'{purpose} needs {module.split(".")[0]}, which is not installed. {install_hint(extra)}'
        ) from error


def install_hint(extra: str) -> str:
    """What to type to get an extra.

    Never by the name: on the public index "worldkit" is another project.

    Args:
        extra: Name of the extra in pyproject.toml, for example ``"video"``.
    Returns:
        The command for a checkout and, where worldkit is installed, the packages themselves for every other case.
    Example:
        >>> install_hint("video").split(";")[0]
        'In the checkout of worldkit: pip install -c constraints.txt -e ".[video]"'
    """
    from importlib import metadata  # costs more than the whole of this module, and only those in need pay

    try:
        requirements = metadata.requires("worldkit") or []
    except metadata.PackageNotFoundError:  # run from a source folder
        requirements = []
    marked = [requirement.replace("'", '"').split(";") for requirement in requirements if ";" in requirement]
    packages = [f'"{name.strip()}"' for name, marker in marked if marker.strip() == f'extra == "{extra}"']
    hint = f'In the checkout of worldkit: pip install -c constraints.txt -e ".[{extra}]"'
    return f"{hint}; elsewhere: pip install {' '.join(packages)}" if packages else hint
