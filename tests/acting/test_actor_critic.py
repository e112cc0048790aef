"""The agent that learns in imagination: what it does depends on what it has seen, and who learns from what."""

import copy

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit.agents import ActionSpec, check_fits, create_agent, load_agent, save_agent
from worldkit.agents.actor_critic.actions import TanhNormal
from worldkit.agents.actor_critic.features import Arrivals, state_tokens, token_dim
from worldkit.agents.actor_critic.networks import Actor, ActorConfig
from worldkit.agents.actor_critic.returns import lambda_returns
from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.config import WorldModelConfig
from worldkit.distributions import MEANS, Sampler
from worldkit.errors import CheckpointError, ConfigError, ShapeError, TrainingError
from worldkit.training import TrainConfig

SIDE = 16
CHOICES, BOX = ActionSpec(num_actions=4), ActionSpec(low=(-2, -1), high=(2, 1))
SMALL = {"layers": 1, "units": 12}
V3 = {"actor": {"readout": SMALL}, "critic": {"readout": SMALL, "num_bins": 15}, "horizon": 4}
V2 = V3 | {"generation": 2, "critic": {"kind": "normal", "readout": SMALL}, "slow_rate": 1.0, "slow_every": 2,
           "discount": 0.99, "optimizers": {name: {"name": "adam-tf", "lr": 1e-3, "max_grad_norm": 100}
                                            for name in ("model", "actor", "critic")}}
V1 = V2 | {"generation": 1, "gradient": "dynamics", "slow_every": 0,
           "actor": {"kind": "tanh-normal", "min_std": 1e-4, "readout": SMALL}}


def model_for(action=BOX, *, seed=0, terminated=True, **overrides):
    torch.manual_seed(seed)
    told = {"num_actions": action.num_actions} if action.discrete else {"dim": action.width}
    heads = {"reward": {"name": "two-hot", "num_bins": 15, "limit": 3, "readout": SMALL}}
    if terminated:
        heads["terminated"] = {"name": "bernoulli", "discount": 1 - 1 / 333, "readout": SMALL}
    return build(WorldModelConfig.parse({
        "obs": {"height": SIDE, "width": SIDE}, "timestep_horizon": 5,
        "encoder": {"name": "conv", "depth": 2, "multipliers": [2, 3]},
        "decoder": {"name": "conv", "depth": 2, "multipliers": [2, 3], "units": 8, "blocks": 2},
        "dynamics": {"name": "rssm", "cell": {"name": "block-gru", "blocks": 2, "hidden": 8}, "num_variables": 4,
                     "num_classes": 3, "deterministic_dim": 8, "hidden_dim": 8},
        "conditioners": {"action": {"name": "transition-action", **told}}, "heads": heads,
        "objective": "dreamer", **overrides,
    }))


def agent_for(action=BOX, options=V3, *, seed=0, **overrides):
    return create_agent("actor-critic", action=action, model=model_for(action, seed=seed, **overrides), seed=seed,
                        **options)


def clips(action=BOX, batch=3, time=6, seed=0, borders=True):
    g = torch.Generator().manual_seed(seed)
    ends = torch.zeros(batch, time, dtype=torch.bool)
    first = ends.clone()
    if borders and time > 3:
        ends[0, 1] = first[0, 3] = True  # frame 2 ends an episode, frame 3 begins the next one
    done = (torch.randint(4, (batch, time), generator=g) if action.discrete
            else 2 * torch.rand(batch, time, 2, generator=g) - 1)
    return Batch(torch.randint(256, (batch, time, 3, SIDE, SIDE), generator=g, dtype=torch.uint8), {"action": done},
                 targets={"reward": torch.rand(batch, time, generator=g), "terminated": ends,
                          "truncated": torch.zeros_like(ends)}, first=first)


def sampler(seed=0):
    return Sampler(generator=torch.Generator().manual_seed(seed))


def weights_of(*modules):
    return torch.cat([p.detach().flatten().clone() for module in modules for p in module.parameters()])


# -- acting


