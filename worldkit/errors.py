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
            f'{purpose} needs {module.split(".")[0]}, which is not installed: pip install "worldkit[{extra}]"'
        ) from error
