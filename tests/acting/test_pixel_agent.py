"""The agent that sees pictures: acting, dreams afresh and lasting ones, parts in turns, runs that go on exactly."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit.agents import ActionSpec, create_agent, load_agent, save_agent
from worldkit.agents.pixel_actor_critic import LastingDreams, NetworkConfig, PixelNetwork, SegmentsConfig, live_afresh
from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.distributions import MEANS, Sampler
from worldkit.dreaming import Dream
from worldkit.envs import make_env
from worldkit.errors import ConfigError, ShapeError, TrainingError
from worldkit.online import OnlineConfig, OnlineTrainer
from worldkit.online.replay import Replay
from worldkit.testing.examples import small_config
from worldkit.testing.report import shake
from worldkit.training import TrainConfig

SMALL = {"network": {"channels": (4, 4, 8), "memory": 8}, "horizon": 3,
         "optimizers": {"model": {"lr": 1e-3}, "behavior": {"lr": 1e-2, "max_grad_norm": 10.0}},
         "segments": {"model": {"count": 2, "length": 5}, "behavior": {"count": 3, "length": 4, "anchor": "end"}}}
LASTING = {**SMALL, "dreams": "lasting", "context": 4, "length": 2}
CHOICES = ActionSpec(num_actions=3)


def world(**parts):
    torch.manual_seed(0)
    return shake(build(small_config(**{
        "encoder": "patch", "decoder": "patch", "dynamics": "slotformer", "latent_action": None,
        "conditioners": {"action": {"name": "action", "num_actions": 3}},
        "heads": {"reward": "two-hot", "terminated": "bernoulli"}, **parts}))).eval()


def agent_of(**options):
    return create_agent("pixel-actor-critic", action=CHOICES, frame_shape=(3, 32, 32), model=world(),
                        **{**SMALL, **options})


def played(count=3, length=7, seed=0):
    """A replay of made-up episodes."""
    random, replay = np.random.default_rng(seed), Replay(3)
    for number in range(count):
        ended = np.zeros(length, bool)
        ended[-2] = True
        state = {"reward": random.standard_normal(length).astype(np.float32), "terminated": ended,
                 "truncated": np.zeros(length, bool)}
        replay.add(0, number, {"video": random.integers(0, 255, (length, 3, 32, 32), np.uint8),
                               "action": random.integers(0, 3, length), "state": state}, over=True)
    return replay


def seeded(seed=0):
    return Sampler(generator=torch.Generator().manual_seed(seed))


def clip(rows, frames=4):
    generator = torch.Generator().manual_seed(rows)
    return Batch(torch.rand(rows, frames, 3, 32, 32, generator=generator),
                 {"action": torch.randint(3, (rows, frames), generator=generator)})


def test_it_remembers_its_episode_and_nothing_else():
    agent = agent_of()
    frames = torch.randint(0, 255, (3, 2, 3, 32, 32), dtype=torch.uint8)
    start, yes, no = agent.start(2), torch.tensor([True, True]), torch.tensor([False, True])
    _, carry = agent.act(frames[0], start, first=yes, sampler=MEANS)
    _, later = agent.act(frames[1], carry, first=no, sampler=MEANS)
    _, anew = agent.act(frames[1], start, first=yes, sampler=MEANS)
    assert torch.equal(later.memory[0][1], anew.memory[0][1]) and not torch.equal(later.memory[0][0], anew.memory[0][0])
    one, _ = agent.act(frames[1][:1], agent.start(1), first=yes[:1], sampler=MEANS)
    both, _ = agent.act(frames[1], start, first=yes, sampler=MEANS)
    assert one[0] == both[0] and both.dtype == torch.int64


def test_a_dream_anew_is_told_step_by_step():
    model, starts = world(), clip(2)
    net = PixelNetwork(NetworkConfig(**SMALL["network"]), frame_shape=(3, 32, 32), num_actions=3)
    lived = live_afresh(model, net, starts, MEANS, horizon=3, context=2)
    assert lived.logits.shape == (2, 3, 3) and lived.logits.requires_grad
    told = {"action": torch.cat([starts.conditions["action"][:, 2:3], lived.action], 1)}
    out = model.rollout(starts.video[:, 2:], 2, conditions=told, deterministic=True)
    torch.testing.assert_close(lived.reward[:, :2], out.predictions["reward"])
    torch.testing.assert_close(lived.ended[:, :2], (out.predictions["terminated"] > 0.5).float())
    memory = net.watch(model.decode(model.encode(starts.video[:, :-1])).video.clamp(0, 1), None, net.begin(2))
    said = net(model.decode(model.encode(starts.video[:, -1:])).video[:, 0].clamp(0, 1), memory)
    torch.testing.assert_close(said.value, lived.value[:, 0])
    torch.testing.assert_close(net(out.video[:, 0].clamp(0, 1), said.memory).value, lived.value[:, 1])


def test_rows_that_begin_anew_dream_what_they_would_dream_alone():
    model, three, one = world(), clip(3), clip(1)
    action = torch.tensor([[0], [1], [2]])
    dream, alone = (Dream(model, x.video, conditions=x.conditions, sampler=MEANS) for x in (three, one))
    dream.step({"action": action})
    others = dream.copy()
    dream.put(torch.tensor([1]), one.video, one.conditions)
    for _ in range(2):
        found = dream.step({"action": action}).pack()
        torch.testing.assert_close(found[1:2], alone.step({"action": action[1:2]}).pack())
        torch.testing.assert_close(found[[0, 2]], others.step({"action": action}).pack()[[0, 2]])
    with pytest.raises(ShapeError, match="have seen 2 frames, and the others 4: begin with as many frames"):
        dream.put(torch.tensor([1]), one.video[:, :2], one.conditions)


def test_lasting_dreams_are_cut_off_and_valued_before_they_begin_anew():
    model, net = world(), PixelNetwork(NetworkConfig(**SMALL["network"]), frame_shape=(3, 32, 32), num_actions=3)
    asked = []

    def starts(count):
        asked.append(count)
        return clip(count)

    dreams = LastingDreams(model, net, context=4, length=2)
    lived = dreams.live(3, starts, 2, MEANS)
    over = (lived.ended > 0) | (lived.cut > 0)
    assert asked[0] == 2 and sum(asked[1:]) == int(over.sum()) and lived.cut[:, 1].bool().any()
    same = ~over[:, :-1]
    torch.testing.assert_close(lived.following[:, :-1][same], lived.value.detach()[:, 1:][same])
    assert not torch.allclose(lived.following[:, :-1][~same], lived.value.detach()[:, 1:][~same])
    grads = torch.autograd.grad(lived.value[:, -1].sum(), net.encoder.parameters())
    assert any(g.abs().max() > 0 for g in grads)


@pytest.mark.parametrize("options", [SMALL, LASTING], ids=["fresh", "lasting"])
def test_parts_learn_in_turns_and_go_on_exactly(options):
    agent = agent_of(**{**options, "turn": 2, "waits": {"behavior": 2}})
    replay, learner = played(), agent.learner(TrainConfig())
    before = copy.deepcopy(agent.network.state_dict())

    def learn(who, updates):
        return [who.learn(replay, np.random.default_rng(n), seeded(n)) for n in updates]

    first = learn(learner, range(2))
    assert first[0] == {} and "loss_model" in first[1] and "loss_policy" not in first[1]
    assert all(torch.equal(x, before[name]) for name, x in agent.network.state_dict().items())
    told = learn(learner, range(2, 4))[1]
    assert {"loss_model", "loss_policy", "loss_value", "grad_norm_behavior"} <= told.keys()
    assert not all(torch.equal(x, before[name]) for name, x in agent.network.state_dict().items())
    twin = agent_of(**{**options, "turn": 2, "waits": {"behavior": 2}})
    twin.load_state_dict(agent.state_dict())
    twin.model.load_state_dict(agent.model.state_dict())
    again = twin.learner(TrainConfig())
    again.load_state_dict(copy.deepcopy(learner.state_dict()))
    for who in (agent, twin):
        who.config = who.config.model_copy(update={"stops": {"model": 5}})
    one, two = learn(learner, range(4, 6))[1], learn(again, range(4, 6))[1]
    assert all(torch.equal(x, two[name]) for name, x in one.items())
    assert all(torch.equal(x, two) for x, two in zip(agent.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("name", ["iris-mini", "diamond-mini"])
def test_presets_learn_every_part(name):
    agent = create_agent(name, agent__horizon=2, agent__waits={})
    few = {part: options.model_copy(update={"count": 2, "length": min(4, options.length)})
           for part, options in agent.config.segments.items()}
    agent.config = agent.config.model_copy(update={"segments": few, "waits": {}})
    learner, before = agent.learner(TrainConfig()), copy.deepcopy(agent.model.state_dict())
    for number in range(2):  # the first learning rate of a warm-up is 0
        terms = learner.learn(played(), np.random.default_rng(number), seeded(number))
    assert {f"grad_norm_{part}" for part in learner.parts} <= terms.keys() and len(learner.parts) == 3
    assert all(torch.isfinite(x) for x in terms.values())
    for part in learner.parts[:-1]:
        names = {id(p): name for name, p in agent.model.named_parameters()}
        assert any(not torch.equal(p, before[names[id(p)]]) for p in learner.parameters[part]), part


def test_a_run_trains_saves_and_acts(tmp_path):
    make = partial(make_env, "games/catch", size=32, grid=6)
    with make() as env:
        agent = create_agent("pixel-actor-critic", env=env, model=world(), **SMALL)
    config = OnlineConfig(steps=30, prefill=20, max_steps=12, length=5, train_ratio=2, eval_episodes=2, film_steps=0)
    result = OnlineTrainer(agent, make, config, TrainConfig(batch_size=2, log_every=1), run=tmp_path / "run",
                           show_progress=False).fit()
    assert result.updates == 2 and any("loss_policy" in line for line in result.log)
    save_agent(agent, tmp_path / "agent")
    loaded = load_agent(tmp_path / "agent")
    frame, first = torch.randint(0, 255, (1, 3, 32, 32), dtype=torch.uint8), torch.tensor([True])
    acts = [one.act(frame, one.start(1), first=first, sampler=seeded()) for one in (agent.eval(), loaded)]
    assert acts[0][0] == acts[1][0] and torch.equal(acts[0][1].memory[0], acts[1][1].memory[0])


def test_what_does_not_fit_is_said():
    with pytest.raises(ConfigError, match="gives one of a few choices, and here are 2 numbers from -1 to 1"):
        create_agent("pixel-actor-critic", action=ActionSpec((-1.0,) * 2, (1.0,) * 2), model=world())
    with pytest.raises(ConfigError, match="halves pictures 6 times, so their sides are multiples of 64, not 32 x 32"):
        agent_of(network={"channels": (4,) * 6})
    with pytest.raises(ConfigError, match="optimizers and segments name the same parts"):
        agent_of(optimizers={"behavior": {}})
    with pytest.raises(ConfigError, match="trains model, and this agent has optimizers and segments of tokenizer"):
        names = {"tokenizer": {}, "behavior": {}}
        agent_of(optimizers=names, segments={**names, "behavior": {"length": 4}}).learner(TrainConfig())
    with pytest.raises(wk.errors.DataError, match="nothing was done yet"):
        agent_of().learner(TrainConfig()).learn(Replay(3), np.random.default_rng(0), seeded())
    agent = agent_of()
    with torch.no_grad():
        agent.network.critic.bias.fill_(torch.nan)
    with pytest.raises(TrainingError, match="loss of part 'behavior' became nan in its update 1; terms .* value"):
        agent.learner(TrainConfig()).learn(played(), np.random.default_rng(0), seeded())
    with pytest.raises(ConfigError, match="weights are not negative"):
        SegmentsConfig.parse({"weights": [-1.0, 2.0]})


def test_lasting_dreams_from_one_frame_go_on():
    agent = create_agent("diamond-mini", agent__horizon=2, agent__waits={}, agent__segments__behavior__count=2)
    agent.model.eval()

    def starts(count):
        frame = torch.linspace(0, 1, 3 * 32 * 32).view(1, 1, 3, 32, 32).expand(count, -1, -1, -1, -1)
        return Batch(frame, {"action": torch.zeros(count, 1, dtype=torch.int64)})

    first, second = (LastingDreams(agent.model, agent.network, context=1, length=9) for _ in range(2))
    first.live(2, starts, 2, seeded())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    lived = [dreams.live(2, starts, 2, seeded(1)) for dreams in (first, second)]
    assert torch.equal(lived[0].logits, lived[1].logits) and torch.equal(lived[0].reward, lived[1].reward)
