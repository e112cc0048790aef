"""A planner as a policy: when it looks, what it does in between, and where its next plan starts from."""

import pytest
import torch

from worldkit.agents import Acting, ActionSpec, create_agent, load_agent, save_agent, train_agent
from worldkit.assembly import build
from worldkit.collecting import play_episode
from worldkit.config import WorldModelConfig
from worldkit.control import ControlProtocol, evaluate_control
from worldkit.distributions import MEANS, Sampler
from worldkit.errors import ConditionError, ConfigError, WorldkitError
from worldkit.planning import Continuous, Shooting, make_cost
from worldkit.testing.examples import small_config

BOX = ActionSpec(low=(-1, -1), high=(1, 1))


@pytest.fixture(scope="module")
def told():
    """A model that is told actions."""
    torch.manual_seed(0)
    return build(small_config(conditioners={"action": {"name": "action", "dim": 2}}, latent_action=None)).eval()


class Counting:
    """Stands in for a planner: plan n is n, n + 0.1, n + 0.2, ... (times 0.01), and what it was given is kept."""

    def __init__(self):
        self.calls = []

    def solve(self, task, horizon, *, initial=None, generator=None, watch=None):
        self.calls.append((task.frames, task.past, initial))
        found = 0.01 * (len(self.calls) + 0.1 * torch.arange(horizon))
        return type("Plan", (), {"actions": found[None, :, None].expand(task.problems, -1, 2).clone()})


def acted(agent, steps, first=None):
    agent.planner = planner = Counting()
    carry, found = agent.start(1, goal=torch.rand(1, 3, 32, 32)), []
    for step in range(steps):
        begins = torch.tensor([step == 0 if first is None else step in first])
        action, carry = agent.act(torch.rand(1, 3, 32, 32), carry, first=begins, sampler=MEANS)
        found.append(round(100 * action[0, 0].item(), 3))
    return found, planner.calls


def make(told, **options):
    return create_agent("planner", action=BOX, model=told, **{"horizon": 3, **options})


@pytest.mark.parametrize("options, wanted", [
    ({}, [1, 2, 3, 4, 5, 6]),
    ({"every": 2}, [1, 1.1, 2, 2.1, 3, 3.1]),
    ({"every": 3}, [1, 1.1, 1.2, 2, 2.1, 2.2]),
    ({"repeat": 2}, [1, 1, 2, 2, 3, 3]),
    ({"repeat": 2, "every": 2}, [1, 1, 1.1, 1.1, 2, 2]),
    ({"context": 3}, [1, 2, 3, 4, 5, 6]),
])
def test_when_it_plans(told, options, wanted):
    assert acted(make(told, **options), 6)[0] == wanted


def test_an_episode_that_begins_is_planned_at_once(told):
    found, calls = acted(make(told, every=3, repeat=2), 6, first={0, 3})
    assert found == [1, 1, 1.1, 2, 2, 2.1] and [left for _, _, left in calls] == [None, None]


def test_the_next_plan_starts_from_what_is_left(told):
    _, calls = acted(make(told, every=2), 3)
    assert calls[0][2] is None and torch.allclose(calls[1][2], torch.tensor([[[0.012, 0.012]]]))
    _, calls = acted(make(told, every=2, warm_start=False), 3)
    assert calls[1][2] is None
    _, calls = acted(make(told, every=3), 4)
    assert calls[1][2] is None  # nothing is left


def test_it_remembers_what_it_saw_and_did(told):
    _, calls = acted(make(told, context=3), 4)
    assert [frames for frames, _, _ in calls] == [1, 2, 3, 3]
    assert calls[0][1] is None
    assert torch.allclose(calls[3][1], torch.tensor([[[0.02, 0.02], [0.03, 0.03]]]))  # the second and third action
    _, calls = acted(make(told, context=3, repeat=2), 6)
    assert [frames for frames, _, _ in calls] == [1, 2, 3]  # frames in between are not seen


def test_rows_of_different_ages(told):
    """A row that begins anew while another goes on acts as if it were alone."""
    agent = make(told, context=2, every=2, repeat=2)
    frames, goal, first = torch.rand(7, 2, 3, 32, 32), torch.rand(2, 3, 32, 32), {0: [0], 1: [0, 3]}

    class Looking:
        """The plan tells what was seen: the mean of the newest frame's latent and of the past, then twice that."""

        @staticmethod
        def solve(task, horizon, *, initial=None, generator=None, watch=None):
            seen = torch.stack([x.flatten(1).mean(1) for x in task.start.values.values()]).mean(0)
            seen = seen + (0 if task.past is None else 10 * task.past.flatten(1).mean(1))
            seen = seen + (0 if initial is None else 100 * initial.flatten(1).mean(1))
            steps = torch.arange(1, horizon + 1)[:, None].expand(-1, 2)
            return type("Plan", (), {"actions": seen[:, None, None] * steps})

    agent.planner = Looking
    both, alone = agent.start(2, goal=goal), [agent.start(1, goal=goal[i : i + 1]) for i in range(2)]
    for step in range(7):
        begins = torch.tensor([step in first[i] for i in range(2)])
        found, both = agent.act(frames[step], both, first=begins, sampler=MEANS)
        for i in range(2):
            one, alone[i] = agent.act(frames[step, i : i + 1], alone[i], first=begins[i : i + 1], sampler=MEANS)
            torch.testing.assert_close(found[i : i + 1], one)


