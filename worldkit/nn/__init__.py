"""Blocks with no idea of world models. `spec.py` holds the two that read a `LatentSpec`."""
