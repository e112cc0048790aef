"""TD-MPC2 beyond its recorded numbers: sizes, gradients, borders, what acting leaves alone, saving, official names."""

import copy

import pytest
import torch
import torch.nn.functional as F

import worldkit as wk
from worldkit.agents import ActionSpec, create_agent, load_agent, save_agent
from worldkit.agents.tdmpc2.agent import flat
from worldkit.agents.tdmpc2.official import fill_agent, official_weights
from worldkit.batch import Batch
from worldkit.conditioners.raw_action import RawAction, RawActionConfig
from worldkit.config import ObsSpec
from worldkit.distributions import MEANS, Sampler
from worldkit.encoders.simnorm import SimNormConv, SimNormConvConfig
from worldkit.errors import CheckpointError, ConfigError, TrainingError
from worldkit.nn.mish import mish
from worldkit.nn.simnorm import NormedEnsemble
from worldkit.nn.symlog import SymlogBins
from worldkit.training.config import TrainConfig

SMALL = {
    "encoder": {"latent_dim": 16, "hidden": [8]}, "dynamics": {"hidden": [8, 8]},
    "heads": {"reward": {"hidden": [8, 8], "to": -16}}, "obs": {"vectors": {"observation": 3}},
    "agent": {"hidden": [8, 8], "candidates": 16, "proposals": 4, "elites": 4, "iterations": 2, "dropout": 0.0},
}


def small(seed=0, **options):
    return create_agent("tdmpc2-mini", action=ActionSpec((-1, -1), (1, 1)), seed=seed, **{**SMALL, **options})


def clips(batch=4, frames=4, seed=0, **more):
    g = torch.Generator().manual_seed(seed)
    targets = {"reward": torch.randn(batch, frames, generator=g)}
    return Batch.of_vectors({"observation": torch.randn(batch, frames, 3, generator=g)},
                            conditions={"action": torch.rand(batch, frames, 2, generator=g) * 2 - 1},
                            targets=targets, **more)


def drawn(seed=0):
    return Sampler(generator=torch.Generator().manual_seed(seed))


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("preset, encoder, model, policy, values", [
    ("tdmpc2-1m", 40064, 530917, 203532, 480202), ("tdmpc2-5m", 139520, 1515877, 533516, 2911225),
    ("tdmpc2-19m", 1868032, 6454885, 1853452, 9754105), ("tdmpc2-48m", 7860224, 18637925, 4619788, 23950585),
    ("tdmpc2-317m", 56119328, 107098277, 22487052, 183010088), ("tdmpc2-pixels", 58272, 1434629, 533516, 2911225),
])
def test_sizes_are_those_of_the_official_modules(preset, encoder, model, policy, values):
    with torch.device("meta"):
        agent = create_agent(preset)
    assert count(agent.model.encoder) == encoder and count(agent.model) == model
    assert count(agent.policy) == policy and count(agent.values.nets) == values


def test_mish_has_the_values_and_gradients_of_torch():
    x = torch.linspace(-60, 60, 20001, dtype=torch.float64, requires_grad=True)
    for f in (lambda y: y, lambda y: y.square()):
        ours, theirs = (torch.autograd.grad(f(g(x)).sum(), x)[0] for g in (mish, F.mish))
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(mish(x), F.mish(x), rtol=1e-14, atol=0)


def test_an_ensemble_is_its_members():
    torch.manual_seed(0)
    nets = NormedEnsemble(3, 5, (6, 7), 4).double()
    for p in nets.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(2, 9, 5, dtype=torch.float64)
    out = nets(x)
    for i in range(3):
        h = x
        for layer in nets.params:
            h = F.linear(h, layer.weight[i], layer.bias[i])
            if layer.ln is not None:
                h = F.mish(F.layer_norm(h, h.shape[-1:], layer.ln.weight[i], layer.ln.bias[i]))
        torch.testing.assert_close(out[i], h)
    some = nets(x, members=torch.tensor([2, 0]))
    torch.testing.assert_close(some, out[[2, 0]])