def test_saved_and_loaded(told, tmp_path):
    agent = make(told, cost="pixels,effort=0.1", planner_options={"candidates": 4, "iterations": 1, "elites": 2})
    save_agent(agent, tmp_path / "a")
    again, goal = load_agent(tmp_path / "a"), torch.rand(1, 3, 32, 32)
    one, two = (a.act(goal, a.start(1, goal=goal), first=torch.tensor([True]), sampler=MEANS)[0]
                for a in (agent, again))
    assert again.config == agent.config and torch.equal(one, two)


def test_discrete_actions():
    model = build(small_config(conditioners={"action": {"name": "action", "num_actions": 3}}, latent_action=None))
    agent = create_agent("planner", action=ActionSpec(num_actions=3), model=model, horizon=2,
                         planner_options={"candidates": 4, "iterations": 1, "elites": 2})
    frame = torch.rand(2, 3, 32, 32)
    action, _ = agent.act(frame, agent.start(2, goal=frame), first=torch.ones(2, dtype=bool), sampler=MEANS)
    assert action.dtype == torch.int64 and action.shape == (2,) and set(action.tolist()) <= {0, 1, 2}
    with pytest.raises(WorldkitError, match="CategoricalCEM"):
        agent = create_agent("planner", action=ActionSpec(num_actions=3), model=model, planner="cem")
        agent.act(frame, agent.start(2, goal=frame), first=torch.ones(2, dtype=bool), sampler=MEANS)


@pytest.mark.parametrize("options, message", [
    ({"every": 4}, "every=4 actions of a plan of horizon=3"),
    ({"planner": "cemm"}, "Did you mean 'cem'"),
    ({"cost": "pixel"}, "Did you mean 'pixels'"),
    ({"planner_options": {"candidate": 3}}, "Did you mean 'candidates'"),
    ({"cost": "reward"}, "reward"),
])
def test_what_cannot_be(told, options, message):
    with pytest.raises(WorldkitError, match=message):
        make(told, **options)


def test_models_that_cannot_plan(told, dot_model):
    with pytest.raises(ConfigError, match="told no condition 'action'"):
        create_agent("planner", action=BOX, model=dot_model)
    with pytest.raises(ConfigError, match="this model is told actions of 2 numbers, and the space has actions of 3"):
        create_agent("planner", action=ActionSpec(low=(-1,) * 3, high=(1,) * 3), model=told)
    with pytest.raises(ConfigError, match="no weights of its own to train.*--plan MODEL"):
        train_agent(make(told), "data")


def test_it_plans_in_an_environment(told, make_dot):
    agent = make(told, every=3, planner_options={"candidates": 4, "iterations": 1, "elites": 2})
    env = make_dot()
    assert len(play_episode(env, Acting(agent, env), seed=0, max_steps=4)["video"]) == 5
    protocol = ControlProtocol(env="dot", size=32, goals="reach", goal_steps=2, budget=3, episodes=2, seeds=(0,))
    found = evaluate_control({"random": "random", "plan": agent}, protocol, make=make_dot)
    assert found.interval("plan", "distance").n == 2



# -- models that filter


@pytest.fixture(scope="module")
def filtering():
    """A model with rewards whose dynamics filters."""
    torch.manual_seed(0)
    model = build(WorldModelConfig.parse({
        "obs": {"height": 16, "width": 16}, "timestep_horizon": 5, "objective": "planet",
        "encoder": {"name": "conv", "depth": 2, "multipliers": [2, 3]},
        "decoder": {"name": "conv", "depth": 2, "multipliers": [2, 3], "units": 8, "blocks": 2},
        "dynamics": {"name": "rssm", "cell": {"name": "planet-gru", "hidden": 8}, "stochastic": "normal",
                     "num_variables": 4, "deterministic_dim": 8, "hidden_dim": 8, "norm": "none"},
        "conditioners": {"action": {"name": "transition-action", "dim": 2, "norm": "none", "activation": "none"}},
        "heads": {"reward": {"name": "gaussian", "readout": {"layers": 1, "units": 8, "norm": "none"}}},
    })).eval()
    for p in model.heads["reward"].parameters():
        torch.nn.init.normal_(p)
    return model