@pytest.mark.parametrize("action", [CHOICES, BOX], ids=["choices", "numbers"])
def test_a_changed_picture_changes_the_state_and_the_action(action):
    agent, batch = agent_for(action), clips(action, batch=64, time=3, borders=False)
    changed = batch.video.clone()
    changed[:, 1] = 255 - changed[:, 1]
    posterior, states, said = [], [], []
    for video in (batch.video, changed):
        found = agent.model.perceive(video, conditions=batch.conditions).posterior
        posterior.append(found.params["state", "stochastic"][:, 1])
        carry = agent.start(64)
        for t in range(3):
            _, carry = agent.act(video[:, t], carry, first=torch.full((64,), t == 0), sampler=sampler(t))
        states.append(carry.state.flat("state"))
        actor = agent.behavior.actor(states[-1])
        said.append(actor.logits if action.discrete else actor.mean)
    # what is believed moves in every clip; what is drawn of it, remembered and done, where the draw falls otherwise
    assert ((posterior[0] - posterior[1]).abs().amax((-1, -2)) > 1e-6).all()
    for one, other in (states, said):
        assert ((one - other).abs().flatten(1).amax(1) > 1e-6).sum() > 8


@pytest.mark.parametrize("action", [CHOICES, BOX], ids=["choices", "numbers"])
def test_acting_frame_by_frame_is_filtering_the_whole_clip(action):
    agent, batch = agent_for(action), clips(action)
    carry, states, done = agent.start(3), [], []
    for t in range(6):
        chosen, carry = agent.act(batch.video[:, t], carry, first=batch.first[:, t] | (t == 0), sampler=MEANS)
        states.append(carry.state)
        done.append(chosen)
    whole = agent.model.perceive(batch.video, MEANS, conditions={"action": torch.stack(done, 1)}, first=batch.first)
    for key, x in whole.latent.values.items():
        assert torch.allclose(x, torch.cat([z.values[key] for z in states], 1), atol=1e-6), key


@pytest.mark.parametrize("encoder", ["patch", "particle"])
def test_states_of_many_tokens_are_read_in_any_order(encoder):
    """Patches and particles under an RSSM: acting and learning go, and the order of a group's tokens says nothing."""
    small = {"base_channels": 4, "channel_multipliers": [1, 2], "latent_channels": 4}
    parts = {"patch": ({"name": "patch"}, {"name": "patch"}),
             "particle": ({"name": "particle", "hidden_dim": 8, "num_particles": 3, "proposal_cnn": small,
                           "glimpse_cnn": small, "background_cnn": small},
                          {"name": "particle", "hidden_dim": 8, "glimpse_cnn": small, "background_cnn": small})}
    seen, drawn = parts[encoder]
    agent = agent_for(obs={"height": 32, "width": 32}, encoder=seen, decoder=drawn)
    batch = clips(time=3)
    batch = Batch(torch.rand(3, 3, 3, 32, 32), batch.conditions, targets=batch.targets)
    agent.learner(TrainConfig()).update(batch, sampler())
    _, carry = agent.act(batch.video[:, 0], agent.start(3), first=torch.ones(3, dtype=torch.bool), sampler=MEANS)
    tokens = state_tokens(carry.state)
    assert tokens.shape[2] == agent.model.spec.num_tokens > 1 and tokens.shape[3] == token_dim(agent.model.spec)
    mean = agent.behavior.actor(tokens).mean
    assert torch.allclose(agent.behavior.actor(tokens.flip(2)).mean, mean, atol=1e-6)


def test_an_episode_that_begins_remembers_nothing():
    agent, video = agent_for(), clips(time=2).video
    for before in (video[:, 0], 255 - video[:, 0]):
        _, carry = agent.act(before, agent.start(3), first=torch.ones(3, dtype=torch.bool), sampler=MEANS)
        action, _ = agent.act(video[:, 1], carry, first=torch.tensor([True, False, True]), sampler=MEANS)
        fresh, _ = agent.act(video[:, 1], agent.start(3), first=torch.ones(3, dtype=torch.bool), sampler=MEANS)
        assert torch.allclose(action[[0, 2]], fresh[[0, 2]], atol=1e-6)


