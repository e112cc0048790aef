"""Conformance checks for components and models: ours, and those of plugin authors.

One function per kind of component, `check_model`, and `check_distribution` for what fields hold. Each builds the
component small, runs it on made-up data and raises `AssertionError` naming the component, the property and how far off
it was. What is checked: shapes and dtypes, causality, independence of the samples of a batch, a gradient for every
parameter, determinism, exact saving and loading, refusal of wrong ranks, and configs that survive JSON.

Parameters are shaken (small noise is added) first, because zero-initialised layers hide faults.

Example:
    >>> from worldkit.testing import check_dynamics
    >>> check_dynamics("pint", dim=16, num_heads=2, num_layers=1)
"""

from .cells import check_cell
from .components import (
    check_conditioner,
    check_decoder,
    check_dynamics,
    check_encoder,
    check_head,
    check_latent_action,
    check_prior,
)
from .distribution import check_distribution
from .examples import example_batch, example_condition, example_latent, example_spec, example_video
from .model import check_model, check_objective

__all__ = [
    "check_cell", "check_conditioner", "check_decoder", "check_distribution", "check_dynamics", "check_encoder",
    "check_head", "check_latent_action", "check_model", "check_objective", "check_prior", "example_batch",
    "example_condition", "example_latent", "example_spec", "example_video",
]
