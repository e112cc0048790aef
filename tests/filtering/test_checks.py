"""`check_model` finds what is wrong with models that filter, and names it."""

import pytest
import torch

from worldkit.conditions import EMPTY
from worldkit.registry import dynamics
from worldkit.testing import check_model


def blind(tiny):
    """A state that never sees the image, so that a policy would not either."""
    def look(z):
        return torch.zeros(*z.shape, z.spec.num_tokens, 6) + 0 * z.pack().sum()

    return {"look": look}


def carrying(tiny):
    """A state that is not reset where an episode begins."""
    original = tiny.filter

    def filter(self, seen, cond, sampler, *, first, last=None):
        inside = first.clone()
        inside[:, 1:] = False
        return original(self, seen, cond, sampler, first=inside, last=last)

    return {"filter": filter}


def foreseeing(tiny):
    """Actions of later transitions reach a state."""
    original = tiny.filter

    def filter(self, seen, cond, sampler, *, first, last=None):
        shifted = cond.then(cond.at(slice(-1, None))).at(slice(1, None))
        return original(self, seen, shifted, sampler, first=first, last=last)

    return {"filter": filter}


def untold(tiny):
    """The actions reach nothing."""
    original = tiny.advance
    return {"advance": lambda self, z, cond: original(self, z, EMPTY)}


@pytest.mark.parametrize("fault, message", [
    (carrying, "nothing is carried over a border"), (foreseeing, "causality: a state, when 'action' after it changes"),
    (untold, "what is expected of a frame does not depend on 'action' before it"),
])
def test_faults_are_named(make, monkeypatch, fault, message):
    tiny = dynamics.get("tiny-filter")
    for name, method in fault(tiny).items():
        monkeypatch.setattr(tiny, name, method)
    model = make()
    with pytest.raises(AssertionError, match=message):
        check_model(model, ignore=[name for name, _ in model.conditioners.named_parameters(prefix="conditioners")])


def test_a_state_that_does_not_look_is_found(make):
    model = make()
    model.dynamics.look.forward = blind(model.dynamics)["look"]
    with pytest.raises(AssertionError, match="it looks: the posterior does not depend on the image"):
        check_model(model, ignore=[name for name, _ in model.named_parameters()])
