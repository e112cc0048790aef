"""Configurations: one merge rule for all overrides, refusals with a path, JSON round trips."""

import json

import pydantic
import pytest

import worldkit as wk
from worldkit.agents.base import agents
from worldkit.config import ObsSpec, WorldModelConfig, merge, nest, parse_assignments
from worldkit.errors import ConfigError
from worldkit.nn.conv import ConvConfig

BASE = {
    "horizon": 5,
    "dynamics": {"name": "pint", "num_layers": 6, "deep": {"a": 1, "b": 2}},
    "conditioners": {"action": {"name": "action", "dim": 7}},
}


@pytest.mark.parametrize("overrides, expected", [
    ({}, {}),
    ({"horizon": 9}, {"horizon": 9}),
    ({"dynamics": "gru"}, {"dynamics": {"name": "gru"}}),  # swap: nothing of the old one stays
    ({"dynamics": {"name": "gru", "dim": 3}}, {"dynamics": {"name": "gru", "dim": 3}}),
    ({"dynamics": "pint"}, {}),  # the same name merges
    ({"dynamics": {"name": "pint", "num_layers": 2}},
     {"dynamics": {"name": "pint", "num_layers": 2, "deep": {"a": 1, "b": 2}}}),
    ({"dynamics": {"deep": {"a": 9}}}, {"dynamics": {"name": "pint", "num_layers": 6, "deep": {"a": 9, "b": 2}}}),
    ({"dynamics": {"num_layers": None}}, {"dynamics": {"name": "pint", "deep": {"a": 1, "b": 2}}}),
    ({"conditioners": {"action": None}}, {"conditioners": {}}),
    ({"conditioners": {"language": {"name": "language"}, "goal": None}},
     {"conditioners": {"action": {"name": "action", "dim": 7}, "language": {"name": "language"}}}),
    ({"new": {"a": 1, "b": None}}, {"new": {"a": 1}}),  # removing what is not there is no error
    ({"dynamics": 3}, {"dynamics": 3}),  # refused later, with its path
])
def test_merge(overrides, expected):
    before = json.dumps(BASE)
    assert merge(BASE, overrides) == BASE | expected
    assert json.dumps(BASE) == before


def test_merge_removes():
    assert merge(BASE, {"dynamics": None}) == {k: v for k, v in BASE.items() if k != "dynamics"}
    assert merge({}, {"nothing": None}) == {}


@pytest.mark.parametrize("flat, nested", [
    ({"a__b__c": 1}, {"a": {"b": {"c": 1}}}),
    ({"a.b.c": 1, "a.b.d": 2, "a__e": 3}, {"a": {"b": {"c": 1, "d": 2}, "e": 3}}),
    ({"a": {"b__c": 1}}, {"a": {"b": {"c": 1}}}),
    ({"num_layers": 4}, {"num_layers": 4}),  # one underscore is part of a name
    ({"c__action__dim": 5, "c__language": None}, {"c": {"action": {"dim": 5}, "language": None}}),
    ({"c__language": None, "c__action__dim": 5}, {"c": {"action": {"dim": 5}, "language": None}}),
    ({"dynamics": "gru", "dynamics__dim": 64}, {"dynamics": {"name": "gru", "dim": 64}}),
    ({"dynamics__dim": 64, "dynamics": "gru"}, {"dynamics": {"dim": 64, "name": "gru"}}),
])
def test_nest(flat, nested):
    assert nest(flat) == nested


@pytest.mark.parametrize("text, value", [
    ("4", 4), ("1e-3", 1e-3), ("true", True), ("False", False), ("none", None), ("null", None), ("[1, 2]", [1, 2]),
    ("slot", "slot"), ('"4"', "4"), ('{"name": "gru", "dim": 8}', {"name": "gru", "dim": 8}), ("a=b", "a=b"), ("", ""),
])
def test_values_on_the_command_line(text, value):
    assert parse_assignments([f"dynamics.option={text}"]) == {"dynamics": {"option": value}}


def test_assignments_unite():
    assert parse_assignments(["encoder=slot", "encoder.num_slots=6", "timestep_horizon=3"]) == {
        "encoder": {"name": "slot", "num_slots": 6}, "timestep_horizon": 3,
    }


@pytest.mark.parametrize("text", ["dynamics.num_layers", "=4", ""])
def test_assignment_without_path_or_value(text):
    with pytest.raises(ConfigError, match="an override reads path=value, for example dynamics.num_layers=4; got"):
        parse_assignments([text])


@pytest.fixture(scope="module")
def config():
    return wk.create_config("lpwm-balls-mini")


