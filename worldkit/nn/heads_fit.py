"""The one check that layers with several heads have in common."""

from __future__ import annotations

from ..errors import ConfigError


def check_heads(dim: int, num_heads: int) -> None:
    """Whether a width can be shared among heads.

    Raises:
        ConfigError: it cannot, with the numbers of heads that fit.
    Example:
        >>> check_heads(16, 4)
    """
    if dim % num_heads:
        fits = ", ".join(str(n) for n in range(1, min(dim, 16) + 1) if not dim % n)
        raise ConfigError(f"a width (dim) of {dim} does not divide into {num_heads} heads; num_heads that do: {fits}")
