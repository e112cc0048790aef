"""Planners on functions of the actions: what they find, what they say it costs, and what they leave alone."""

import math

import pytest
import torch

from worldkit.errors import ConfigError, ShapeError, UnknownComponentError, WorldkitError
from worldkit.planning import (
    CEM,
    ICEM,
    MPPI,
    ArmCEM,
    CategoricalCEM,
    Continuous,
    Discrete,
    FunctionObjective,
    GradientPlanner,
    PlaNetCEM,
    PredictiveSampling,
    list_planners,
    make_planner,
)

BOX = Continuous((-1.0, -1.0), (1.0, 1.0))
GOALS = torch.tensor([[0.5, -0.3], [0.2, 0.9], [3.0, 0.0]])  # the last one lies outside
CONTINUOUS = [CEM(), ICEM(), MPPI(), GradientPlanner(), GradientPlanner(candidates=1, iterations=60)]
SAMPLING = [CEM(), ICEM(), MPPI(), PredictiveSampling(), CategoricalCEM()]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def distance(actions):
    """The toy of the reference: squared distance of every action to a goal per problem."""
    return (actions - GOALS[:, None, None].to(actions)).square().sum((-1, -2))


def toy(function=distance, space=BOX, **options):
    return FunctionObjective(function, len(GOALS), space, **options)


def choices(n=5):
    wanted = torch.tensor([1, 4, 2])
    return FunctionObjective(lambda a: (a != wanted[:, None, None]).float().sum(-1), 3, Discrete(n))


def task_of(planner):
    return choices() if isinstance(planner, CategoricalCEM) else toy()


@pytest.mark.parametrize("planner", CONTINUOUS, ids=repr)
def test_finds_the_goal_or_the_bound_before_it(planner):
    plan = planner.solve(toy(), 5, generator=seeded())
    wanted = GOALS.clamp(-1, 1)[:, None].expand(3, 5, 2)
    assert (plan.actions - wanted).abs().max() < 0.1
    assert plan.actions.shape == (3, 5, 2) and plan.cost.shape == (3,)


def test_choices_are_found():
    plan = CategoricalCEM(candidates=200, iterations=15, elites=20).solve(choices(), 4, generator=seeded())
    assert plan.actions.dtype == torch.int64
    assert plan.actions.tolist() == [[1] * 4, [4] * 4, [2] * 4] and plan.cost.tolist() == [0, 0, 0]


@pytest.mark.parametrize("planner", [*CONTINUOUS, PredictiveSampling(), CEM(iterations=1), MPPI(iterations=1),
                                     CategoricalCEM(iterations=1)], ids=repr)
def test_the_cost_is_that_of_the_plan(planner):
    """Others report the mean of the elites: 4.7 where their plan costs 0.5 (after one iteration)."""
    task = task_of(planner)
    plan = planner.solve(task, 5, generator=seeded())
    torch.testing.assert_close(plan.cost, task.score(plan.actions[:, None]).cost[:, 0])


@pytest.mark.parametrize("planner", [*CONTINUOUS, PredictiveSampling()], ids=repr)
def test_every_candidate_is_inside_the_bounds(planner):
    rounds, space = [], Continuous((-0.2, -3.0), (0.1, math.inf))
    planner.solve(toy(space=space), 4, generator=seeded(), watch=rounds.append)
    low, high = space.bounds()
    assert rounds and all((r.actions >= low - 1e-6).all() and (r.actions <= high + 1e-6).all() for r in rounds)


@pytest.mark.parametrize("planner", [*SAMPLING, GradientPlanner()], ids=repr)
def test_seeds_repeat_and_nothing_is_kept(planner):
    task = task_of(planner)
    one, two = (planner.solve(task, 3, generator=seeded(7)) for _ in range(2))
    assert torch.equal(one.actions, two.actions) and torch.equal(one.cost, two.cost)
    before = torch.random.get_rng_state()
    planner.solve(task, 3, generator=seeded(7))
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator was used"


@pytest.mark.parametrize("planner", [*SAMPLING, GradientPlanner()], ids=repr)
def test_generators_of_the_problems_make_plans_independent(planner):
    whole = planner.solve(task_of(planner), 3, generator=[seeded(i) for i in range(3)])
    if isinstance(planner, CategoricalCEM):
        alone = FunctionObjective(lambda a: (a != 4).float().sum(-1), 1, Discrete(5))
    else:
        alone = FunctionObjective(lambda a: (a - GOALS[1]).square().sum((-1, -2)), 1, BOX)
    single = planner.solve(alone, 3, generator=[seeded(1)])
    torch.testing.assert_close(single.actions[0], whole.actions[1])


