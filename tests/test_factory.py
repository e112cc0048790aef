"""From names and overrides to models."""

import re

import pytest
import torch

import worldkit as wk
from worldkit import registry
from worldkit.cli.commands.share import NEEDS
from worldkit.config import ComponentConfig
from worldkit.decoders import Decoder
from worldkit.dynamics import Dynamics
from worldkit.encoders import Encoder
from worldkit.errors import ConfigError, IncompatibleComponentsError, NoPretrainedWeightsError, UnknownComponentError
from worldkit.latents import Field, LatentSpec, TokenGroup
from worldkit.presets.obtaining import how_to_obtain

CNN = {"base_channels": 4, "latent_channels": 4}
TINY = {
    "timestep_horizon": 3,
    "encoder": {"hidden_dim": 16, "proposal_cnn": CNN, "glimpse_cnn": CNN, "background_cnn": CNN},
    "decoder": {"hidden_dim": 16, "glimpse_cnn": CNN, "background_cnn": CNN},
    "dynamics": {"dim": 16, "num_layers": 1, "num_heads": 2},
    "latent_action": {"dim": 16, "num_layers": 1, "num_heads": 2},
}


def tiny_config(**changes):
    config = wk.create_config("lpwm-balls-mini", **TINY)
    for path, value in changes.items():
        config = config.replace(path, value)
    return config


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    return wk.create_model(config=tiny_config(**changes))


@pytest.fixture
def components(monkeypatch):
    """Components nobody ships, forgotten afterwards."""
    for table in (registry.encoders, registry.decoders, registry.dynamics):
        table.names()
        for attribute in ("_entries", "_aliases"):
            monkeypatch.setattr(table, attribute, dict(getattr(table, attribute)))

    class PatchConfig(ComponentConfig):
        name: str = "test-patch"
        width: int = 8

    @registry.register_encoder("test-patch", aliases=("tp",))
    class TestPatch(Encoder):
        Config = PatchConfig
        default_decoder = "test-painter"

        def __init__(self, config, *, obs):
            super().__init__(config, obs=obs)
            group = TokenGroup("patches", 4, (Field("features", config.width),))
            self.spec = LatentSpec((group,), identity="exchangeable")

        def forward(self, video, *, sampler):
            raise NotImplementedError

    class PainterConfig(ComponentConfig):
        name: str = "test-painter"

    @registry.register_decoder("test-painter")
    class TestPainter(Decoder):
        Config = PainterConfig
        kinds = None

        def forward(self, z, *, masks=False):
            raise NotImplementedError

    class StillConfig(ComponentConfig):
        name: str = "test-still"
        dim: int = 8

    @registry.register_dynamics("test-still")
    class TestStill(Dynamics):
        Config = StillConfig
        explicit_prior = False

        def __init__(self, config, **wiring):
            super().__init__(config, **wiring)
            self.cond_dim = config.dim

    @registry.register_dynamics("test-grid")
    class TestGrid(TestStill):
        requires = frozenset({"grid"})


# -- configurations

@pytest.mark.parametrize("overrides", [
    {"dynamics__num_layers": 4},
    {"dynamics": {"num_layers": 4}},
    {"dynamics": {"name": "pint", "num_layers": 4}},
    {"dynamics": {"name": "Particle_Transformer", "num_layers": 4}},  # an alias of the present one is no swap
    {"dynamics.num_layers": 4},
    {"dynamics": "pint", "dynamics__num_layers": 4},
])
def test_override_syntaxes_agree(overrides):
    config = wk.create_config("lpwm-sketchy", **overrides)
    assert config == wk.create_config("lpwm-sketchy").replace("dynamics.num_layers", 4)


@pytest.mark.parametrize("overrides", [
    {"dynamics": "test-still"}, {"dynamics": {"name": "test_still"}}, {"dynamics": "test-still", "dynamics__dim": 8},
    {"dynamics__dim": 8, "dynamics": "test-still"},
])
def test_a_swap_takes_the_new_components_defaults(components, overrides):
    assert wk.create_config("lpwm-sketchy", **overrides).dynamics.model_dump() == {"name": "test-still", "dim": 8}


def test_a_swap_refuses_the_old_components_options(components):
    with pytest.raises(ConfigError, match="dynamics: unknown option 'num_layers'"):
        wk.create_config("lpwm-sketchy", dynamics="test-still", dynamics__num_layers=4)