def test_dropout_is_drawn_for_every_member():
    nets = NormedEnsemble(2, 5, (64,), 4, dropout=0.5).train()
    for p in nets.parameters():
        p.data[:] = p.data[:1]
    a, b = nets(torch.ones(1, 5))
    assert not torch.equal(a, b) and torch.equal(*nets.eval()(torch.ones(1, 5)))


def test_values_learn_towards_the_target():
    """The gradient of the values' loss, in which the recorded update has no part, by a loop over members and steps."""
    agent, batch = small(), clips()
    for p in agent.values.nets.parameters():
        torch.nn.init.normal_(p, std=0.3)
    agent.values.slow.load_state_dict(agent.values.nets.state_dict())
    learner = agent.learner(TrainConfig())
    before = [p.detach().clone() for p in agent.values.nets.parameters()]
    unrolled = agent.model.objective.unroll(agent.model, batch, sampler=drawn())
    target = learner._target(unrolled, drawn(1))
    z, action = flat(unrolled.latents[:, :-1]).detach(), batch.conditions["action"]
    loss = 0
    for t in range(3):
        hot = SymlogBins(101, 10.0).two_hot(target[:, t])
        for logits in agent.values(z[:, t], action[:, t]):
            loss = loss - (hot * logits.log_softmax(-1)).sum(-1).mean() * 0.5**t / (3 * 5)
    wanted = torch.autograd.grad(0.1 * loss, list(agent.values.nets.parameters()))
    learner.update(batch, drawn(1))
    for p, q, g in zip(agent.values.nets.parameters(), before, wanted, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-6)
        assert not torch.equal(p, q)


def test_the_policy_gets_no_part_of_the_models_loss_and_gives_none():
    agent = small()
    learner = agent.learner(TrainConfig())
    learner.update(clips(), drawn())
    before = [p.detach().clone() for p in agent.policy.parameters()]
    learner.policy_optimizer.step = lambda: None
    learner.update(clips(seed=1), drawn())
    assert all(torch.equal(p, q) for p, q in zip(agent.policy.parameters(), before, strict=True))
    grads = [p.grad.clone() for p in agent.model.parameters() if p.grad is not None]
    learner._improve(torch.rand(2, 4, 16), drawn())
    after = [p.grad for p in agent.model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(grads, after, strict=True))


def test_nothing_leaks_over_the_border_of_an_episode():
    agent, first = small(), torch.zeros(4, 4, dtype=torch.bool)
    first[:, 2] = True
    learner, before = agent.learner(TrainConfig()), None
    state = {name: x.clone() for name, x in agent.model.state_dict().items()}
    for seed in (0, 1):
        agent.model.load_state_dict(state)
        batch = clips(first=first)
        batch.targets["reward"][:, 1:] += seed
        batch.conditions["action"][:, 1:] *= 1 - seed
        batch.vectors["observation"][:, 2:] += seed
        unrolled = agent.model.objective.unroll(agent.model, batch, sampler=MEANS)
        total, terms = agent.model.objective.terms(agent.model, unrolled)
        value = unrolled.mean(agent.values.loss(
            agent.values(flat(unrolled.latents[:, :-1]), batch.conditions["action"][:, :3]),
            learner._target(unrolled, MEANS)))
        assert total > 0 and (before is None or torch.equal(before, torch.stack([total, value])))
        before = torch.stack([total, value])
        assert set(terms) == {"consistency", "reward"}


def test_an_end_is_learned_and_ends_what_is_planned():
    ends = {"name": "normed-bernoulli", "hidden": [8, 8], "start": -16}
    agent = small(heads={**SMALL["heads"], "terminated": ends})
    batch = clips()
    batch.targets["terminated"] = torch.zeros(4, 4, dtype=torch.bool)
    batch.targets["terminated"][:2] = True
    assert "terminated" in agent.learner(TrainConfig()).update(batch, drawn())
    z = agent.model.perceive(clips()).latent[:, :1]
    actions = torch.rand(4, 5, 3, 2)
    head = agent.model.heads["terminated"].net[-1]
    with torch.no_grad():
        head.bias.fill_(9)  # everything ends at once: only the first reward is left
        reward = agent.follow(z, actions[:, 0]).predictions["reward"]
        torch.testing.assert_close(agent.worth(z, actions, MEANS)[:, 0], reward[:, 0])


