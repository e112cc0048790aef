"""Ablations: swap parts and change options of a preset, train every combination alike, and compare in one table.

On the command line ``worldkit ablate``; see docs/ablations.md.
"""

from .grid import Variant
from .runner import run
from .study import Budget, Study
from .table import Ablation, Row

__all__ = ["Ablation", "Budget", "Row", "Study", "Variant", "run"]