def test_actions_come_in_the_environments_units_and_choices_as_numbers():
    action, _ = agent_for().act(clips().video[:, 0], agent_for().start(3), first=torch.ones(3, dtype=torch.bool),
                                sampler=sampler())
    assert action.shape == (3, 2) and action.dtype == torch.float32
    agent = agent_for(options=V3 | {"actor": {"readout": SMALL, "min_std": 5.0, "max_std": 6.0}})
    many, _ = agent.act(torch.rand(64, 3, SIDE, SIDE), agent.start(64), first=torch.ones(64, dtype=torch.bool),
                        sampler=sampler())
    assert many[:, 0].abs().max() == 2 and many[:, 1].abs().max() == 1  # as wide as the bounds, and no wider
    chosen, _ = agent_for(CHOICES).act(clips().video[:, 0], agent_for(CHOICES).start(3),
                                       first=torch.ones(3, dtype=torch.bool), sampler=sampler())
    assert chosen.shape == (3,) and chosen.dtype == torch.int64


@pytest.mark.parametrize("action", [CHOICES, BOX], ids=["choices", "numbers"])
def test_what_is_done_while_exploring_is_what_is_remembered(action):
    agent = agent_for(action, V3 | {"noise": 0.5})
    explorer, first = agent.explorer(), torch.ones(3, dtype=torch.bool)
    frame = clips(action).video[:, 0]
    calm, _ = agent.act(frame, agent.start(3), first=first, sampler=sampler(3))
    wild, carry = explorer.act(frame, explorer.start(3), first=first, sampler=sampler(3))
    assert action.discrete or not torch.equal(calm, wild)
    assert torch.equal(carry.action[:, 0], wild)
    assert agent_for(action).explorer() is not agent and isinstance(agent_for(action).explorer(), type(agent))


def test_saved_and_loaded_it_does_the_same(tmp_path):
    agent = agent_for(CHOICES)
    agent.learner(TrainConfig()).update(clips(CHOICES), sampler())
    save_agent(agent, tmp_path / "agent", facts={"steps": 1})
    assert sorted(p.name for p in (tmp_path / "agent").iterdir()) == ["agent.safetensors", "config.json", "model"]
    again = load_agent(tmp_path / "agent")
    frame, first = clips(CHOICES).video[:, 0], torch.ones(3, dtype=torch.bool)
    both = [one.act(frame, one.start(3), first=first, sampler=sampler(1))[0] for one in (agent, again)]
    assert torch.equal(*both)
    assert torch.equal(weights_of(agent, agent.model), weights_of(again, again.model))


# -- what does not fit


def test_a_kind_of_actor_for_other_actions_is_refused():
    with pytest.raises(ConfigError, match="kind 'categorical' gives one of a few choices, and these actions are 2 num"):
        agent_for(BOX, V3 | {"actor": {"kind": "categorical"}})
    with pytest.raises(ConfigError, match="gives vectors of numbers, and these actions are 4 choices: .*categ"):
        agent_for(CHOICES, V3 | {"actor": {"kind": "tanh-normal"}})


def test_a_model_of_other_actions_or_without_rewards_is_refused():
    with pytest.raises(ConfigError, match="this agent gives 4 choices, and its model is told vectors of 2 numbers"):
        create_agent("actor-critic", action=CHOICES, model=model_for(BOX), **V3)
    with pytest.raises(ConfigError, match="heads of terminated only: create it with heads.reward=two-hot"):
        create_agent("actor-critic", action=BOX, model=model_for(heads={"terminated": "bernoulli"}), **V3)


def test_a_checkpoint_of_another_action_space_is_refused(tmp_path):
    save_agent(agent_for(CHOICES), tmp_path / "agent")
    agent = load_agent(tmp_path / "agent")
    other = wk.make_env("games/catch", size=SIDE)  # 3 choices
    with pytest.raises(ConfigError, match="it gives 4 choices, the environment takes 3 choices"):
        check_fits(agent, other)
    about = tmp_path / "agent" / "config.json"
    about.write_text(about.read_text().replace('"num_actions": 4', '"num_actions": 3', 1))
    with pytest.raises(CheckpointError, match="this agent gives"):
        load_agent(tmp_path / "agent")


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(ConfigError, match="optimizers are 'all', or model, actor, critic; got actor"):
        agent_for(options=V3 | {"optimizers": {"actor": {}}})
    with pytest.raises(ConfigError, match="generation 1 learns through the dynamics"):
        agent_for(options=V1 | {"gradient": "reinforce"})
    with pytest.raises(ConfigError, match="create the model with objective='dreamer'"):
        agent_for(objective={"name": "heads"}).learner(TrainConfig())