def planet(model, **options):
    return create_agent("planner", action=BOX, model=model, planner="planet-cem", cost="reward", horizon=4,
                        planner_options={"candidates": 20, "elites": 4, "iterations": 2}, warm_start=False,
                        sample=True, **options)


def walked(agent, video, first, policy=None, seed=0):
    """Actions ``[T, B, 2]`` and the states ``[B, T]`` behind them."""
    policy = policy or agent
    carry, actions, states = policy.start(video.shape[0]), [], []
    for t in range(video.shape[1]):
        sampler = Sampler(generator=torch.Generator().manual_seed(seed + t))
        action, carry = policy.act(video[:, t], carry, first=first[:, t], sampler=sampler)
        actions.append(action)
        states.append(carry.seen)
    return torch.stack(actions), states


def test_a_planner_plans_from_the_state_of_all_that_was_seen(filtering):
    """Frame by frame it filters what it saw and did; an episode that begins forgets; another picture, another plan."""
    agent, video = planet(filtering), torch.rand(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first = torch.zeros(2, 4, dtype=torch.bool)
    first[:, 0] = first[0, 2] = True
    actions, states = walked(agent, video, first)
    seen, done = [], actions.transpose(0, 1)
    state = None
    for t in range(4):
        sampler = Sampler(generator=torch.Generator().manual_seed(t))
        known = {} if t == 0 else {"first": first[:, t : t + 1], "last": state,
                                   "last_action": {"action": done[:, t - 1 : t]}}
        state = filtering.perceive(video[:, t : t + 1], sampler, **known).latent
        seen.append(state)
    for ours, whole in zip(states, seen, strict=True):
        for key, x in whole.values.items():
            assert torch.equal(ours.values[key], x), key
    again, _ = walked(agent, video, first)
    assert torch.equal(actions, again) and actions.abs().max() <= 1
    other = video.clone()
    other[1, 1] = 1 - other[1, 1]
    changed, moved = walked(agent, other, first)
    assert torch.equal(changed[0], actions[0]) and torch.equal(changed[:, 0], actions[:, 0])
    tried = torch.rand(2, 5, 4, 2, generator=torch.Generator().manual_seed(0))
    for t in (1, 2, 3):  # plans rest on what the picture changed, also in the frames behind it
        found = [agent._task(z, None, torch.zeros(2, 0, 2), torch.Generator().manual_seed(0)).score(tried).cost
                 for z in (states[t], moved[t])]
        assert torch.equal(found[0][0], found[1][0]) and (found[0][1] != found[1][1]).all()


def test_held_actions_and_noise_are_remembered_as_they_were_done(filtering):
    agent = planet(filtering, repeat=2, noise=0.3)
    video, first = torch.rand(1, 4, 3, 16, 16), torch.tensor([[True, False, False, False]])
    actions, states = walked(agent, video, first, agent.explorer())
    assert torch.equal(actions[0], actions[1]) and torch.equal(actions[2], actions[3])
    assert states[1].values["state", "deterministic"].equal(states[0].values["state", "deterministic"])
    calm, _ = walked(agent, video, first)
    assert not torch.equal(actions, calm)
    assert planet(filtering).explorer() is not None and isinstance(planet(filtering).explorer(), type(agent))


def test_drawn_futures_differ_and_are_seeded(filtering):
    state = filtering.encode(torch.rand(1, 1, 3, 16, 16))
    actions = torch.zeros(1, 3, 4, 2)

    def costs(seed, sample=True):
        task = Shooting(filtering, state, make_cost("reward"), space=Continuous((-1, -1), (1, 1)), sample=sample,
                        generator=torch.Generator().manual_seed(seed))
        return task.score(actions).cost

    assert len(costs(0).unique()) == 3 and torch.equal(costs(0), costs(0)) and not torch.equal(costs(0), costs(1))


def test_a_context_of_several_frames_is_told_the_actions_inside(filtering):
    video, past = torch.rand(2, 3, 3, 16, 16), torch.rand(2, 2, 2)
    task = Shooting(filtering, video, make_cost("reward"), space=Continuous((-1, -1), (1, 1)), past=past)
    whole = filtering.encode(video, conditions={"action": past})
    assert all(torch.equal(x, task.start.values[key]) for key, x in whole.values.items())
    with pytest.raises(ConditionError, match="give the 2 actions between them"):
        Shooting(filtering, video, make_cost("reward"), space=Continuous((-1, -1), (1, 1)))
