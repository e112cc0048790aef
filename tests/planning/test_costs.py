"""Costs on latents made by hand, and on small models."""

from itertools import permutations

import pytest
import torch

import worldkit as wk
from worldkit.errors import ConfigError, NoDecoderError, WorldkitError
from worldkit.latents import Field, Latent, LatentSpec, TokenGroup
from worldkit.planning import (
    CEM,
    ActionEffort,
    Continuous,
    LatentDistance,
    ObjectDistance,
    PixelDistance,
    PredictedReward,
    Shooting,
)
from worldkit.planning.objects import assign, squared_distances
from worldkit.testing import example_latent, example_spec

ACTION = {"action": {"name": "action", "dim": 2}}
BOX = Continuous((-1.0, -1.0), (1.0, 1.0))
SLOTS = LatentSpec((TokenGroup("slots", 5, (Field("features", 3),)),), "exchangeable", kind="slots")


def slots(seed, batch=2, time=1):
    generator = torch.Generator().manual_seed(seed)
    return Latent.build(SLOTS, {("slots", "features"): torch.randn(batch, time, 5, 3, generator=generator)})


def particles(seed):
    return example_latent(example_spec(), batch=2, time=1, seed=seed)


def shuffled(z, group, order):
    """The tokens of a group in another order."""
    return Latent.build(z.spec, {key: x[:, :, order] if key[0] == group else x for key, x in z.values.items()})


BOTH = ("one-to-one", "nearest")


@pytest.mark.parametrize("pairing", BOTH)
@pytest.mark.parametrize("make, group", [(slots, "slots"), (particles, "particles")])
def test_the_order_of_things_does_not_matter(make, group, pairing):
    one, two, distance = make(0), make(1), ObjectDistance(pairing=pairing)
    count = one.spec.group(group).size
    plain = distance.between(one, two)
    for seed in range(5):
        orders = [torch.randperm(count, generator=torch.Generator().manual_seed(10 * seed + i)) for i in range(2)]
        mixed = distance.between(shuffled(one, group, orders[0]), shuffled(two, group, orders[1]))
        torch.testing.assert_close(mixed, plain)
    assert (plain > 0.01).all()
    torch.testing.assert_close(distance.between(shuffled(one, group, orders[0]), one), torch.zeros(2, 1), atol=1e-5,
                               rtol=0)


def edited(z, name, change):
    """The particles with one field changed in place by a function."""
    values = {key: x.clone() for key, x in z.values.items()}
    change(values["particles", name])
    return Latent.build(z.spec, values)


@pytest.mark.parametrize("pairing", BOTH)
def test_what_cannot_be_seen_costs_nothing(pairing):
    distance = ObjectDistance(missing=1.0, pairing=pairing)
    hidden = edited(particles(0), "transparency", lambda x: x[:, :, :2].fill_(1) + x[:, :, 2:].zero_().sum())
    moved = edited(hidden, "position", lambda x: x[:, :, 2:].add_(0.7))
    assert distance.between(moved, hidden).abs().max() < 1e-6
    assert (distance.between(edited(moved, "position", lambda x: x[:, :, 0].add_(0.3)), hidden) > 0.05).all()


def test_a_thing_that_is_missing_costs_what_is_said():
    whole = edited(particles(0), "transparency", lambda x: x.fill_(1))
    less = edited(whole, "transparency", lambda x: x[:, :, 1].zero_())
    cost = ObjectDistance(missing=0.3).between(less, whole)
    torch.testing.assert_close(cost, torch.full((2, 1), 0.3 / whole.positions.shape[2]))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_the_pairing_is_the_best_of_all(count):
    """Few things: all orders are tried; more: the Hungarian method. Both against all orders."""
    cost = torch.rand(3, 2, count, count, generator=torch.Generator().manual_seed(count))
    orders = torch.tensor(list(permutations(range(count))))
    totals = cost[..., torch.arange(count), orders].sum(-1)
    chosen = assign(cost)
    assert chosen.shape == (3, 2, count)
    torch.testing.assert_close(cost.gather(-1, chosen[..., None])[..., 0].sum(-1), totals.min(-1).values)


@pytest.mark.parametrize("count", [3, 6])
def test_pairs_that_are_no_numbers_are_avoided(count):
    cost = torch.rand(count, count)
    cost[0, 0], cost[1, 1] = torch.nan, torch.inf
    chosen = assign(cost)
    assert chosen[0] != 0 and chosen[1] != 1 and sorted(chosen.tolist()) == list(range(count))


@pytest.mark.parametrize("dim", [2, 3, 9])
def test_squared_distances(dim):
    x, y = torch.randn(2, 5, dim), torch.randn(2, 4, dim)
    torch.testing.assert_close(squared_distances(x, y), torch.cdist(x, y).square(), atol=1e-4, rtol=1e-4)


