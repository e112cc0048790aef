"""The preprocessing that a model was trained with, as one object: `get_operator`.

* `specification`: what it is: size and resize rule, cameras, frame rate, actions, language; saved with the model.
* `operator`: what a robot's loop calls: raw frames and actions -> `worldkit.Batch`, and actions back.

Pixels go through `worldkit.pictures`, as those of data sets and environments do.
"""

from __future__ import annotations

from ..lazy import lazy_exports

_EXPORTS = {"operator": ("Operator", "get_operator"), "specification": ("ActionRule", "LanguageRule", "OperatorSpec")}
__all__ = [name for names in _EXPORTS.values() for name in names]
__getattr__ = lazy_exports(__name__, _EXPORTS)