@pytest.mark.parametrize("planner", [*SAMPLING, GradientPlanner()], ids=repr)
@pytest.mark.parametrize("steps", [2, 5])
def test_the_warm_start_is_not_changed(planner, steps):
    task = task_of(planner)
    initial = torch.full((3, steps), 2) if isinstance(planner, CategoricalCEM) else torch.full((3, steps, 2), 0.1)
    before = initial.clone()
    plan = planner.solve(task, 5, initial=initial, generator=seeded())
    assert torch.equal(initial, before)
    assert plan.actions.data_ptr() != initial.data_ptr()


@pytest.mark.parametrize("planner", [PredictiveSampling(candidates=10), CEM(candidates=10, elites=2, iterations=1,
                                                                           std=0.1)], ids=repr)
def test_the_warm_start_helps(planner):
    start = GOALS.clamp(-1, 1)[:, None].expand(3, 5, 2)
    cold, warm = (planner.solve(toy(), 5, initial=initial, generator=seeded()) for initial in (None, start))
    assert (warm.cost < 0.5 * cold.cost)[:2].all()


def test_after_shifts_without_aliasing():
    plan = CEM(iterations=2).solve(toy(), 5, generator=seeded())
    rest = plan.after(2)
    assert torch.equal(rest, plan.actions[:, 2:])
    rest += 1
    assert not torch.equal(rest, plan.actions[:, 2:])


@pytest.mark.parametrize("planner", [CEM(), ICEM(), MPPI(), GradientPlanner()], ids=repr)
def test_candidates_without_a_number_are_passed_over(planner):
    """NaN where the first number is above 0.4, of which a third of the candidates are."""
    def spoilt(actions):
        return torch.where(actions[..., 0, 0] > 0.4, torch.nan, distance(actions))

    plan = planner.solve(toy(spoilt), 3, generator=seeded())
    assert torch.isfinite(plan.actions).all() and torch.isfinite(plan.cost).all()
    assert (plan.actions[:, 0, 0] <= 0.4).all()
    assert (plan.actions[1] - GOALS[1]).abs().max() < 0.15


def test_choices_without_a_number_are_passed_over():
    wanted = FunctionObjective(lambda a: torch.where((a == 0).any(-1), torch.nan, a.float().sum(-1)), 1, Discrete(4))
    assert CategoricalCEM().solve(wanted, 3, generator=seeded()).actions.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("planner", SAMPLING, ids=repr)
def test_no_number_at_all_is_an_error(planner):
    def nothing(actions):
        cost = actions.float().flatten(2).sum(-1)
        cost[1] = torch.nan
        return cost

    task = task_of(planner)
    task.function = nothing
    with pytest.raises(WorldkitError, match="no candidate has a finite cost: problem 1, in the first round"):
        planner.solve(task, 3, generator=seeded())


@pytest.mark.parametrize("scale", [1e-6, 100.0, 1e30])
def test_large_and_small_costs_weigh_as_they_should(scale):
    """exp(cost / temperature) without the smallest cost taken off is NaN at 100 a step."""
    plan = MPPI(temperature=0.5 * scale).solve(toy(lambda a: scale * distance(a)), 5, generator=seeded())
    assert (plan.actions - GOALS.clamp(-1, 1)[:, None]).abs().max() < 0.1


def test_a_low_temperature_follows_the_best():
    rounds = []
    planner = MPPI(iterations=1, temperature=1e-9, elites=300)
    plan = planner.solve(toy(), 2, generator=seeded(), watch=rounds.append)
    best = rounds[0].actions[torch.arange(3), rounds[0].score.cost.argmin(1)]
    torch.testing.assert_close(plan.actions, best)


@pytest.mark.parametrize("planner", [CEM(), ICEM(), MPPI(), GradientPlanner(iterations=100)], ids=repr)
def test_constraints_hold(planner):
    """No more than 0.5 of the first numbers together, where 1.5 would be best."""
    task = toy(constraints=(lambda a: a[..., 0].sum(-1) - 0.5,))
    plan = planner.solve(task, 3, generator=seeded())
    assert (plan.violation <= 1e-6).all() and (plan.actions[:, :, 0].sum(-1) <= 0.5 + 1e-5).all()
    assert (plan.actions[0, :, 0] - 0.5 / 3).abs().max() < 0.2