def test_things_that_several_particles_draw():
    """One thing, drawn by two particles here and by three in the goal, another by two and one: no distance."""
    def scene(owners):
        z = edited(particles(0), "transparency", lambda x: x.fill_(1))
        for name in ("position", "features"):
            z = edited(z, name, lambda x: x.copy_(x[:, :, owners].clone()))
        return z

    one, two = scene([0, 0, 1, 1, 4]), scene([1, 0, 0, 0, 4])
    assert ObjectDistance(pairing="nearest").between(one, two).abs().max() < 1e-5
    assert ObjectDistance().between(one, two).min() > 0.05


@pytest.mark.parametrize("pairing", BOTH)
def test_the_distance_of_objects_has_gradients(pairing):
    one, two = slots(0), slots(1)
    moving = one.map(lambda x: x.clone().requires_grad_(True))
    ObjectDistance(pairing=pairing).between(moving, two).sum().backward()
    gradient = moving.values["slots", "features"].grad
    assert torch.isfinite(gradient).all() and (gradient.abs().sum(-1) > 0).all()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return wk.create_model("lpwm-push-mini", encoder="patch", conditioners=ACTION).eval()


@pytest.fixture(scope="module")
def frames():
    return torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_costs_are_what_they_say(model, frames):
    """Each against the plain formula, on predictions."""
    goal = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    actions = torch.rand(2, 3, 4, 2, generator=torch.Generator().manual_seed(2)) - 0.5
    task = Shooting(model, frames, LatentDistance(), goal=goal, space=BOX)
    with torch.no_grad():
        imagined, wanted = task.imagine(actions), model.encode(goal[:, None])
        z = imagined.latents
        pictures = model.decode(z).video.reshape(2, 3, 4, 3, 32, 32)
        latents = (z.features.reshape(2, 3, 4, 16, 9) - wanted.features[:, None]).square().mean((-1, -2))
        for when, frame in (("last", slice(-1, None)), ("all", slice(None))):
            pixels = (pictures - goal[:, None, None]).square().mean((3, 4, 5))[..., frame].mean(-1)
            torch.testing.assert_close(PixelDistance(when)(imagined, task.goal), pixels)
            torch.testing.assert_close(LatentDistance(when, ("features",))(imagined, task.goal),
                                       latents[..., frame].mean(-1))
        torch.testing.assert_close(ActionEffort()(imagined, task.goal), actions.square().sum((2, 3)))
        both = (2 * PixelDistance() + ActionEffort() * 0.5 + LatentDistance()) * 3
        torch.testing.assert_close(both(imagined, task.goal), 6 * PixelDistance()(imagined, task.goal)
                                   + 1.5 * actions.square().sum((2, 3)) + 3 * LatentDistance()(imagined, task.goal))


def test_a_goal_may_be_a_latent(model, frames):
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    actions = torch.zeros(2, 2, 2, 2)
    with torch.no_grad():
        latent = model.encode(picture[:, None])
        drawn = model.decode(latent).video[:, 0].clamp(0, 1)
    for cost, other in ((LatentDistance(), picture), (ObjectDistance(), picture), (PixelDistance(), drawn)):
        one, two = (Shooting(model, frames, cost, goal=goal, space=BOX).score(actions).cost for goal in (latent, other))
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("name, things", [("slotformer-balls-mini", "slots"), ("lpwm-push-mini", "particles")])
def test_comparing_things_by_index_is_refused(frames, name, things):
    sets = wk.create_model(name, conditioners=ACTION)
    with pytest.raises(WorldkitError, match=f"another of the {things} of this model may show the same thing"):
        Shooting(sets, frames, LatentDistance(), goal=frames[:, 0], space=BOX)
    task = Shooting(sets, frames, ObjectDistance(), goal=frames[:, 0], space=BOX)
    plan = CEM(candidates=4, elites=2, iterations=1).solve(task, 2, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(plan.cost).all()


@pytest.mark.parametrize("cost, error, said", [
    (PredictedReward(), WorldkitError, "needs a model with a head 'reward', and this one has none"),
    (LatentDistance(fields=("posture",)), ConfigError, "no field posture; it has: features"),
    (LatentDistance() + PredictedReward("score"), WorldkitError, "head 'score'"),
])
def test_a_model_without_what_a_cost_needs(model, frames, cost, error, said):
    with pytest.raises(error, match=said):
        Shooting(model, frames, cost, goal=frames[:, 0], space=BOX)


@pytest.mark.parametrize("cost", [LatentDistance(), PixelDistance(), ObjectDistance(), 2 * PixelDistance()])
def test_a_cost_without_its_goal(model, frames, cost):
    with pytest.raises(WorldkitError, match=r"compares with a goal: Shooting\(..., goal=picture\)"):
        Shooting(model, frames, cost, space=BOX)


def test_a_model_that_cannot_draw(frames):
    blind = wk.create_model("lpwm-push-mini", conditioners=ACTION)
    blind.decoder = None
    with pytest.raises(NoDecoderError, match="this model has no decoder: take LatentDistance"):
        Shooting(blind, frames, PixelDistance(), goal=frames[:, 0], space=BOX)


@pytest.mark.parametrize("make", [lambda: PixelDistance("first"), lambda: ObjectDistance(position=-1.0),
                                  lambda: ObjectDistance(pairing="any")])
def test_options_are_checked(make):
    with pytest.raises(ConfigError):
        make()