@pytest.mark.parametrize("overrides, decoder", [
    ({"encoder": "test-patch"}, "test-painter"),
    ({"encoder": {"name": "TP", "width": 4}}, "test-painter"),
    ({"encoder": "test-patch", "decoder": "particle"}, "particle"),
    ({"encoder": {"name": "dlpv3", "num_particles": 5}}, "particle"),  # an alias of the present one
])
def test_a_new_encoder_brings_its_decoder(components, overrides, decoder):
    assert wk.create_config("lpwm-sketchy", **overrides).decoder.name == decoder


def test_none_removes_a_component_or_a_condition():
    assert wk.create_config("lpwm-sketchy", latent_action=None).latent_action is None
    config = wk.create_config("lpwm-sketchy-action", conditioners={"action": None, "goal_image": "goal-image"})
    assert set(config.conditioners) == {"goal_image"}
    config = wk.create_config("lpwm", conditioners={"action": {"name": "action", "dim": 7}, "language": None})
    assert set(config.conditioners) == {"action"}


def test_conditioner_aliases_are_no_swap():
    changes = {"action": {"name": "Actions", "null_embedding": True}}
    config = wk.create_config("lpwm-sketchy-action", conditioners=changes)
    assert config.conditioners["action"].to_dict() == {
        "name": "action", "to": "auto", "dropout": 0.0, "dim": 7, "null_embedding": True,
    }


def test_overrides_do_not_touch_the_preset():
    wk.create_config("lpwm-sketchy", dynamics__num_layers=1, conditioners={"action": {"name": "action", "dim": 1}})
    config = wk.create_config("lpwm-sketchy")
    assert config.dynamics.num_layers == 6 and config.conditioners == {}


def test_unknown_components_and_options_have_suggestions():
    with pytest.raises(UnknownComponentError, match="Did you mean 'pint'"):
        wk.create_config("lpwm", dynamics="pnit")
    with pytest.raises(ConfigError, match="Did you mean 'dynamics'"):
        wk.create_config("lpwm", dynamisc__num_layers=4)


# -- create_model

def test_names_that_look_like_paths_ask_for_a_prefix():
    with pytest.raises(ConfigError, match="looks like a path or a hub id: write 'dir:org/model' or 'hub:org/model'"):
        wk.create_model("org/model")


@pytest.mark.parametrize("name", ["hub:org/model", "dir:/no/such/folder"])
def test_finished_models_take_no_overrides(name):
    with pytest.raises(ConfigError, match=f"{name} is a finished model and takes no overrides"):
        wk.create_model(name, dynamics__num_layers=1)


@pytest.mark.parametrize("name", ["hub:org/model@v1", "dir:/a/folder"])
def test_prefixed_names_are_loaded(name, monkeypatch):
    from worldkit.storage import hub

    monkeypatch.setattr(hub, "from_pretrained", lambda source: ("loaded", source))
    assert wk.create_model(name) == ("loaded", name)


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(wk.WorldkitError, match="nothing-here"):
        wk.create_model(f"dir:{tmp_path / 'nothing-here'}")


def test_pretrained_without_weights():
    with pytest.raises(NoPretrainedWeightsError) as error:
        wk.create_model("LPWM_sketchy", pretrained=True)
    assert str(error.value).startswith("no weights are published for 'lpwm-sketchy'. Presets with weights: ")
    assert "worldkit convert lpwm CHECKPOINT --hparams hparams.json" in str(error.value)
    assert "lpwm-sketchy" not in wk.list_models(pretrained=True)


def test_weights_that_are_not_published_are_to_be_converted_by_the_converter_that_fits():
    advice = {name: re.search(r"worldkit convert (\S+)", how_to_obtain(name)) for name in wk.list_models()}
    said = {name: found and found[1] for name, found in advice.items()}
    assert set(said.values()) - {None} == set(NEEDS)  # every converter is some preset's
    for name, kind in (("lewm", "lewm"), ("pldm", "lewm"), ("pldm-wall", None), ("vjepa2-ac", "vjepa2-ac"),
                       ("vjepa2-giant", "vjepa2"), ("vjepa-large", None), ("dreamer-v3", None), ("ddlp-obj3d", "ddlp"),
                       ("diffuse-ddlp-obj3d", "diffuse-ddlp"), ("g-swm-maze", "gswm"), ("slotformer", None)):
        assert said[name] == kind, name
    with pytest.raises(NoPretrainedWeightsError, match="Official LeWM .*convert lewm CHECKPOINT --out FOLDER. To"):
        wk.create_model("lewm", pretrained=True)


