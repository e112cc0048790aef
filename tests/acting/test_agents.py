"""Agents: what they give, where they fit, and that they are the same after they were saved."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldkit.agents import (
    Acting,
    ActionSpec,
    RandomPolicy,
    ScriptedPolicy,
    check_fits,
    create_agent,
    list_agents,
    load_agent,
    save_agent,
    train_agent,
)
from worldkit.agents.actions import spec_of_text
from worldkit.agents.imitation import ActionMapper
from worldkit.agents.training import AgentTraining, acts_in
from worldkit.collecting import play_episode
from worldkit.distributions import MEANS, Sampler
from worldkit.errors import CheckpointError, ConfigError, DataError, TrainingError, UnknownComponentError

BOX = ActionSpec(low=(-1, -1), high=(1, 1))
FRAME = (3, 32, 32)


def frames(batch=3, seed=0):
    return torch.rand(batch, *FRAME, generator=torch.Generator().manual_seed(seed))


def cloning(action=BOX, **options):
    return create_agent("cloning", action=action, frame_shape=FRAME, channels=[4, 4], hidden_dim=8, **options)


def imitation(model, action=BOX, **options):
    return create_agent("imitation", action=action, model=model, dim=8, num_heads=2, **options)


def acted(agent, batch=3, steps=4, sampler=MEANS, first=None):
    """Actions of some steps on random frames, [steps, B, ...]."""
    carry, found = agent.start(batch, goal=frames(batch, 99)), []
    for step in range(steps):
        begins = torch.full((batch,), step == 0) if first is None else first[step]
        action, carry = agent.act(frames(batch, step), carry, first=begins, sampler=sampler)
        found.append(action)
    return torch.stack(found)


@pytest.mark.parametrize("space", [
    spaces.Discrete(5), spaces.Box(-1, 1, (2,), np.float32), spaces.Box(0, 512, (2,)), spaces.Box(-2.5, 2.5, (1,)),
    spaces.Box(np.array([-1, 0, 0]), np.array([1, 1, 1]), dtype=np.float32), spaces.Box(-1, 1, (2, 3), np.float64),
])
def test_actions_of_a_space_and_of_its_text(space):
    spec = ActionSpec.of_space(space)
    assert spec_of_text(str(space)) == spec == ActionSpec(**json.loads(json.dumps(spec.to_dict())))
    assert spec.differs(spec) is None
    drawn, _ = RandomPolicy(spec).act(frames(50), None, first=None, sampler=Sampler())
    assert all(space.contains(spec.for_env(action, space)) for action in drawn)


def test_scaled_and_back():
    spec = ActionSpec(low=(0, -2), high=(512, 2))
    actions = torch.tensor([[0.0, 2.0], [256.0, 0.0]])
    assert spec.scaled(actions).tolist() == [[-1, 1], [0, 0]]
    torch.testing.assert_close(spec.unscaled(spec.scaled(actions)), actions)
    assert spec.unscaled(torch.tensor([-7.0, 7.0])).tolist() == [0, 2]


@pytest.mark.parametrize("space", [
    spaces.MultiBinary(3), spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(3, start=1), spaces.Dict({}),
])
def test_other_actions_are_refused(space):
    for read in (lambda: ActionSpec.of_space(space), lambda: spec_of_text(str(space))):
        with pytest.raises(ConfigError, match="bounded vectors or choices numbered from 0, not actions of"):
            read()


def test_names():
    assert {"cloning", "imitation"} <= set(list_agents())
    with pytest.raises(UnknownComponentError, match="Did you mean 'cloning'"):
        cloning().__class__ and create_agent("clonning", action=BOX, frame_shape=FRAME)
    with pytest.raises(ConfigError, match="unknown option 'chanels'.*channels"):
        create_agent("cloning", action=BOX, frame_shape=FRAME, chanels=[4])
    with pytest.raises(ConfigError, match=r"env is an environment, got 'games/catch': env = worldkit.make_env"):
        create_agent("cloning", env="games/catch")
    with pytest.raises(ConfigError, match="say what actions and frames are"):
        create_agent("cloning")


@pytest.mark.parametrize("action", [BOX, ActionSpec(num_actions=4)])
@pytest.mark.parametrize("kind", ["cloning", "imitation"])
def test_saved_and_loaded_acts_the_same(kind, action, dot_model, tmp_path):
    agent = cloning(action) if kind == "cloning" else imitation(dot_model, action, state=True)
    save_agent(agent, tmp_path / "a", facts={"data": "dot"})
    again = load_agent(tmp_path / "a")
    noisy = [Sampler(generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(acted(agent, sampler=noisy[0]), acted(again, sampler=noisy[1]))
    assert again.config == agent.config and again.facts == {"data": "dot"}
    save_agent(again, tmp_path / "a")  # in place of itself


def test_imitation_keeps_its_model_or_refers_to_it(dot_model, tmp_path):
    agent = imitation(dot_model)
    dot_model.save_pretrained(tmp_path / "model")
    save_agent(agent, tmp_path / "inside")
    save_agent(agent, tmp_path / "beside", model=tmp_path / "model")
    assert (tmp_path / "inside/model/config.json").is_file() and not (tmp_path / "beside/model").exists()
    inside, beside = (load_agent(tmp_path / name) for name in ("inside", "beside"))
    assert torch.equal(acted(inside), acted(beside))
    with torch.no_grad():
        beside.model.latent_action.posterior_head.bias += 1
    with pytest.raises(CheckpointError, match="is not the model that this agent acts through"):
        save_agent(beside, tmp_path / "other", model=tmp_path / "model")
    beside.model.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="was trained with other weights than .*model has now"):
        load_agent(tmp_path / "beside")
    (tmp_path / "model").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="which is not there"):
        load_agent(tmp_path / "beside")


def test_folders_that_are_no_agents(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder.*worldkit imitate"):
        load_agent(tmp_path / "nothing")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("1")
    with pytest.raises(CheckpointError, match="holds no agent.safetensors"):
        load_agent(tmp_path / "thesis")
    with pytest.raises(CheckpointError, match="is no agent's folder"):
        save_agent(cloning(), tmp_path / "thesis")
    save_agent(cloning(), tmp_path / "a")
    (tmp_path / "a/config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json is damaged"):
        load_agent(tmp_path / "a")
    save_agent(cloning(), tmp_path / "a")
    about = json.loads((tmp_path / "a/config.json").read_text())
    about["agent"]["hidden_dim"] = 9
    (tmp_path / "a/config.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="disagree: decide"):
        load_agent(tmp_path / "a")


@pytest.mark.parametrize(("path", "value", "said"), [
    ("agent.hidden_dim", 2**20, "disagree: decide"), ("agent.hidden_dim", 2**40, "agent.hidden_dim is 1.1e"),
    ("agent.channels", [-4], "channels"), ("frame_shape", [3, 16], "cannot be used"),
    ("frame_shape", "abc", "cannot be used"), ("action.low", ["low", 1], "could not convert"),
    ("action", {"speed": 1}, "cannot be used"), ("model", "m", "model: ")])
def test_a_damaged_configuration_is_refused_before_it_takes_memory(path, value, said, tmp_path):
    save_agent(cloning(), tmp_path / "a")
    about = json.loads((tmp_path / "a/config.json").read_text())
    *parents, last = path.split(".")
    place = about
    for name in parents:
        place = place[name]
    place[last] = value
    (tmp_path / "a/config.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=said):
        load_agent(tmp_path / "a")


def test_a_policy_that_does_not_fit(make_dot):
    env, other = make_dot(), make_dot(discrete=True)
    check_fits(cloning(), env)
    with pytest.raises(ConfigError, match="it gives 2 numbers from -1 to 1, the environment takes 4 choices"):
        check_fits(cloning(), other)
    with pytest.raises(ConfigError, match="2 numbers from -2 to 2, the environment takes 2 numbers from -1 to 1"):
        check_fits(cloning(ActionSpec(low=(-2, -2), high=(2, 2))), env)
    small = create_agent("cloning", action=BOX, frame_shape=(3, 16, 16), channels=[4])
    with pytest.raises(ConfigError, match=r"sees frames \[3, 16, 16\].*make the environment with size=16"):
        check_fits(small, env)
    with pytest.raises(ConfigError, match="trained to act in 'pusht', not in 'Dot'"):
        check_fits(cloning(environment="pusht"), env)
    with pytest.raises(ConfigError, match="gives no pixels"):
        create_agent("cloning", env=gymnasium.make("CartPole-v1"))


def test_a_scripted_policy_asks_the_environments(make_dot):
    envs = [make_dot() for _ in range(2)]
    for env, seed in zip(envs, (0, 1), strict=True):
        env.reset(seed=seed)
    action, _ = ScriptedPolicy(envs).act(frames(2), None, first=None, sampler=MEANS)
    assert action.shape == (2, 2) and not torch.equal(action[0], action[1])
    with pytest.raises(ConfigError, match="has no scripted policy"):
        ScriptedPolicy([gymnasium.make("CartPole-v1")])


def test_goals_are_asked_for(dot_model, make_dot):
    for agent in (cloning(), imitation(dot_model)):
        with pytest.raises(ConfigError, match="acts towards a goal"):
            agent.start(2)
        with pytest.raises(ConfigError, match="this goal is"):
            agent.start(2, goal=torch.zeros(2, 3, 8, 8))
    assert cloning(goal=False).start(2) is None


def test_the_goal_matters(dot_model):
    for agent in (cloning(), imitation(dot_model)):
        begun = torch.ones(2, dtype=torch.bool)
        one, two = (agent.act(frames(2), agent.start(2, goal=frames(2, s)), first=begun, sampler=MEANS)[0]
                    for s in (1, 2))
        assert not torch.equal(one, two)


# -- imitation


def test_the_mapper_reads_a_set():
    torch.manual_seed(0)
    mapper = ActionMapper(3, 2, dim=8, num_layers=2, num_heads=2)
    actions = torch.randn(2, 4, 5, 3)
    torch.testing.assert_close(mapper(actions), mapper(actions[:, :, torch.randperm(5)]))
    assert mapper(actions[:, :, :1]).shape == (2, 4, 2)


def test_the_mapper_finds_what_matters():
    """Of 24 particles two carry the action."""
    torch.manual_seed(0)
    mapper = ActionMapper(4, 2, dim=16, num_layers=2, num_heads=2)
    optimizer = torch.optim.Adam(mapper.parameters(), 3e-3)

    def batch():
        latent = 0.1 * torch.randn(32, 1, 24, 4)
        action = torch.randn(32, 1, 2)
        latent[:, :, [3, 9], :2] = action[:, :, None]
        latent[:, :, [3, 9], 2] = 2
        return latent, action

    losses = []
    for _ in range(150):
        latent, action = batch()
        loss = (mapper(latent) - action).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_the_model_stays_as_it_is(dot_model, dot_data):
    before = {name: x.clone() for name, x in dot_model.state_dict().items()}
    agent = imitation(dot_model)
    train_agent(agent, dot_data, config=AgentTraining(steps=2, batch_size=4, goals=5, valid_every=2))
    assert all(torch.equal(x, before[name]) for name, x in dot_model.state_dict().items())
    assert all(p.grad is not None for p in agent.parameters()) and all(p.grad is None for p in dot_model.parameters())


@pytest.mark.parametrize("options", [{}, {"infer": False}, {"steps": 2}, {"state": True}])
def test_each_row_acts_for_itself(options, dot_model):
    """Rows do not see one another, also where their episodes are of different ages."""
    agent = imitation(dot_model, **options)
    fresh = torch.tensor([[True, True], [False, False], [False, True], [False, False]])
    both = acted(agent, 2, first=fresh)
    carry = agent.start(1, goal=frames(2, 99)[1:])
    for step in range(4):
        action, carry = agent.act(frames(2, step)[1:], carry, first=fresh[step, 1:], sampler=MEANS)
        torch.testing.assert_close(both[step, 1:], action, atol=1e-5, rtol=1e-4)


def test_inferred_anew_or_as_the_policy_meant(dot_model):
    agents = [imitation(dot_model, infer=infer) for infer in (True, False)]
    agents[1].load_state_dict(agents[0].state_dict())
    assert not torch.allclose(acted(agents[0]), acted(agents[1]))


def test_models_that_imitation_cannot_use():
    from worldkit.assembly import build
    from worldkit.testing.examples import small_config

    with pytest.raises(ConfigError, match="maps latent actions to actions, and this model has none"):
        imitation(build(small_config(latent_action=None)))
    with pytest.raises(ConfigError, match="this one needs action as well"):
        imitation(build(small_config(conditioners={"action": {"name": "action", "dim": 2}})))
    with pytest.raises(ConfigError, match="'imitation' needs a world model: give model="):
        create_agent("imitation", action=BOX, frame_shape=FRAME)
    with pytest.raises(ConfigError, match="'cloning' has no world model: leave model= out"):
        create_agent("cloning", action=BOX, model=build(small_config()))


def test_imitation_without_goals():
    from worldkit.assembly import build
    from worldkit.testing.examples import small_config

    agent = imitation(build(small_config()))
    assert not agent.wants_goal and acted(agent).shape == (4, 3, 2)


# -- training


def test_cloning_learns(dot_data):
    action, environment = acts_in(dot_data)
    assert environment == "Dot" and action == BOX
    agent = create_agent("cloning", action=action, frame_shape=FRAME, channels=[8, 8, 8], hidden_dim=32)
    found = train_agent(agent, dot_data, config=AgentTraining(steps=120, batch_size=32, goals=3, valid_every=60))
    (_, first, _), (step, last, held) = found.losses
    assert step == 120 and last < 0.5 * first and held < first and not agent.training


@pytest.mark.parametrize("kind", ["cloning", "imitation"])
def test_the_same_seed_trains_the_same(kind, dot_data, dot_model):
    def trained():
        agent = cloning() if kind == "cloning" else imitation(dot_model)
        train_agent(agent, dot_data, config=AgentTraining(steps=3, batch_size=4, goals=5))
        return agent

    one, two = trained(), trained()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_data_that_teach_nothing(dot_data, tmp_path):
    short = AgentTraining(steps=1, batch_size=2, goals=5)
    with pytest.raises(ConfigError, match="acts towards goals, and .* has none: --goals"):
        train_agent(cloning(), dot_data, config=AgentTraining(steps=1))
    with pytest.raises(ConfigError, match="the agent gives 4 choices, the data hold actions of 2 numbers"):
        train_agent(cloning(ActionSpec(num_actions=4)), dot_data, config=short)
    with pytest.raises(DataError, match="holds no actions"):
        train_agent(cloning(), "balls-32", config=short, data_options={"num_episodes": 1, "episode_length": 12})
    with pytest.raises(TrainingError, match="the loss is .* lower learning rate"):
        train_agent(cloning(), dot_data, config=AgentTraining(steps=200, batch_size=2, goals=5, lr=1e30))
    assert acts_in("balls-32") is None


# -- acting


def test_acting_in_a_collection(make_dot):
    env, agent = make_dot(), cloning()
    one, two = (play_episode(env, Acting(agent, env), seed=3, max_steps=5) for _ in range(2))
    assert np.array_equal(one["video"], two["video"]) and len(one["video"]) == 6
    other = play_episode(env, Acting(agent, env, goal=(255 * frames(1)[0]).byte()), seed=3, max_steps=5)
    assert not np.array_equal(one["action"], other["action"])


def test_acting_begins_anew(make_dot, dot_model):
    """What it remembers of one episode does not reach the next."""
    env = make_dot()
    acting = Acting(imitation(dot_model), env)
    play_episode(env, acting, seed=1, max_steps=4)
    again = play_episode(env, acting, seed=3, max_steps=4)
    assert np.array_equal(again["action"], play_episode(env, Acting(acting.policy, env), seed=3, max_steps=4)["action"])


def test_acting_without_a_goal():
    import worldkit as wk

    env = wk.make_env("games/catch", size=32)
    agent = create_agent("cloning", env=env, channels=[4, 4], hidden_dim=8)
    with pytest.raises(ConfigError, match="has no picture of its goal.*goal=PICTURE"):
        Acting(agent, env)
    Acting(agent, env, goal=torch.zeros(3, 32, 32, dtype=torch.uint8))


def test_the_mapper_knows_which_patch_it_reads():
    """Of a grid, the place of a token is told by nothing but its number."""
    from worldkit.testing.examples import example_latent, example_spec

    torch.manual_seed(0)
    spec = example_spec(kind="patches")
    mapper, z = ActionMapper(3, 2, dim=8, num_layers=1, num_heads=2, spec=spec), example_latent(spec, 1, 2)
    actions, order = torch.randn(1, 2, 16, 3), torch.randperm(16)
    moved = mapper(actions[:, :, order], z.map(lambda x: x[:, :, order]))
    assert not torch.allclose(mapper(actions, z), moved)