def test_where_no_constraint_can_hold_it_is_violated_least():
    task = toy(constraints=(lambda a: 2 - a[..., 0, 0],))
    plan = CEM().solve(task, 2, generator=seeded())
    assert (plan.violation - 1).abs().max() < 0.01 and (plan.actions[:, 0, 0] > 0.99).all()


def test_the_best_candidate_is_returned_where_the_mean_is_worse_than_useless():
    """Two places are good, and NaN lies between them."""
    def split(actions):
        x = actions[..., 0, 0]
        return torch.where(x.abs() < 0.4, torch.nan, (x.abs() - 0.6).abs())

    task = FunctionObjective(split, 1, Continuous((-1.0,), (1.0,)))
    plan = CEM(iterations=1).solve(task, 1, generator=seeded())
    assert torch.isfinite(plan.cost).all() and abs(abs(plan.actions.item()) - 0.6) < 0.05


def test_the_history_is_of_the_candidates():
    rounds = []
    plan = CEM(iterations=4, candidates=20, elites=4).solve(toy(), 2, generator=seeded(), watch=rounds.append)
    assert [r.number for r in rounds] == [0, 1, 2, 3] and plan.history.shape == (3, 4)
    assert torch.equal(plan.history, torch.stack([r.score.cost.min(1).values for r in rounds], 1))


def test_a_gradient_needs_one():
    with pytest.raises(WorldkitError, match="CEM, ICEM and MPPI need none"):
        GradientPlanner().solve(toy(lambda a: distance(a.detach())), 2, generator=seeded())


@pytest.mark.parametrize("planner, space, advice", [
    (CEM(), Discrete(3), "these actions are 3 choices: take CategoricalCEM"),
    (GradientPlanner(), Discrete(3), "these actions are 3 choices: take CategoricalCEM"),
    (CategoricalCEM(), BOX, "vectors of 2 numbers: take CEM"),
])
def test_actions_of_another_kind_are_refused(planner, space, advice):
    with pytest.raises(ConfigError, match=advice):
        planner.solve(toy(space=space), 2)


@pytest.mark.parametrize("initial, said", [
    (torch.zeros(3, 6, 2), "6 actions, more than the horizon of 5"),
    (torch.zeros(3, 2, 1), r"initial must be floats \[3, any, 2\], got torch.float32 \[3, 2, 1\]"),
    (torch.zeros(2, 2, 2), r"initial must be floats \[3, any, 2\]"),
    (torch.zeros(3, 2, 2).long(), "got torch.int64"),
    ([0.0], "got list"),
])
def test_a_warm_start_that_does_not_fit_is_refused(initial, said):
    with pytest.raises(ShapeError, match=said):
        CEM().solve(toy(), 5, initial=initial)


def test_costs_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"cost must be \[problems, candidates\] = \[3, 300\], got \[3, 300, 5\]"):
        CEM().solve(toy(lambda a: a.sum(-1)), 5, generator=seeded())


@pytest.mark.parametrize("horizon", [0, -1, 1.5])
def test_a_horizon_is_a_count(horizon):
    with pytest.raises(ShapeError, match="horizon must be at least 1"):
        CEM().solve(toy(), horizon)


def test_one_generator_per_problem():
    with pytest.raises(ShapeError, match="one generator for each of the 3 problems, got 2"):
        CEM().solve(toy(), 2, generator=[seeded(), seeded()])


def test_planners_by_name():
    assert {type(make_planner(name)) for name in list_planners()} == {
        ArmCEM, CEM, ICEM, MPPI, GradientPlanner, CategoricalCEM, PlaNetCEM, PredictiveSampling}
    assert make_planner("cem", candidates=7, elites=3) == CEM(candidates=7, elites=3)


@pytest.mark.parametrize("name, options, error, said", [
    ("cme", {}, UnknownComponentError, "unknown planner 'cme'. Did you mean 'cem'"),
    ("cem", {"candidats": 3}, ConfigError, "no option 'candidats'. Did you mean 'candidates'"),
    ("cem", {"elites": 400}, ConfigError, "elites must be among the candidates"),
    ("cem", {"iterations": 0}, ConfigError, "iterations must be at least 1, got 0"),
    ("cem", {"iterations": 1.5}, ConfigError, "must be int, got 1.5"),
    ("cem", {"returns": "last"}, ConfigError, "returns must be 'mean' or 'best'"),
    ("mppi", {"temperature": 0.0}, ConfigError, "temperature must be at least"),
])
def test_options_are_checked(name, options, error, said):
    with pytest.raises(error, match=said):
        make_planner(name, **options)