def test_what_others_did_teaches_it_nothing():
    with pytest.raises(ConfigError, match="learns by acting.*worldkit train-agent"):
        agent_for().loss(clips())


def test_a_batch_without_rewards_is_refused():
    with pytest.raises(ShapeError, match="learns from rewards, which this batch lacks"):
        Arrivals.of(Batch(torch.zeros(1, 2, 3, 8, 8)), 2)


def test_a_reward_that_is_not_finite_stops_the_training():
    agent, batch = agent_for(), clips()
    batch.targets["reward"][1, 2] = torch.nan
    before = weights_of(agent, agent.model)
    with pytest.raises(TrainingError, match="reward nan of clip 1, transition 2, is no number"):
        agent.learner(TrainConfig()).update(batch, sampler())
    assert torch.equal(before, weights_of(agent, agent.model))
    torch.nn.init.constant_(agent.behavior.actor.out["mean"].weight, torch.nan)
    with pytest.raises(TrainingError, match="in update 1; parts that are not finite: .*policy"):
        agent.learner(TrainConfig()).update(clips(), sampler())


# -- what came with a frame


def test_nothing_of_an_episode_arrives_in_the_next():
    batch = clips()
    found = Arrivals.of(batch, 6)
    reward = batch.targets["reward"]
    assert found.reward[0].tolist() == pytest.approx([0, *reward[0, :2].tolist(), 0, *reward[0, 3:5].tolist()])
    assert found.terminal[0].tolist() == [0, 0, 1, 0, 0, 0] == found.last[0].tolist()
    silent = Batch(batch.video, targets={"reward": reward}, first=batch.first)
    assert Arrivals.of(silent, 6).last[0].tolist() == [0, 0, 1, 0, 0, 0]  # cut off where another one begins
    context = Arrivals.of(batch, 5)
    assert torch.equal(context.reward, found.reward[:, 1:]) and torch.equal(context.last, found.last[:, 1:])


def test_returns_by_hand():
    reward, following, discount = (torch.rand(2, 5, dtype=torch.float64) for _ in range(3))
    found = lambda_returns(reward, following, discount, 0.7, following[:, -1])
    assert lambda_returns(reward[:, :0], following[:, :0], discount[:, :0], 0.7, following[:, -1]).shape == (2, 0)
    expected = following[:, -1]
    for t in reversed(range(5)):
        expected = reward[:, t] + discount[:, t] * (0.3 * following[:, t] + 0.7 * expected)
        assert torch.allclose(found[:, t], expected)


# -- learning


CASES = {"v3 choices": (CHOICES, V3), "v3 numbers": (BOX, V3), "v2 choices": (CHOICES, V2),
         "v2 numbers": (BOX, V2 | {"gradient": "dynamics", "actor": {"kind": "trunc-normal", "readout": SMALL}}),
         "v2 both": (CHOICES, V2 | {"gradient": "both"}), "v1": (BOX, V1),
         "v3 through the dynamics": (BOX, V3 | {"gradient": "dynamics"})}


@pytest.mark.parametrize("case", CASES)
def test_every_part_learns_from_what_it_should(case):
    action, options = CASES[case]
    agent, batch = agent_for(action, options), clips(action)
    model, behavior = agent.model, agent.behavior
    seen = model.perceive(batch, sampler())
    found = behavior.losses(model, seen, batch, sampler(1))
    parts = {"actor": behavior.actor, "critic": behavior.critic, "model": model}
    reached = {}
    for loss, array in found.arrays.items():
        for name, part in parts.items():
            gradients = torch.autograd.grad(array.mean(), list(part.parameters()), retain_graph=True, allow_unused=True)
            if any(g is not None and g.abs().max() > 0 for g in gradients):
                reached.setdefault(loss, set()).add(name)
    assert reached["value"] == {"critic"}
    assert reached.get("replay_value", set()) <= {"critic", "model"}
    through = options.get("gradient", "reinforce") != "reinforce"
    assert "actor" in reached["policy"] and (through or reached["policy"] == {"actor"})


