"""The recurrent dynamics: conformance, cached rollouts, and that it learns a toy world."""

import pytest
import torch
from torch import nn

from worldkit.conditions import EMPTY, Condition
from worldkit.distributions import MEANS, Delta, Normal
from worldkit.dynamics.gru import GRU, GRUConfig
from worldkit.latents import Field, Latent, LatentDist, LatentSpec, TokenGroup
from worldkit.testing import check_dynamics, check_model, example_latent, example_spec
from worldkit.testing.examples import example_conditioning, small_config

POINTS = LatentSpec((TokenGroup("slots", 4, (Field("features", 3, Delta()),)),), kind="slots")
MIXED = LatentSpec((
    TokenGroup("things", 3, (Field("position", 2, Delta()), Field("features", 2))),
    TokenGroup("scene", 2, (Field("features", 3),)),
))
TOY = LatentSpec((TokenGroup("things", 3, (Field("position", 2), Field("features", 1))),))


def gru(spec=TOY, memory_length=0, **options):
    torch.manual_seed(0)
    config = GRUConfig(**{"dim": 32, "num_heads": 2, **options})
    return GRU(config, spec=spec, anchors={}, window=4, memory_length=memory_length)


@pytest.mark.parametrize("memory_length", [0, 2])
@pytest.mark.parametrize("spec", [POINTS, MIXED, example_spec(views=2)], ids=["points", "mixed", "two views"])
def test_conforms(spec, memory_length):
    check_dynamics("gru", spec=spec, memory_length=memory_length)


@pytest.mark.parametrize("options", [{"interaction": False}, {"num_layers": 2}])
def test_variants_conform(options):
    check_dynamics("recurrent", memory_length=2, **options)


@pytest.mark.parametrize("overrides", [{}, {"latent_action": None}], ids=["latent actions", "none"])
def test_model(overrides):
    check_model(small_config(dynamics="gru", **overrides))


@pytest.mark.parametrize("memory_length", [0, 2])
def test_steps_equal_prior_however_long_the_history(memory_length):
    dynamics, frames = gru(example_spec(), memory_length), 9  # more than twice the window
    z = example_latent(example_spec(), time=frames)
    cond = example_conditioning(32, example_spec(), frames, memory_length)
    with torch.no_grad():
        whole = dynamics.prior(z, cond)
        carry = dynamics.start(z[:, :3], cond.at(slice(0, 2)))
        for t in range(2, frames):
            step = dynamics.step(carry, cond.at(slice(t, t + 1)))
            for key, params in step.params.items():
                torch.testing.assert_close(params, whole.params[key][:, t : t + 1])
            dynamics.observe(carry, z[:, t + 1 : t + 2])


def test_tokens_share_weights_and_interact_only_when_asked():
    z = example_latent(TOY)
    swapped = z.map(lambda x: x.flip(2))
    other = Latent.build(TOY, {k: torch.cat([v[:, :, :2], v[:, :, 2:] + 1], 2) for k, v in z.values.items()})
    with torch.no_grad():
        for interaction in (True, False):
            dynamics = gru(interaction=interaction, predict_delta=False)
            mean = dynamics.prior(z, EMPTY).mode().pack()
            torch.testing.assert_close(dynamics.prior(swapped, EMPTY).mode().pack(), mean.flip(2))
            moved = (dynamics.prior(other, EMPTY).mode().pack() - mean)[:, :, :2].abs().max()
            assert (moved > 1e-5) == interaction


def test_first_predictions_stand_at_the_anchors():
    spec = example_spec()
    anchors = {"position": torch.linspace(-0.8, 0.8, 5)[:, None].repeat(1, 2)}
    config = GRUConfig(dim=16, num_heads=2, predict_delta=False, scale_prior=0.25)
    dynamics = GRU(config, spec=spec, anchors=anchors, window=4)
    mean = dynamics.prior(example_latent(spec), EMPTY).mode()
    torch.testing.assert_close(mean.position, anchors["position"].expand_as(mean.position))
    torch.testing.assert_close(mean.size, torch.full_like(mean.size, 0.25), atol=1e-3, rtol=0)


@pytest.mark.parametrize("spec", [MIXED, POINTS, TOY], ids=["mixed", "points", "normal"])
def test_first_predicted_changes_are_none(spec):
    z = example_latent(spec)
    mean = gru(spec).prior(z, EMPTY).mode()
    torch.testing.assert_close(mean.pack(), z.pack())


def toy_clips(batch, frames, generator, size=0.3):
    """Things with a velocity of their own, all pushed by the frame's action: latents, actions ``[B, T, 2]``."""
    start = torch.rand(batch, 1, 3, 2, generator=generator) - 0.5
    velocity = size / 3 * torch.randn(batch, 1, 3, 2, generator=generator)
    action = torch.randn(batch, frames, 2, generator=generator)
    moves = velocity + size * action[:, :-1, None]
    position = torch.cat([start, start + moves.cumsum(1)], 1)
    look = torch.randn(batch, 1, 3, 1, generator=generator).expand(-1, frames, -1, -1)
    return Latent.build(TOY, {("things", "position"): position, ("things", "features"): look}), action


def test_learns_velocities_and_follows_swapped_actions():
    dynamics, project = gru(), nn.Linear(2, 32)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([*dynamics.parameters(), *project.parameters()], 3e-3)
    for _ in range(200):
        z, action = toy_clips(32, 5, generator)
        prior = dynamics.prior(z[:, :-1], Condition(frame=project(action[:, :-1])))
        posterior = LatentDist(TOY, {k: Normal.pack(v, torch.tensor(-8.0)) for k, v in z[:, 1:].values.items()})
        loss = sum(v.mean() for v in posterior.kl(prior).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z, action = toy_clips(64, 5, generator)
    with torch.no_grad():
        def predict(last):
            given = torch.cat([action[:, :3], last], 1)
            carry = dynamics.start(z[:, :4], Condition(frame=project(given[:, :3])))
            return dynamics.predict(carry, Condition(frame=project(given[:, 3:])), MEANS, mean=True).positions

        swapped = action[:, 3:4].roll(1, 0)
        expected = z.positions[:, 4:] + 0.3 * (swapped - action[:, 3:4])[:, :, None]
        copied = (z.positions[:, 3:4] - z.positions[:, 4:]).square().mean()
        right = (predict(action[:, 3:4]) - z.positions[:, 4:]).square().mean()
        follows = (predict(swapped) - expected).square().mean()
    print(f"share of the motion left unexplained: {right / copied:.3f}, of a swapped action: {follows / copied:.3f}")
    assert right < 0.15 * copied and follows < 0.15 * copied
