"""Benchmarks: models x tasks x seeds, each in a process of its own, and tables that say how sure they are.

On the command line ``worldkit bench``; see docs/bench.md.
"""

from .results import Bench
from .runner import run
from .suite import Suite, list_suites, load_suite

__all__ = ["Bench", "Suite", "list_suites", "load_suite", "run"]