def test_the_replayed_value_teaches_the_model():
    agent, batch = agent_for(), clips()
    torch.nn.init.normal_(agent.behavior.critic.out.weight)  # at first it is zero, and lets nothing through
    found = agent.behavior.losses(agent.model, agent.model.perceive(batch, sampler()), batch, sampler(1))
    found.arrays["replay_value"].mean().backward()
    touched = {name for name, part in agent.model.named_children()
               if any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())}
    assert touched == {"encoder", "dynamics", "conditioners"}
    assert all(p.grad is None for p in agent.behavior.slow.parameters())


@pytest.mark.parametrize("case", [case for case in CASES if "reinforce" != CASES[case][1].get("gradient", "reinforce")])
def test_an_update_leaves_no_gradient_of_the_actor_on_the_model(case, monkeypatch):
    """The model's gradients are those of an update in which the policy's loss is left out."""
    action, options = CASES[case]
    found = []
    for silent in (False, True):
        agent = agent_for(action, options)
        learner = agent.learner(TrainConfig())
        if silent:
            losses = agent.behavior.losses

            def without(*args, losses=losses):
                made = losses(*args)
                return type(made)({**made.arrays, "policy": 0 * made.arrays["policy"]}, made.scales, made.metrics,
                                  made.made)

            monkeypatch.setattr(agent.behavior, "losses", without)
        learner.update(clips(action), sampler())
        found.append([None if p.grad is None else p.grad.clone() for p in agent.model.parameters()])
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None) and (one is None or torch.allclose(one, other, atol=1e-7))


@pytest.mark.parametrize("case", ["v3 choices", "v2 both", "v1"])
def test_learning_goes_on_exactly_where_it_stopped(case, tmp_path):
    action, options = CASES[case]
    whole = agent_for(action, options)
    learner = whole.learner(TrainConfig())
    for step in range(4):
        if step == 2:
            save_agent(whole, tmp_path / "agent")
            torch.save(learner.state_dict(), tmp_path / "state.pt")
        terms = learner.update(clips(action, seed=step), sampler(step))
    again = load_agent(tmp_path / "agent")
    other = again.learner(TrainConfig())
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in (2, 3):
        same = other.update(clips(action, seed=step), sampler(step))
    assert torch.equal(weights_of(whole, whole.model), weights_of(again, again.model))
    assert terms.keys() == same.keys() and all(torch.equal(terms[name], same[name]) for name in terms)
    assert other.updates == 4


def test_the_slow_critic_follows():
    agent = agent_for(options=V3 | {"slow_rate": 0.5, "optimizers": {"all": {"name": "adam", "lr": 0.1}}})
    slow = weights_of(agent.behavior.slow)
    agent.learner(TrainConfig()).update(clips(), sampler())
    now = weights_of(agent.behavior.critic)
    assert torch.allclose(weights_of(agent.behavior.slow), 0.5 * slow + 0.5 * now) and not torch.equal(now, slow)
    copied = agent_for(CHOICES, V2)
    learner = copied.learner(TrainConfig())
    for step in range(3):  # after the first update, and every second one behind it
        learner.update(clips(CHOICES, seed=step), sampler())
        same = torch.equal(weights_of(copied.behavior.slow), weights_of(copied.behavior.critic))
        assert same == (step != 1)


def test_the_first_update_from_zero_moves_the_scale_of_returns_alone():
    agent = agent_for()
    before = weights_of(agent.behavior.actor, agent.behavior.critic, agent.model)
    learner = agent.learner(TrainConfig())
    learner.update(clips(), sampler())
    assert torch.equal(before, weights_of(agent.behavior.actor, agent.behavior.critic, agent.model))
    assert agent.behavior.returns_norm.seen == pytest.approx(0.01)
    learner.update(clips(), sampler())
    assert not torch.equal(before, weights_of(agent.behavior.actor, agent.behavior.critic, agent.model))


def test_a_known_state_of_the_first_frame_is_context():
    """With the state of frame 0, the states of the others are those of the whole clip."""
    agent, batch = agent_for(), clips(borders=False)
    whole = agent.model.perceive(batch, MEANS).latent
    learner = agent.learner(TrainConfig())
    terms = learner.update(batch, MEANS, carry=whole[:, :1].detach())
    assert learner.latent.shape == (3, 5) and "loss" in terms
    for key, x in learner.latent.values.items():
        assert torch.allclose(x, whole.values[key][:, 1:], atol=1e-6)
        assert not x.requires_grad
    assert learner.behavior.arrays["policy"].shape == (15, 4)


