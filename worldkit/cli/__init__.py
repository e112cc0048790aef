"""The ``worldkit`` command."""

from .parser import main, make_parser

__all__ = ["main", "make_parser"]