def test_no_name_and_config_with_name():
    with pytest.raises(ConfigError, match="create_model needs a name"):
        wk.create_model()
    for arguments in ({"name": "lpwm"}, {"dynamics__num_layers": 2}):
        with pytest.raises(ConfigError, match="takes no name and no overrides"):
            wk.create_model(config=tiny_config(), **arguments)


def test_model_keeps_its_config_and_builds_again_from_it():
    model = tiny()
    again = wk.create_model(config=model.config)
    assert again.config == model.config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    report = model.parameter_report()
    assert report["total"] == sum(v for k, v in report.items() if k != "total")


# -- initial weights

def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_initial_weights_follow_the_seed():
    a, b, c = tiny(0), tiny(0), tiny(1)
    assert same(a, b)
    assert not same(a.encoder, c.encoder) and not same(a.dynamics, c.dynamics)


def test_components_draw_from_random_streams_of_their_own():
    a = tiny()
    b = tiny(**{"dynamics.num_layers": 2})
    assert len(list(b.dynamics.parameters())) > len(list(a.dynamics.parameters()))
    for part in ("encoder", "decoder", "latent_action"):
        assert same(getattr(a, part), getattr(b, part)), part
    c = tiny(**{"conditioners": {"action": {"name": "action", "dim": 2}}})
    for part in ("encoder", "decoder", "dynamics", "latent_action"):
        assert same(getattr(a, part), getattr(c, part)), part


def test_building_moves_the_global_stream_by_one_draw_whatever_the_model():
    after = []
    for changes in ({}, {"dynamics.num_layers": 3}):
        tiny(5, **changes)
        after.append(torch.rand(3))
    assert torch.equal(*after)


def test_parts_of_one_model_differ():
    model = tiny()
    assert not torch.equal(model.encoder.attribute_cnn.conv_in.weight, model.encoder.appearance_cnn.conv_in.weight)


# -- parts that do not fit

@pytest.mark.parametrize("changes, message", [
    ({"dynamics": None}, "a latent action needs a dynamics to act on"),
    ({"dynamics": None, "latent_action": None, "conditioners": {"action": {"name": "action", "dim": 2}}},
     "condition 'action' steers a dynamics, but this model has none"),
    ({"latent_action": None, "conditioners": {"action": {"name": "action", "dim": 2, "to": "both"}}},
     "conditioner 'action' is routed to 'both', but the model has no latent action"),
    ({"latent_action.dim": 32, "conditioners": {"action": {"name": "action", "dim": 2, "to": "both"}}},
     r"condition 'action' goes to both latent action \(width 32\) and dynamics \(width 16\)"),
    ({"decoder": None}, "objective 'elbo' needs a decoder, but none is set"),
])
def test_wiring_that_cannot_work(changes, message):
    with pytest.raises(IncompatibleComponentsError, match=message):
        tiny(**changes)


def test_components_that_do_not_fit_name_those_that_do(components):
    with pytest.raises(IncompatibleComponentsError, match=(
        "dynamics 'pint' needs tokens that keep their identity over time, but encoder 'test-patch' gives 4 patches "
        "without that. Dynamics that fit: .*test-still"
    )):
        wk.create_model("lpwm-balls-mini", encoder="test-patch")
    with pytest.raises(IncompatibleComponentsError, match=(
        "dynamics 'test-grid' needs a grid of tokens .* but encoder 'particle' gives 16 particles . 1 background "
        "without that. Dynamics that fit: .*pint"
    )):
        wk.create_model("lpwm-balls-mini", dynamics="test-grid")
    with pytest.raises(IncompatibleComponentsError, match=(
        "decoder 'particle' draws particles, but encoder 'test-patch' gives latent. Decoders that fit: .*test-painter"
    )):
        wk.create_model("lpwm-balls-mini", encoder="test-patch", decoder="particle")
