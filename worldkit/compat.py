"""The one place that works around other packages.

torchvision's wheels on the registry are built for CUDA. Beside a CPU build of torch its compiled part does not load,
its operators stay undefined, and ``import torchvision`` dies in ``register_fake("torchvision::nms")``. piqa, and many
models of transformers and diffusers, then fail with it. `import_torchvision` repairs exactly that case: only after a
normal import has failed with that error it declares the two missing operators, without an implementation, and imports
again. An installation that works is never touched.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from types import ModuleType

import torch

from .errors import MissingExtraError, require_extra

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_MISSING = "operator torchvision::nms does not exist"
_library: torch.library.Library | None = None  # the declarations live as long as this object


def import_torchvision() -> ModuleType:
    """Import torchvision, also beside a torch build that its compiled operators do not fit.

    Call it before importing a package that imports torchvision. After a repair, ``torchvision.ops.nms`` has no
    implementation (calling it raises); models and transforms work.

    Returns:
        The module ``torchvision``.
    Raises:
        MissingExtraError: if torchvision is not installed.
        RuntimeError: if the import fails for any other reason than the missing operator; torchvision's own error.
    Example:
        >>> import_torchvision().__name__
        'torchvision'
    """
    try:
        return _import("torchvision")
    except RuntimeError as error:
        if _MISSING not in str(error):
            raise
    _declare_operators()
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # left half-imported by the failed attempt
    return importlib.import_module("torchvision")


def import_piqa() -> ModuleType:
    """Import piqa (PSNR, SSIM, ...), with `import_torchvision` first, on which it depends.

    Raises:
        MissingExtraError: if piqa or torchvision is not installed.
    Example:
        >>> import_piqa().PSNR.__name__
        'PSNR'
    """
    import_torchvision()
    return _import("piqa")


def import_transformers(extra: str, purpose: str) -> ModuleType:
    """Import transformers, after repairing a torchvision that would break it (it does without one, too).

    Args:
        extra: worldkit extra that installs it: ``"language"``.
        purpose: What needs it; starts the error message.
    Raises:
        MissingExtraError: if transformers is not installed.
    """
    with contextlib.suppress(MissingExtraError):
        import_torchvision()
    return require_extra("transformers", extra, purpose)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # the package is there, something inside it is missing: keep that message
        raise MissingExtraError(
            f"{name} is not installed, though worldkit depends on it. In the checkout of worldkit: "
            "pip install -c constraints.txt -e ."
        ) from error


def _declare_operators() -> None:
    global _library
    if _library is None:
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            _library.define(name + _SCHEMA)
