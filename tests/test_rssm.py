"""The recurrent state-space model: over any tokens, with any cell, and what its state may know."""

import pytest
import torch

from worldkit.assembly import build
from worldkit.conditions import EMPTY, Condition
from worldkit.distributions import MEANS, Categorical, Normal, Sampler
from worldkit.dynamics.rssm import RSSM, RSSMConfig
from worldkit.encoders.base import Encoding
from worldkit.encoders.conv import embedding, embedding_spec
from worldkit.errors import ConfigError
from worldkit.registry import list_cells
from worldkit.testing import check_dynamics, example_batch, example_spec
from worldkit.testing.examples import SMALL, example_encoding, small_config
from worldkit.testing.report import shake

SMALL_RSSM = SMALL["dynamics"]["rssm"]
FIRST = torch.tensor([[True, False, False, False]] * 2)


def make(spec=None, **options):
    torch.manual_seed(0)
    config = RSSMConfig.parse({"name": "rssm", **SMALL_RSSM, **options})
    return shake(RSSM(config, spec=spec or embedding_spec(5), anchors={}, window=4))


@pytest.mark.parametrize("cell", list_cells())
def test_every_cell(cell):
    check_dynamics("rssm", spec=example_spec(kind="slots"), cell={"name": cell, **SMALL["cell"].get(cell, {})})


@pytest.mark.parametrize("options", [
    {"stochastic": "normal"}, {"stochastic": "normal", "link": "sigmoid", "prior_layers": 0}, {"unimix": 0.0},
    {"posterior_layers": 3, "norm": "layer", "activation": "elu"}, {"interaction": True, "num_heads": 2},
], ids=str)
@pytest.mark.parametrize("kind", ["slots", "particles"])
def test_every_form(kind, options):
    check_dynamics("rssm", spec=example_spec(kind=kind), **options)


def test_the_state_describes_itself():
    spec = make().spec
    assert spec.keys() == [("state", "deterministic"), ("state", "stochastic")] and spec.kind == "latent"
    assert spec.field(("state", "stochastic")).dist == Categorical(3, 0.01)
    assert make(stochastic="normal").spec.field(("state", "stochastic")).dist == Normal("softplus", 0.1)
    particles = make(example_spec()).spec
    assert particles.keys()[2:4] == [("particles", "position"), ("particles", "scale")] and particles.num_tokens == 6
    memory = make(cell={"name": "lstm", "hidden": 6}).spec
    assert memory.field(("state", "memory")).hidden and memory.flat_dim("state") == spec.flat_dim("state")


@pytest.mark.parametrize("interaction", [False, True])
def test_tokens_meet_only_if_they_may(interaction):
    dynamics = make(example_spec(kind="slots"), interaction=interaction, num_heads=2)
    seen = example_encoding(example_spec(kind="slots"))
    base = dynamics.filter(seen, EMPTY, MEANS, first=FIRST).posterior
    values = {key: x.clone() for key, x in seen.latent.values.items()}
    values["slots", "features"][:, 0, 1] += 1
    other = Encoding(seen.posterior, type(seen.latent)(seen.latent.spec, values))
    moved = dynamics.filter(other, EMPTY, MEANS, first=FIRST).posterior.params["slots", "stochastic"]
    away = (moved - base.params["slots", "stochastic"]).abs().amax((0, 3))
    assert away[0, 1] > 0 and (away[0, [0, 2, 3]] == 0).all()
    assert ((away[1:, [0, 2, 3]] > 0).any() == interaction)


def test_tokens_that_meet_begin_with_gradients_that_end():
    spec = example_spec(kind="slots")
    config = RSSMConfig.parse({"name": "rssm", **SMALL_RSSM, "interaction": True, "num_heads": 2})
    dynamics = RSSM(config, spec=spec, anchors={}, window=4)  # as initialised, and episodes begin with zeros
    dynamics.filter(example_encoding(spec), EMPTY, Sampler(), first=FIRST).posterior.params[
        "slots", "stochastic"].square().sum().backward()
    assert max(p.grad.abs().max() for p in dynamics.parameters() if p.grad is not None) < 1e6


def test_the_frame_reaches_the_draw_and_the_draw_the_next_state_only():
    dynamics = make()
    tokens = torch.randn(2, 4, 5)
    base = dynamics.filter(embedding(dynamics_spec := embedding_spec(5), tokens), EMPTY, MEANS, first=FIRST)
    tokens[:, 1] += 3
    other = dynamics.filter(embedding(dynamics_spec, tokens), EMPTY, MEANS, first=FIRST)
    deter = [x.latent.values["state", "deterministic"][:, :, 0] for x in (base, other)]
    logits = [x.posterior.params["state", "stochastic"][:, :, 0] for x in (base, other)]
    assert torch.equal(deter[0][:, :2], deter[1][:, :2]) and not torch.equal(logits[0][:, 1], logits[1][:, 1])
    assert torch.equal(logits[0][:, 0], logits[1][:, 0])


def test_actions_reach_the_state_and_none_are_needed():
    dynamics, seen = make(), embedding(embedding_spec(5), torch.randn(2, 4, 5))
    told = torch.randn(2, 4, 8)
    base = dynamics.filter(seen, Condition(frame=told), MEANS, first=FIRST).prior.params["state", "stochastic"]
    other = dynamics.filter(seen, Condition(frame=told.flip(2)), MEANS, first=FIRST).prior.params["state", "stochastic"]
    assert (base != other).any(-1).all()
    zeros = dynamics.filter(seen, Condition(frame=0 * told), MEANS, first=FIRST).prior.params["state", "stochastic"]
    none = dynamics.filter(seen, EMPTY, MEANS, first=FIRST).prior.params["state", "stochastic"]
    torch.testing.assert_close(none, zeros)


def test_gradients_reach_the_first_frame_through_draws():
    dynamics = make()
    tokens = torch.randn(2, 4, 5, requires_grad=True)
    found = dynamics.filter(embedding(embedding_spec(5), tokens), EMPTY,
                            Sampler(generator=torch.Generator().manual_seed(0)), first=FIRST)
    found.latent.values["state", "deterministic"][:, -1].sum().backward()
    assert (tokens.grad[:, :3].abs().sum(-1) > 0).all() and (tokens.grad[:, 3] == 0).all()


@pytest.mark.parametrize("encoder", ["patch", "slot", "particle"])
def test_models(encoder):
    """Over patches, slots and particles; what heads read is the state reached."""
    model = build(small_config(encoder=encoder, dynamics="rssm", latent_action=None, heads={"reward": "two-hot"},
                               conditioners={"action": {"name": "transition-action", "dim": 3}}))
    batch = example_batch(model.config, 4)
    with torch.no_grad():
        seen = model.perceive(batch)
        assert model.dynamics.features(seen.latent, EMPTY).shape[-1] == model.dynamics.feature_dim()
        out = model.rollout(batch.video[:, :2], 3, conditions=example_batch(model.config, 5).conditions)
    assert out.video.shape == (2, 3, 3, 32, 32) and out.predictions["reward"].shape == (2, 3)


def test_options_are_checked():
    with pytest.raises(ConfigError, match="cell.*unknown cell 'block-gur'. Did you mean 'block-gru'?"):
        RSSMConfig.parse({"name": "rssm", "cell": "block-gur"})
    with pytest.raises(ConfigError, match="16 does not divide into 5 blocks"):
        make(cell={"name": "block-gru", "blocks": 5})
