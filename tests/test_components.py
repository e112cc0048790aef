"""Every registered component and a range of small models pass the conformance checks."""

import pytest
import torch

from worldkit import registry
from worldkit.assembly import build
from worldkit.config import ObsSpec
from worldkit.errors import ConfigError
from worldkit.testing import (
    check_conditioner,
    check_decoder,
    check_dynamics,
    check_encoder,
    check_latent_action,
    check_model,
    check_objective,
    check_prior,
    example_spec,
)
from worldkit.testing.examples import small_config

MADE_HERE = [n for n in registry.list_encoders() if "model" not in registry.encoders.get(n).Config.model_fields]
"""Encoders that need no files; of the others: test_pretrained.py."""
TWO_VIEWS = ObsSpec(height=32, width=32, views=2)


@pytest.mark.parametrize("name", MADE_HERE)
def test_encoder(name):
    check_encoder(name)


@pytest.mark.parametrize("name", registry.list_decoders())
def test_decoder(name):
    check_decoder(name)


@pytest.mark.parametrize("name", registry.list_dynamics())
def test_dynamics(name):
    check_dynamics(name, spec=example_spec(kind="patches") if name == "mdn-rnn" else None)  # tokens of one kind


@pytest.mark.parametrize("name", registry.list_latent_actions())
def test_latent_action(name):
    check_latent_action(name)


@pytest.mark.parametrize("name", registry.list_conditioners())
def test_conditioner(name):
    check_conditioner(name)


@pytest.mark.parametrize("name", registry.list_priors())
def test_prior(name):
    check_prior(name)


@pytest.mark.parametrize("name", registry.list_objectives())
def test_objective(name):
    check_objective(name)


def test_particle_encoder_variants():
    check_encoder("particle", obs=TWO_VIEWS)
    check_encoder("particle", select="keep")
    check_encoder("particle", feature_dim=16, background_dim=64 * 4, num_layers=2)


def test_decoder_of_two_views():
    check_decoder("particle", obs=TWO_VIEWS, spec=example_spec(views=2))


def test_pint_variants():
    check_dynamics("pint", predict_delta=True)
    check_dynamics("pint", predict_changes=True)
    check_dynamics("pint", memory_length=2)
    check_dynamics("pint", spec=example_spec(views=2))


def test_pint_joint_variants():
    check_dynamics("pint-joint", predict_delta=False)
    check_dynamics("pint-joint", depth_logvar="shared", hidden_dim=24)
    check_dynamics("pint-joint", memory_length=2)
    check_dynamics("pint-joint", spec=example_spec(views=2))
    check_dynamics("pint-joint", spec=example_spec(kind="patches"))
    with pytest.raises(ConfigError, match="dim 10 must be divisible by num_heads 4"):
        small_config(dynamics={"name": "pint-joint", "dim": 10, "num_heads": 4})


@pytest.mark.parametrize(("part", "options"), [
    ("dynamics", {"name": "gru", "dim": 9}), ("dynamics", {"name": "pint", "dim": 9}),
    ("encoder", {"name": "vit", "dim": 9})])
def test_widths_that_heads_do_not_share(part, options):
    with pytest.raises(ConfigError, match=r"(dim|width \(dim\) of) 9 .*heads"):
        build(small_config(**{part: {**options, "num_heads": 4}}))


def test_pint_that_predicts_changes_begins_with_none():
    """Without training it repeats the last frame, in rollouts too; with upstream's own option it may not be mixed."""
    model = build(small_config(dynamics={"predict_changes": True}, latent_action=None))
    video = torch.rand(2, 3, 3, 32, 32)
    with torch.no_grad():
        future = model.rollout(video, 3, deterministic=True)
    z, last = future.latents, future.context_latents[:, -1:]
    for key in (k for k in z.spec.keys() if z.spec.field(k).dist.movable):
        torch.testing.assert_close(z.values[key], last.values[key].expand_as(z.values[key]))
    with pytest.raises(ConfigError, match="predict_delta adds the last position, predict_changes .*set one of them"):
        small_config(dynamics={"predict_changes": True, "predict_delta": True})


@pytest.mark.parametrize("pool", ["none", "token", "last", "mean", "mlp"])
def test_latent_action_pools(pool):
    check_latent_action("gaussian", pool=pool, memory_length=2)


def test_action_conditioner_with_stand_in():
    check_conditioner("action", null_embedding=True)


QUICK = {"encoder": "patch"}
"""For what is alike with all encoders: particles cost four times as much."""
MODELS = {
    "plain": {},
    "no latent action": {"latent_action": None},
    "two views, action and goal": {
        "obs.views": 2, "conditioners": {"action": {"name": "action", "dim": 3}, "goal_image": {"name": "goal-image"}},
    },
    "action with stand-in": QUICK | {
        "conditioners": {"action": {"name": "action", "dim": 3, "null_embedding": True}},
    },
    "action to the dynamics": QUICK | {
        "latent_action": None, "conditioners": {"action": {"name": "action", "dim": 3, "to": "dynamics"}},
    },
    "language": QUICK | {"conditioners": {"language": {"name": "language", "embed_dim": 5, "max_length": 2}}},
    "goal image": QUICK | {"conditioners": {"goal_image": {"name": "goal-image"}}},
    "pool token": QUICK | {"latent_action.pool": "token"},
    "pool last": QUICK | {"latent_action.pool": "last"},
    "pool mean": QUICK | {"latent_action.pool": "mean"},
    "pool mlp": QUICK | {"latent_action.pool": "mlp"},
    "predict_delta": {"dynamics.predict_delta": True},
    "image": {"dynamics": None, "latent_action": None, "timestep_horizon": 1, "encoder.select": "keep"},
}


@pytest.mark.parametrize("name", MODELS)
def test_model(name):
    check_model(small_config(**MODELS[name]))