@pytest.mark.parametrize("case", ["v3 choices", "v2 numbers"])
def test_learning_in_half_precision(case):
    """Matrices in bfloat16, states and losses in float32, and about the same numbers."""
    action, options = CASES[case]
    terms = []
    for precision in ("no", "bf16"):
        agent = agent_for(action, options)
        learner = agent.learner(TrainConfig(precision=precision))
        terms.append(learner.update(clips(action), sampler()))
        assert {x.dtype for x in learner.latent.values.values()} == {torch.float32}
    assert terms[1]["loss"].dtype == torch.float32
    assert terms[1]["loss_image"].item() == pytest.approx(terms[0]["loss_image"].item(), rel=0.05)


def test_the_logged_loss_is_that_of_all_parts():
    for action, options in (CASES["v2 choices"], CASES["v3 choices"]):
        agent = agent_for(action, options)
        learner = agent.learner(TrainConfig())
        terms = learner.update(clips(action), sampler())
        scales = {**agent.model.objective.scales(agent.model), **learner.behavior.scales}
        total = sum(scales.get(name.removeprefix("loss_"), 1.0) * x for name, x in terms.items()
                    if name.startswith("loss_"))
        assert torch.allclose(terms["loss"], total, rtol=1e-5)


def test_half_precision_with_a_scale_is_refused():
    with pytest.raises(ConfigError, match="scales no losses, which precision 'fp16' needs: take 'bf16'"):
        agent_for().learner(TrainConfig(precision="fp16"))


def test_only_the_last_frames_are_starts():
    agent, batch = agent_for(options=V3 | {"starts": 2}), clips()
    found = agent.behavior.losses(agent.model, agent.model.perceive(batch, sampler()), batch, sampler(1))
    assert found.arrays["policy"].shape == (6, 4) and found.arrays["replay_value"].shape == (3, 1)
    one = agent_for(options=V3 | {"starts": 1})
    terms = one.learner(TrainConfig()).update(batch, sampler())  # nothing is seen to follow: replay says nothing
    assert one.behavior.losses(one.model, one.model.perceive(batch, sampler()), batch, sampler(1)).arrays.keys() == {
        "policy", "value"}
    assert "loss_replay_value" not in terms and terms["loss"].isfinite()


def test_a_model_that_knows_no_end_goes_on():
    agent, batch = agent_for(terminated=False), clips()
    found = agent.behavior.losses(agent.model, agent.model.perceive(batch, sampler()), batch, sampler(1))
    weight = found.made.weight
    steps = (1 - 1 / 333) ** torch.arange(5.0)
    assert torch.allclose(weight, steps.expand_as(weight), atol=1e-6)


def test_acting_and_evaluating_touch_nothing_that_learns():
    agent = agent_for()
    learner = agent.learner(TrainConfig())
    learner.update(clips(), sampler())
    before, state = weights_of(agent, agent.model), copy.deepcopy(agent.behavior.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    carry = agent.start(3)
    for t in range(3):
        _, carry = agent.act(clips().video[:, t], carry, first=torch.full((3,), t == 0), sampler=sampler(t))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(before, weights_of(agent, agent.model))
    assert all(torch.equal(x, agent.behavior.state_dict()[name]) for name, x in state.items())


def test_actors_of_numbers_begin_where_their_papers_say():
    features = torch.randn(500, 1, 6)
    wide = Actor(ActorConfig(kind="tanh-normal", min_std=1e-4), feature_dim=6, action=BOX)(features)
    assert isinstance(wide, TanhNormal) and wide.std.mean().item() == pytest.approx(5, abs=0.05)
    assert wide.mode().shape == (500, 2) and wide.entropy().shape == (500,)
    calm = Actor(ActorConfig(), feature_dim=6, action=BOX)(features)
    assert calm.std.mean().item() == pytest.approx(0.893, abs=0.002)
    assert np.isfinite(calm.log_prob(3 * calm.sample(sampler())).detach().numpy()).all()
