"""A part's own names and those of its contract: what would be shadowed is refused, everything else is found again."""

import inspect

import pytest
import torch
from torch import nn

import worldkit as wk
from worldkit.component import Component
from worldkit.conditioners import Conditioner
from worldkit.config import ComponentConfig
from worldkit.decoders import Decoder
from worldkit.dynamics import Dynamics
from worldkit.encoders import Encoder
from worldkit.latent_actions import LatentAction
from worldkit.model import WorldModel
from worldkit.objectives import Objective
from worldkit.testing import check_dynamics, example_spec

CONTRACTS = (Encoder, Decoder, Dynamics, Conditioner, LatentAction, Objective, WorldModel)


def bare(contract):
    """A part of a kind that defines nothing of its own."""
    part = type("Mine", (contract,), {"__module__": "my_plugin"})
    part.__abstractmethods__ = frozenset()
    made = part.__new__(part)
    nn.Module.__init__(made)
    return made


def names(contract):
    announced = {n for base in contract.__mro__ if base is not object for n in inspect.get_annotations(base)}
    return sorted(n for n in {*dir(contract), *announced} if not n.startswith("_"))


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("make", [lambda: nn.Linear(1, 1), lambda: nn.Parameter(torch.ones(1)), lambda: torch.ones(1)],
                         ids=["module", "parameter", "tensor"])
def test_weights_under_a_name_of_the_contract(contract, make):
    refused = set()
    for name in names(contract):
        part, value = bare(contract), make()
        try:
            setattr(part, name, value)
        except wk.WorldkitError as error:
            assert name in str(error) and "another name" in str(error)
            refused.add(name)
        else:
            assert getattr(part, name) is value, f"{name} was accepted and then hidden"
    assert {"train", "type", "modules", "forward", "config"} <= refused


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.__name__)
def test_values_under_the_name_of_a_method(contract):
    methods = [n for n in names(contract) if inspect.isroutine(inspect.getattr_static(contract, n, None))]
    for name in methods:
        with pytest.raises(wk.WorldkitError, match=f"{name} is a method of the contract"):
            setattr(bare(contract), name, 0)
        with pytest.raises(wk.WorldkitError, match=f"hides the method {name}"):
            type("Mine", (contract,), {name: 0, "__module__": "my_plugin"})
        setattr(bare(contract), name, lambda *_: None)  # a function in a method's place is what wrappers do


def test_names_of_ones_own_are_free():
    part = bare(Dynamics)
    part.embedding, part.scale, part.count = nn.Linear(1, 1), nn.Parameter(torch.ones(1)), 3
    part.register_buffer("table", torch.ones(2))
    assert {"embedding.weight", "scale", "table"} <= part.state_dict().keys() and part.count == 3


def test_a_class_attribute_does_not_hide_a_submodule():
    class Mine(Dynamics):
        network = None  # "set in __init__", one might think

    part = Mine.__new__(Mine)
    nn.Module.__init__(part)
    with pytest.raises(wk.WorldkitError, match="Mine.network is an attribute of Mine that would hide it"):
        part.network = nn.Linear(1, 1)


class Shadowed(Dynamics):
    class Config(ComponentConfig):
        name: str = "shadowed"

    def __init__(self, config, **wiring):
        super().__init__(config, **wiring)
        self.embed = nn.Linear(3, 3)

    def prior(self, z, cond):
        raise NotImplementedError


def test_the_conformance_check_names_the_attribute():
    with pytest.raises(wk.WorldkitError, match=r"Shadowed.embed is a method of the contract .Dynamics.*self.embed_net"):
        check_dynamics(Shadowed, spec=example_spec())


@pytest.mark.parametrize("contract, name, value, message", [
    (Dynamics, "requires", "tracked", r"must be a set of words, frozenset\(\{'codes'\}\); got 'tracked'"),
    (Dynamics, "requires", {"traked"}, "unknown word 'traked'. Did you mean 'tracked'?"),
    (Objective, "requires", {"decoders"}, "unknown word 'decoders'. Did you mean 'decoder'?"),
    (Objective, "frozen", {"enconder"}, "unknown word 'enconder'. Did you mean 'encoder'?"),
    (Decoder, "kinds", ("patches"), "must be a set of words"),
    (Decoder, "kinds", (3,), "must be a set of words"),
])
def test_declarations_with_other_words(contract, name, value, message):
    with pytest.raises(wk.WorldkitError, match=message):
        type("Mine", (contract,), {name: value, "__module__": "my_plugin"})


def test_properties_of_other_distributions_may_be_required():
    assert type("Mine", (Dynamics,), {"requires": {"von-mises"}, "__module__": "my_plugin"}).requires == {"von-mises"}


def test_declarations_as_any_collection():
    mine = type("Mine", (Decoder,), {"kinds": ["patches", "mine"], "__module__": "my_plugin"})
    assert mine.kinds == frozenset({"patches", "mine"})
    assert type("Any", (Decoder,), {"kinds": None, "__module__": "my_plugin"}).kinds is None


def test_every_contract_is_a_component():
    assert all(Component in contract.__bases__ for contract in CONTRACTS)