@pytest.mark.parametrize("path, value, message", [
    ("dynamics.num_layres", 4, r"dynamics: unknown option 'num_layres'\. Did you mean 'num_layers'\?"),
    ("encoder.glimpse_cnn.base_chanels", 8, r"encoder.glimpse_cnn: unknown option 'base_chanels'\. Did you mean 'base"),
    ("objective.weights.kll", 1, r"objective.weights: unknown option 'kll'\. Did you mean 'kl'\?"),
    ("dynamisc", "pint", r"unknown option 'dynamisc'\. Did you mean 'dynamics'\?"),
    ("xyzzy", 1, r"unknown option 'xyzzy'\. Options: format_version, family, obs"),
    ("dynamics.num_layers", "many", r"dynamics.num_layers: .*integer"),
    ("dynamics.num_layers", 0, r"dynamics.num_layers: .*greater than 0"),
    ("dynamics.dropout", 1.0, r"dynamics.dropout: .*less than 1"),
    ("dynamics.num_layers", 2.5, r"dynamics.num_layers: .*integer"),
    ("encoder.select", "some", r"encoder.select: .*'draw' or 'keep'"),
    ("timestep_horizon", 0, r"timestep_horizon: .*greater than or equal to 1"),
    ("obs", None, r"obs: it must be said; on the command line -o obs="),
    ("dynamics", 3, r"dynamics: a dynamics is given by its name or by a table with a name, got 3"),
    ("dynamics", {"name": "pnit"}, r"dynamics: unknown dynamics 'pnit'\. Did you mean 'pint'\?"),
    ("conditioners", {"action": {"dim": 7}}, r"conditioners.action: a conditioner is given by its name or by a table"),
    ("conditioners", {"action": {"name": "action", "dim": 2, "num_actions": 3}},
     r"conditioners.action: give either dim .* or num_actions"),
])
def test_refusals_name_the_path(config, path, value, message):
    with pytest.raises(ConfigError, match=message) as error:
        config.replace(path, value)
    assert str(error.value).startswith("invalid WorldModelConfig:\n  ")


@pytest.mark.parametrize("data", [True, [1], "lpwm", None])
def test_what_is_no_table_is_refused(data):
    with pytest.raises(ConfigError, match="invalid WorldModelConfig:"):
        WorldModelConfig.parse(data)


def test_every_problem_is_listed(config):
    with pytest.raises(ConfigError) as error:
        WorldModelConfig.parse(merge(config.to_dict(), {"dynamics": {"dim": -1, "num_heads": "x"}}))
    assert "dynamics.dim:" in str(error.value) and "dynamics.num_heads:" in str(error.value)


def test_configs_are_frozen(config):
    for part, field in ((config, "timestep_horizon"), (config.dynamics, "dim"), (config.objective.weights, "kl")):
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(part, field, 1)


def test_replace_returns_a_copy(config):
    changed = config.replace("dynamics.num_layers", 4)
    assert (changed.dynamics.num_layers, config.dynamics.num_layers) == (4, 2)
    assert changed.replace("dynamics.num_layers", 2) == config
    assert config.replace("dynamics__num_layers", 4) == changed
    assert config.replace("latent_action", None).latent_action is None
    assert isinstance(changed, WorldModelConfig) and changed != config


def test_replace_swaps_and_merges(config):
    assert config.replace("objective", {"weights": {"kl": 0.5}}).objective.reconstruction == "mse"
    assert config.replace("dynamics", "pint") == config
    obs = ObsSpec(height=64, width=64)
    assert obs.replace("views", 2) == ObsSpec(height=64, width=64, views=2)


@pytest.mark.parametrize("name", wk.list_models())
def test_json_round_trip(name):
    config = wk.create_config(name)
    again = WorldModelConfig.parse(json.loads(config.to_json()))
    assert again == config and again.to_json() == config.to_json()
    assert type(again.encoder) is type(config.encoder)
    assert ": null" not in config.to_json()


def test_dump_is_complete(config):
    """A checkpoint keeps its meaning when a default changes later."""
    dumped = config.to_dict()
    for part in ("encoder", "decoder", "dynamics", "latent_action", "objective"):
        assert set(dumped[part]) == set(type(getattr(config, part)).model_fields), part


def test_no_width_of_a_network_is_zero():
    """Lists of widths are sizes like single ones."""
    found = 0
    for registry in (*WorldModelConfig.COMPONENTS.values(), agents):
        for name in registry.names():
            fields = registry.get(name).Config.model_fields
            for option, default in ((o, fields[o].default) for o in fields if o in WIDTHS):
                if not isinstance(default, tuple) or not default:
                    continue
                found += 1
                with pytest.raises(ConfigError, match=option):
                    registry.get(name).Config.parse({"name": name, option: [0, *default[1:]]})
    assert found > 15
    for multipliers in ([0, 1], []):
        with pytest.raises(ConfigError, match="channel_multipliers"):
            ConvConfig.parse({"channel_multipliers": multipliers})


WIDTHS = ("channels", "hidden", "multipliers", "depths", "glimpse_channels", "background_channels")
