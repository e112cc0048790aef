"""Which forms of conditions a dynamics or latent action reads: what it declares must be what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..conditions import FORMS
from ..dynamics import Dynamics
from ..errors import WorldkitError
from ..wiring import run_once, tried
from .examples import WINDOW, example_conditioning, example_latent
from .report import Reporter, shake


def check_forms(report: Reporter, module: Any, with_memory: Callable[[], nn.Module]) -> frozenset[str]:
    """Run a part with every form of condition by itself; goals must be embeddable, if it embeds them.

    Args:
        report: Where failures go.
        module: A dynamics or a latent action, shaken.
        with_memory: Makes one that is given a memory.
    Returns:
        The forms that it reads.
    """
    declared, found = module.takes, frozenset(_found(report, module))
    other = module if module.memory_length else _made(report, with_memory, must="memory" in (declared or ()))
    if other is not None and other is not module:
        found |= frozenset(_found(report, other)) & {"memory"}
    for form in FORMS if declared is not None else ():
        report.require((form in declared) <= (form in found), "conditions",
                       f"takes names '{form}', but the answer does not depend on a condition of that form")
        report.require((form in found) <= (form in declared), "conditions",
                       f"the answer depends on a condition of the form '{form}', which takes does not name")
    if not (isinstance(module, Dynamics) and type(module).embed is Dynamics.embed):
        z = example_latent(module.spec)
        tokens = module.embed(z)
        report.shape(tokens, (*z.shape, module.spec.num_tokens, module.cond_dim), "embed(), through which goals go,")
    return found if declared is None else declared


def _made(report: Reporter, make: Callable[[], nn.Module], *, must: bool) -> nn.Module | None:
    """A part with a memory; None if it refuses one, as it may if it does not take any."""
    try:
        return shake(make())
    except WorldkitError as error:
        report.require(not must, "conditions", f"takes names 'memory', but with a memory_length it raises: {error}")
    return None


def _found(report: Reporter, module: Any) -> list[str]:
    """Forms on which the answer depends; a form that is declared must not raise, be it alone or with the others."""
    frames = WINDOW - (isinstance(module, Dynamics) and not module.explicit_prior)
    told = getattr(module, "factor_spec", module.spec)  # latent actions have none of their own
    everything = example_conditioning(module.cond_dim, told, frames, module.memory_length)
    declared = everything.only(FORMS if module.takes is None else module.takes)
    alone = [declared.only({form, "memory"}) for form in declared.forms]  # what has a memory may count on it
    for cond in (declared, *alone) if module.takes is not None else ():
        try:
            run_once(module, example_latent(module.spec), cond)
        except Exception as error:
            forms = " and ".join(cond.forms) or "none"
            report.fail("conditions", f"with those that it takes ({forms}): {type(error).__name__}: {error}")
    return sorted(tried(module) or ())
