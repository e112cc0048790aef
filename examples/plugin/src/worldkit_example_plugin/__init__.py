"""Importing this package registers its parts and its preset; the entry point in pyproject.toml does no more."""

from worldkit import register_preset_file

from . import mosaic as mosaic
from . import token_mlp as token_mlp

register_preset_file(__name__, "presets.toml")