def test_acting_changes_nothing_that_is_trained():
    told = {"first": torch.tensor([True, True]), "vectors": {"observation": torch.randn(2, 3)}}
    ends = []
    for acts in (False, True):
        agent = small()
        learner = agent.learner(TrainConfig())
        learner.update(clips(), drawn())
        if acts:
            carry = agent.start(2)
            for policy in (agent, agent.explorer()):
                _, carry = policy.act(torch.zeros(2, 3, 0, 0), carry, sampler=drawn(5), **told)
        learner.update(clips(seed=1), drawn(1))
        ends.append({**agent.state_dict(), **agent.model.state_dict()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not agent.training and not agent.model.training


def test_what_is_seen_and_what_was_planned_decide():
    agent = small()
    for p in (*agent.model.parameters(), *agent.parameters()):
        torch.nn.init.normal_(p, std=0.3)
    frame, state = torch.zeros(2, 3, 0, 0), torch.randn(2, 3)

    def act(vectors, carry=None, first=(True, True)):
        return agent.act(frame, carry or agent.start(2), first=torch.tensor(first), sampler=MEANS,
                         vectors={"observation": vectors})

    action, carry = act(state)
    assert action.shape == (2, 2) and action.abs().max() <= 1
    assert torch.equal(action, act(state)[0])
    other = state.clone()
    other[1] += 3
    moved = act(other)[0]
    assert torch.equal(moved[0], action[0]) and not torch.equal(moved[1], action[1])
    again = act(state, carry, (False, True))[0]
    assert torch.equal(again[1], action[1]) and not torch.equal(again[0], action[0])


def test_rows_of_worth_keep_apart():
    agent = small()
    for p in (*agent.model.parameters(), *agent.parameters()):
        torch.nn.init.normal_(p, std=0.3)
    z, actions = agent.model.perceive(clips()).latent[:, :1], torch.rand(4, 6, 3, 2)
    with torch.no_grad():
        together = agent.worth(z, actions, MEANS)
        one = torch.cat([agent.worth(z[i : i + 1], actions[i : i + 1], MEANS) for i in range(4)])
    torch.testing.assert_close(together, one, rtol=1e-4, atol=1e-5)


def test_training_goes_on_as_if_it_had_not_stopped():
    agent = small()
    learner = agent.learner(TrainConfig())
    learner.update(clips(), drawn())
    other = small(seed=1)
    other.load_state_dict(agent.state_dict())
    other.model.load_state_dict(agent.model.state_dict())
    twin = other.learner(TrainConfig())
    twin.load_state_dict(copy.deepcopy(learner.state_dict()))
    for one in (learner, twin):
        one.update(clips(seed=1), drawn(1))
    assert all(torch.equal(p, q) for p, q in zip(agent.model.parameters(), other.model.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(agent.parameters(), other.parameters(), strict=True))


def test_it_learns_what_a_reward_depends_on():
    agent = small(agent={**SMALL["agent"], "lr": 3e-3, "encoder_lr": 3e-3})
    learner, first = agent.learner(TrainConfig()), None
    for i in range(60):
        batch = clips(batch=64, seed=i)
        batch.targets["reward"][:] = batch.conditions["action"][..., 0]
        found = learner.update(batch, drawn(i))
        first = first or found["reward"]
    assert found["reward"] < 0.6 * first and torch.isfinite(found["loss"])


def test_a_loss_that_is_not_finite_is_told_before_a_step():
    agent, batch = small(), clips()
    batch.targets["reward"][0, 0] = torch.nan
    before = [p.detach().clone() for p in agent.model.parameters()]
    with pytest.raises(TrainingError, match="not finite: reward, value"):
        agent.learner(TrainConfig()).update(batch, drawn())
    assert all(torch.equal(p, q) for p, q in zip(agent.model.parameters(), before, strict=True))


def test_an_agents_folder_acts_the_same(tmp_path):
    agent = small()
    agent.learner(TrainConfig()).update(clips(), drawn())
    told = {"first": torch.tensor([True]), "vectors": {"observation": torch.randn(1, 3)}, "sampler": MEANS}
    twin = load_agent(save_agent(agent, tmp_path / "agent"))
    frame = torch.zeros(1, 3, 0, 0)
    assert torch.equal(agent.act(frame, agent.start(1), **told)[0], twin.act(frame, twin.start(1), **told)[0])
    assert twin.scale.value == agent.scale.value


MEMBERS = ("weight", "bias", "ln.weight", "ln.bias")


@pytest.mark.parametrize("old", [False, True])
def test_official_checkpoints_fill_an_agent(old):
    agent, other = small(), small(seed=1)
    agent.learner(TrainConfig()).update(clips(), drawn())
    state = {key: value.detach() for key, value in official_weights(agent).items()}

    def spelt(key):
        for name in ("_Qs", "_target_Qs"):
            if key.startswith(f"{name}.params."):
                layer, _, member = key.removeprefix(f"{name}.params.").partition(".")
                return f"{name}.params.{4 * int(layer) + MEMBERS.index(member)}" if old else (
                    key if name == "_Qs" else key.replace("_target_Qs.params.", "_target_Qs_params."))
        return key

    stored = {spelt(key): value for key, value in state.items()}
    if not old:
        stored |= {key.replace("_Qs.params.", "_detach_Qs_params."): value for key, value in stored.items()
                   if key.startswith("_Qs.params.")}
        stored |= {"_Qs.params.__batch_size": torch.tensor(5), "log_std_min": torch.tensor(-10.0)}
    fill_agent(other, stored)
    for name, value in official_weights(other).items():
        assert torch.equal(value, state[name]), name
    with pytest.raises(CheckpointError, match="_task_emb"):
        fill_agent(other, stored | {"_task_emb.weight": torch.zeros(2, 3)})
    with pytest.raises(CheckpointError, match="keys with no place in this model:\n    _extra.weight"):
        fill_agent(other, stored | {"_extra.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="does not fill:\n    agent.policy.net.0.weight"):
        fill_agent(other, {key: value for key, value in stored.items() if key != "_pi.0.weight"})


def test_pictures_are_shifted_only_where_latents_are_drawn_and_seen_three_at_a_time():
    encoder = SimNormConv(SimNormConvConfig(latent_dim=64, channels=4), obs=ObsSpec(height=64, width=64)).eval()
    video = torch.rand(2, 5, 3, 64, 64)
    with torch.no_grad():
        z = encoder(video, sampler=MEANS).latent.get("embedding")
        assert torch.equal(z, encoder(video, sampler=MEANS).latent.get("embedding"))
        assert not torch.equal(z, encoder(video, sampler=drawn()).latent.get("embedding"))
        changed = video.clone()
        changed[0, 1] = 1 - changed[0, 1]
        moved = (encoder(changed, sampler=MEANS).latent.get("embedding") != z).flatten(2).any(-1)
        alone = encoder(video[:, :1].expand(-1, 3, -1, -1, -1), sampler=MEANS).latent.get("embedding")[:, -1:]
    assert moved.tolist() == [[False, True, True, True, False], [False] * 5]
    torch.testing.assert_close(alone, z[:, :1])  # before the first frame it stands in for others


def test_pictures_train_and_act():
    agent = create_agent("tdmpc2-pixels", action=ActionSpec((-1,), (1,)), **{
        **SMALL, "obs": {"height": 40, "width": 40}, "encoder": {"latent_dim": 8, "channels": 8},
        "heads": {"reward": {"hidden": [8, 8], "to": -8}}})
    batch = Batch(torch.randint(0, 255, (2, 6, 3, 40, 40), dtype=torch.uint8),
                  conditions={"action": torch.zeros(2, 6, 1)}, targets={"reward": torch.zeros(2, 6)})
    assert torch.isfinite(agent.learner(TrainConfig()).update(batch, drawn())["loss"])
    carry, frames = agent.start(2), batch.video
    for t in range(4):
        first = torch.tensor([t == 0, t in (0, 2)])
        action, carry = agent.act(frames[:, t], carry, first=first, sampler=MEANS)
    z = agent.model.encode(frames[:, 1:4])[:, -1:]
    torch.testing.assert_close(agent._look(carry.seen, {}, torch.device("cpu")).get("embedding")[:1],
                               z.get("embedding")[:1])
    one = agent.model.encode(frames[1:, 2:4])[:, -1:]
    torch.testing.assert_close(agent._look(carry.seen, {}, torch.device("cpu")).get("embedding")[1:],
                               one.get("embedding"))


def test_raw_actions():
    conditioner = RawAction(RawActionConfig(num_actions=3), dim=4, obs=ObsSpec(height=8, width=8))
    given = torch.tensor([[True, False]])
    assert conditioner(torch.tensor([[2, 1]]), given, view=None).frame.tolist() == [[[0, 0, 1, 0], [0, 0, 0, 0]]]
    floats = RawAction(RawActionConfig(dim=2), dim=2, obs=ObsSpec(height=8, width=8))
    nan = torch.tensor([[[1.0, 2.0], [torch.nan, 0.0]]])
    assert floats(nan, given, view=None).frame.tolist() == [[[1, 2], [0, 0]]]
    with pytest.raises(ConfigError, match="gives 3 numbers, the dynamics takes 2"):
        RawAction(RawActionConfig(dim=3), dim=2, obs=ObsSpec(height=8, width=8))
    with pytest.raises(ConfigError, match="say how many numbers"):
        RawAction(RawActionConfig(), dim=2, obs=ObsSpec(height=8, width=8))


def test_the_dynamics_is_as_wide_as_the_actions_it_is_told():
    model = wk.create_model("tdmpc2-mini", conditioners={"action": {"dim": 5}})
    assert model.dynamics.cond_dim == 5 and model.dynamics.net[0].in_features == 32 + 5
    assert model.config.dynamics.cond_dim is None
    told = model.rollout(clips().context(1), 3, conditions={"action": torch.zeros(4, 4, 5)}, decode=False)
    assert told.predictions["reward"].shape == (4, 3)


@pytest.mark.parametrize("options, message", [
    ({"action": ActionSpec(num_actions=3)}, "here are 3 choices: take a Dreamer"),
    ({"heads": {"reward": None}}, "plans for rewards, and this model predicts none"),
    ({"agent": {"elites": 999}}, "elites=999 and proposals=8 must be among candidates=64"),
    ({"encoder": {"simnorm": 7}}, "encoder.latent_dim 32 does not divide into groups of encoder.simnorm 7"),
    ({"dynamics": {"simnorm": 7}}, "does not divide into groups of dynamics.simnorm 7"),
    ({"heads": {"reward": {"start": 999}}}, "reads nothing of"),
])
def test_refusals(options, message):
    options = {"action": ActionSpec((-1,), (1,)), **options}
    with pytest.raises(ConfigError, match=message):
        create_agent("tdmpc2-mini", **options)


def test_pictures_of_another_size_are_refused_with_what_to_set():
    with pytest.raises(ConfigError, match="set encoder.latent_dim=768"):
        create_agent("tdmpc2-pixels", obs__height=84, obs__width=64)
    with pytest.raises(ConfigError, match="at least 37 x 37 pixels"):
        create_agent("tdmpc2-pixels", obs__height=32, obs__width=32)
