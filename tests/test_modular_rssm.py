"""RSSMs put together by name: every encoder with every cell, none of which sees other clips or the future."""

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.cells import list_cells, register_cell
from worldkit.distributions import MEANS
from worldkit.errors import ConfigError
from worldkit.registry import cells
from worldkit.storage.hub import components
from worldkit.testing import check_dynamics, check_model, example_batch
from worldkit.testing.examples import SMALL, small_config

RSSM = {"name": "rssm", "deterministic_dim": 8, "hidden_dim": 6, "num_variables": 2, "num_classes": 3}


def config(encoder="conv", cell="gru", **overrides):
    vectors = {"obs": {"height": 0, "width": 0, "vectors": {"arm": 3}}} if encoder == "mlp" else {}
    return small_config(
        encoder=encoder, dynamics={**RSSM, "cell": {"name": cell, **SMALL["cell"][cell]}}, latent_action=None,
        conditioners={"action": {"name": "transition-action", "dim": 2}}, objective="dreamer", **vectors, **overrides)


@pytest.mark.parametrize("cell", list_cells())
def test_dynamics(cell):
    check_dynamics("rssm", cell={"name": cell, **SMALL["cell"][cell]})


@pytest.mark.parametrize(("encoder", "cell"), [
    ("vit", "gru"), ("conv", "lstm"), ("conv", "transformer"), ("vit", "transformer"), ("mlp", "transformer"),
    ("slot", "transformer"),
])
def test_models(encoder, cell):
    check_model(config(encoder, cell))


@pytest.mark.parametrize("cell", ["lstm", "transformer"])
def test_frame_by_frame_is_the_whole_clip_beyond_every_window(cell):
    model = build(config(cell=cell)).eval()
    video, action = torch.rand(2, 9, 3, 32, 32), torch.randn(2, 8, 2)
    whole = model.perceive(video, conditions={"action": action}).latent
    state = None
    for t in range(9):
        told = {"action": action[:, t - 1 : t]} if t else None
        state = model.perceive(video[:, t : t + 1], last=state, last_action=told).latent
        for key, x in state.values.items():
            assert torch.allclose(x, whole.values[key][:, t : t + 1], atol=1e-5), (t, key)


def test_a_transformer_remembers_what_it_saw_and_no_longer_than_its_reach():
    """Two layers of window 3 see four transitions back; what was drawn is given, so that nothing else carries on."""
    from worldkit.conditions import Condition

    model = build(config(cell="transformer")).eval()
    dynamics, group = model.dynamics, model.spec.groups[0].name
    drawn = torch.randn(7, 1, 1, 1, RSSM["num_variables"] * RSSM["num_classes"])

    def last_prior(drawn):
        z = model.encode(torch.zeros(1, 1, 3, 32, 32))
        zeros = {key: torch.zeros_like(x) for key, x in z.values.items()}
        for x in drawn:
            z = type(z)(z.spec, {**zeros, (group, "stochastic"): x})
            prior = dynamics.prior(z, Condition(frame=torch.zeros(1, 1, dynamics.cond_dim)))
            zeros[group, "memory"] = prior.params[group, "memory"]
        return prior.params[group, "deterministic"]

    base = last_prior(drawn)
    for back, seen in ((0, True), (1, True), (4, True), (5, False)):
        other = drawn.clone()
        other[6 - back] += 1
        assert bool((last_prior(other) - base).abs().max() > 1e-7) is seen, back


def test_decoders_and_heads_do_not_read_the_memory():
    model = build(config(cell="transformer", heads={"reward": "gaussian"})).eval()
    batch = example_batch(model.config)
    z = model.perceive(batch, MEANS).latent
    group = model.spec.groups[0]
    memory = group.field("memory")
    assert memory.hidden and model.spec.flat_dim(group.name) == 8 + 6
    other = type(z)(z.spec, {**z.values, (group.name, "memory"): z.values[group.name, "memory"] + 1})
    assert torch.equal(model.decode(other).video, model.decode(z).video)
    assert torch.equal(model.dynamics.state_features(other), model.dynamics.state_features(z))


def test_presets_take_any_encoder_and_cell():
    for name in wk.list_models("modular-rssm*"):
        assert wk.create_config(name).dynamics.name == "rssm"
    made = wk.create_config("modular-rssm", encoder="vit", dynamics__cell="transformer")
    assert (made.encoder.name, made.decoder.name, made.encoder.dim) == ("vit", "conv", 64)
    assert (made.dynamics.cell.name, made.dynamics.cell.hidden, made.dynamics.cell.window) == ("transformer", 64, 8)
    assert wk.create_config("modular-rssm", dynamics__cell={"name": "lstm", "hidden": 32}).dynamics.cell.hidden == 32
    assert wk.create_config("modular-rssm", dynamics__cell__hidden=32).dynamics.cell.name == "gru"
    with pytest.raises(ConfigError, match="unknown cell 'lsmt'. Did you mean 'lstm'?"):
        wk.create_config("modular-rssm", dynamics__cell="lsmt")
    with pytest.raises(ConfigError, match="unknown option 'windw'. Did you mean 'window'?"):
        wk.create_config("modular-rssm", dynamics__cell={"name": "transformer", "windw": 4})


def test_a_cell_of_a_plugin_goes_into_a_model_and_its_provider_is_recorded():
    @register_cell("leaky-of-a-plugin")
    class Leaky(cells.get("gru")):
        pass

    try:
        made = wk.create_config("modular-rssm", dynamics__cell={"name": "leaky-of-a-plugin", "hidden": 16})
        assert ("dynamics.cell", cells, "leaky-of-a-plugin") in list(components(made.to_dict()))
        assert isinstance(build(made).dynamics.cell, Leaky)
    finally:
        del cells._entries["leaky-of-a-plugin"]
