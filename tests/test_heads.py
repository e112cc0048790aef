"""Heads: what they predict and learn, in training, rollouts, dreams, files, configurations and plugins."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.conditions import Condition
from worldkit.data import ArraySource, ClipDataset
from worldkit.distributions import MEANS, Sampler
from worldkit.dreaming import Dream
from worldkit.dynamics.features import token_dim, transition_tokens
from worldkit.errors import ConfigError, DataError, IncompatibleComponentsError, ShapeError, UnknownComponentError
from worldkit.heads import Head, HeadConfig, list_heads, register_head
from worldkit.heads.bernoulli import BernoulliHead, BernoulliHeadConfig
from worldkit.heads.categorical import CategoricalHead, CategoricalHeadConfig
from worldkit.heads.gaussian import GaussianHead, GaussianHeadConfig
from worldkit.heads.two_hot import TwoHotHead, TwoHotHeadConfig
from worldkit.nn.readout import MLPReadout, MLPReadoutConfig
from worldkit.registry import heads as registry
from worldkit.testing import check_head, check_model, example_batch, example_latent, example_spec
from worldkit.testing.examples import small_config
from worldkit.testing.report import shake

ACTION = {"action": {"name": "action", "dim": 2}}
BOTH = {"reward": "two-hot", "terminated": "bernoulli"}


def small(**overrides):
    torch.manual_seed(0)
    return build(small_config(**{"latent_action": None, "conditioners": ACTION, "heads": BOTH, **overrides}))


# -- the heads


@pytest.mark.parametrize("name, options", [
    ("gaussian", {}), ("gaussian", {"dim": 3, "mean": (1.0, 2.0, 3.0), "std": (1.0, 0.1, 9.0)}), ("bernoulli", {}),
    ("two-hot", {"num_bins": 9}), ("categorical", {}), ("categorical", {"values": (0.0, 1.0, 2.5, 5.0)}),
])
def test_ours_pass_the_checks(name, options):
    check_head(name, **options)


def test_names():
    assert list_heads() == ["bernoulli", "categorical", "gaussian", "normed-bernoulli", "symlog-two-hot", "two-hot"]
    with pytest.raises(ConfigError, match="heads.reward: unknown head 'two-hut'. Did you mean 'two-hot'?"):
        small_config(heads={"reward": "two-hut"})
    with pytest.raises(UnknownComponentError):
        check_head("none-such")


def test_a_choice_counts_rewards_by_their_sign_and_flags_and_draws_them():
    target = torch.tensor([[-9.0, 0.0, 0.2, 30.0]])
    signs = CategoricalHead(CategoricalHeadConfig(), feature_dim=3)
    assert signs.classes(target).tolist() == [[0, 1, 2, 2]]
    flags = CategoricalHead(CategoricalHeadConfig(values=(0, 1)), feature_dim=3)
    assert flags.classes(torch.tensor([[True, False]])).tolist() == [[1, 0]]
    near = CategoricalHead(CategoricalHeadConfig(values=(0, 10, 25)), feature_dim=3)
    assert near.classes(target).tolist() == [[0, 0, 0, 2]]
    x = torch.randn(1, 1, 1, 3).expand(1, 4000, 1, 3)
    with torch.no_grad():
        signs.readout.out[-1].bias += torch.tensor([0.0, 1.0, 2.0])
        shares = signs.logits(x)[0, 0].softmax(-1)
        drawn = signs.sample(x, Sampler(generator=torch.Generator().manual_seed(0)), "head.reward")
        assert torch.allclose(signs(x), (shares[2] - shares[0]).expand(1, 4000))
    found = torch.stack([(drawn == value).float().mean() for value in (-1, 0, 1)])
    assert (found - shares).abs().max() < 0.03
    assert (signs.sample(x, MEANS, "head.reward") == 1).all()
    for values in ((1.0,), (1.0, 0.0)):
        with pytest.raises(ConfigError, match="two numbers or more"):
            CategoricalHeadConfig.parse({"values": values})


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.3, -7.25, 1234.5, -1e6])
def test_two_hot_targets_have_the_value_they_stand_for(value):
    head = TwoHotHead(TwoHotHeadConfig(), feature_dim=3)
    shares = head.two_hot(torch.tensor([value]))
    assert shares.sum() == pytest.approx(1) and (shares > 0).sum() <= 2
    assert head.expected(shares.log()).item() == pytest.approx(value, rel=1e-5, abs=1e-5)


def test_two_hot_begins_at_exactly_zero_and_takes_what_is_beyond_its_bins():
    head = TwoHotHead(TwoHotHeadConfig(num_bins=5, limit=1.0), feature_dim=3)
    x = torch.randn(2, 3, 4, 3)
    assert torch.equal(head(x), torch.zeros(2, 3))
    assert head.expected(head.two_hot(torch.tensor(99.0)).log()).item() == pytest.approx(math.e - 1)
    torch.testing.assert_close(head.loss(x, torch.ones(2, 3)), torch.full((2, 3), math.log(5)))


def test_nats():
    x = torch.randn(1, 2, 4, 3)
    assert BernoulliHead(BernoulliHeadConfig(), feature_dim=3).loss(x, torch.ones(1, 2, dtype=torch.bool)).tolist() == [
        pytest.approx([math.log(2)] * 2)]
    head = GaussianHead(GaussianHeadConfig(mean=(3.0,), std=(2.0,)), feature_dim=3)
    wanted = -torch.distributions.Normal(0.0, 1.0).log_prob(torch.tensor([-1.0, 2.0]))
    torch.testing.assert_close(head.loss(x, torch.tensor([[1.0, 7.0]]))[0], wanted)


@pytest.mark.parametrize("name", ["gaussian", "bernoulli", "two-hot"])
def test_each_learns(name):
    torch.manual_seed(0)
    x = torch.randn(64, 1, 3, 2)
    wanted = x[..., 0].amax(2)  # what one of the tokens says
    wanted = wanted > 0.8 if name == "bernoulli" else 5 * wanted
    head = registry.get(name)(registry.get(name).Config(hidden_dim=32), feature_dim=2)
    optimiser = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        head.loss(x, wanted).mean().backward()
        optimiser.step()
    error = (head(x) - wanted.float()).abs().mean()
    assert error < (0.1 if name == "bernoulli" else 1.0)


@pytest.mark.parametrize("name", ["gaussian", "bernoulli", "two-hot"])
def test_a_target_of_another_shape_is_told(name):
    head = registry.get(name)(registry.get(name).Config(), feature_dim=2)
    with pytest.raises(ShapeError, match=rf"target of head '{name}' must have 2 axes \[b t\], got 3: \[2, 3, 1\]"):
        head.loss(torch.zeros(2, 3, 4, 2), torch.zeros(2, 3, 1))


@pytest.mark.parametrize("name", ["gaussian", "bernoulli", "two-hot"])
def test_an_mlp_may_read_the_features(name):
    """As Dreamer's heads do; of one token it is a plain MLP, and an outscale of 0 begins at 0."""
    check_head(name, readout={"layers": 2, "units": 12})
    readout = MLPReadout(MLPReadoutConfig(layers=1, units=8, outscale=0.0), 5, 3)
    x = torch.randn(2, 1, 5)
    assert torch.equal(readout(x), torch.zeros(2, 3))
    torch.nn.init.normal_(readout.out.weight)
    torch.testing.assert_close(readout(x.expand(2, 4, 5)), readout(x))


def test_an_end_may_be_discounted():
    head = BernoulliHead(BernoulliHeadConfig(discount=0.9, readout={"units": 8, "outscale": 0.0}), feature_dim=3)
    x, ends = torch.randn(1, 2, 4, 3), torch.tensor([[False, True]])
    with torch.no_grad():
        head.readout.out.bias.fill_(-2.0)
        goes_on = torch.sigmoid(torch.tensor(2.0))
        wanted = [-(0.9 * goes_on.log() + 0.1 * (1 - goes_on).log()), -(1 - goes_on).log()]
        torch.testing.assert_close(head.loss(x, ends)[0], torch.stack(wanted))


@pytest.mark.parametrize("options, message", [
    ({"num_bins": 4}, "num_bins must be odd, so that one bin is 0; got 4"),
])
def test_two_hot_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        TwoHotHeadConfig.parse({"name": "two-hot", **options})


def test_gaussian_options_are_checked():
    with pytest.raises(ConfigError, match="mean has 2 numbers for 3: give one, or one each"):
        GaussianHeadConfig.parse({"name": "gaussian", "dim": 3, "mean": [1, 2]})
    with pytest.raises(ConfigError, match="std must be above 0"):
        GaussianHeadConfig.parse({"name": "gaussian", "std": [0.0]})


def test_gaussian_takes_its_scale_from_the_data():
    episodes = [np.array([1.0, 3.0, 99.0], np.float32), np.array([5.0, 7.0, np.nan])]
    found = GaussianHeadConfig().complete(iter(episodes))
    assert found.mean == (4.0,) and found.std == (pytest.approx(math.sqrt(5)),) and found.dim is None
    found = GaussianHeadConfig(reached=True).complete([np.array([[9, 9], [1, 2], [3, 2]], np.float32)])
    assert found.mean == (2.0, 2.0) and found.std == (1.0, 1.0) and found.dim == 2
    kept = GaussianHeadConfig(mean=(0.0,), std=(2.0,))
    assert kept.complete(iter([])) is kept


# -- features


def test_features_are_what_is_left_what_is_reached_and_what_was_done():
    spec = example_spec()
    z = example_latent(spec, time=3)
    frame, token = torch.randn(2, 2, 4), torch.randn(2, 2, spec.num_tokens, 4)
    x = transition_tokens(z[:, :-1], z[:, 1:], Condition(frame=frame, token=token), 4)
    width = spec.packed_dim
    assert x.shape == (2, 2, spec.num_tokens, token_dim(spec, 4))
    assert torch.equal(x[..., :width], z.pack()[:, :-1]) and torch.equal(x[..., width : 2 * width], z.pack()[:, 1:])
    assert torch.equal(x[..., -4:], frame[:, :, None] + token)
    assert x[..., 2 * width : -4].sum(-1).eq(1).all()  # particle or background


# -- models


@pytest.mark.parametrize("dynamics", ["pint", "gru", "slotformer", "diffusion", "pint-joint"])
def test_models_predict_what_they_would_be_told_of_their_own_latents(dynamics):
    model = small(dynamics=dynamics)
    for p in model.heads.parameters():
        torch.nn.init.normal_(p, std=0.3)
    batch = example_batch(model.config, 5)
    with torch.no_grad():
        out = model.rollout(batch.video[:, :2], 3, conditions=batch.conditions, deterministic=True)
        z = type(out.latents).cat([out.context_latents, out.latents])
        cond = model.condition(z, batch, sampler=MEANS).cond
        features = model.dynamics.features(z, cond)
        assert list(out.predictions) == ["reward", "terminated"]
        for name, head in model.heads.items():
            # bins a million wide multiply what float32 rounds in the logits
            torch.testing.assert_close(out.predictions[name], head(features)[:, 1:], rtol=1e-5, atol=1e-5)
        other = {"action": batch.conditions["action"] + torch.tensor([1.0, 0.0])}
        steered = model.rollout(batch.video[:, :2], 3, conditions=other, deterministic=True)
    assert (steered.predictions["reward"][:, 0] != out.predictions["reward"][:, 0]).all()
    assert "predictions: reward [2, 3], terminated [2, 3]" in repr(out)


def test_a_dream_predicts_step_by_step():
    model = small(heads={"place": {"name": "gaussian", "dim": 3}})
    batch = example_batch(model.config, 4)
    dream = Dream(model, batch.video[:, :2], conditions=batch.conditions)
    assert not dream.predictions
    dream.step({"action": batch.conditions["action"][:, 1:2]})
    assert dream.predictions["place"].shape == (2, 1, 3)
    assert not Dream(small(heads={}), batch.video[:, :2], conditions=batch.conditions).predictions


@torch.no_grad()
def test_what_happens_by_chance_is_drawn_if_asked():
    model = shake(small())
    start = model.encode(torch.rand(64, 1, 3, 32, 32))
    still = lambda z, sampler: (torch.zeros(*z.shape, 2), {})  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    expected = model.imagine(start, still, 8, sampler=MEANS).predictions
    drawn = model.imagine(start, still, 8, sampler=Sampler(generator=generator), drawn=True).predictions
    assert {*drawn["terminated"].unique().tolist()} <= {0.0, 1.0}
    assert drawn["terminated"].mean() == pytest.approx(expected["terminated"].mean().item(), abs=0.1)
    dream = Dream(model, start, sampler=MEANS, drawn=True)
    dream.step({"action": torch.zeros(64, 1, 2)})
    torch.testing.assert_close(dream.predictions["terminated"], (expected["terminated"][:, :1] > 0.5).float())
    torch.testing.assert_close(dream.predictions["reward"], expected["reward"][:, :1])  # two-hot says what is expected


@pytest.mark.parametrize("overrides", [
    {}, {"objective": "ddlp"}, {"objective": "two-stage"}, {"dynamics": "diffusion"}, {"encoder": "slot"},
    {"encoder": "slot", "dynamics": "slotformer", "objective": "two-stage"}, {"encoder": "patch", "dynamics": "gru"},
    {"latent_action": "gaussian"}, {"objective": "heads"},
], ids=str)
def test_objectives_train_heads_and_heads_train_nothing_else(overrides):
    model = small(**overrides)
    batch = example_batch(model.config)
    loss = model.loss(batch, generator=torch.Generator().manual_seed(0))
    assert {"head/reward", "head/terminated"} <= set(loss.terms)
    z = model.encode(batch.video)
    cond = model.condition(z, batch, sampler=MEANS).cond
    sum(x.sum() for x in model.head_losses(z, cond, batch).values()).backward()
    for name, part in model.named_children():
        grads = [p.grad for p in part.parameters()]
        assert any(g is not None for g in grads) == (name == "heads"), name
    model.zero_grad()
    model.loss(batch, generator=torch.Generator().manual_seed(0)).total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.heads.parameters())


def test_losses_without_heads_are_what_they_were():
    plain, headed = small(heads={}), small()
    headed.load_state_dict(plain.state_dict(), strict=False)
    batch = example_batch(headed.config)
    a, b = (m.loss(batch, generator=torch.Generator().manual_seed(0)) for m in (plain, headed))
    heads = sum(v for k, v in b.terms.items() if k.startswith("head/"))
    torch.testing.assert_close(a.total, b.total - heads)


def test_transitions_that_leave_the_episode_do_not_count():
    model = small()
    batch = example_batch(model.config)
    done = torch.ones(batch.video.shape[0], batch.video.shape[1])
    done[:, 3:] = 0
    terms = []
    for value in (0.0, 1e3):
        reward = batch.targets["reward"].clone()
        reward[:, 2:] = value
        told = dataclasses.replace(batch, done_mask=done, targets={**batch.targets, "reward": reward})
        terms.append(model.loss(told, generator=torch.Generator().manual_seed(0)).terms["head/reward"])
    assert terms[0] == terms[1]


def test_a_missing_target_is_told():
    model = small()
    batch = dataclasses.replace(example_batch(model.config), targets={})
    with pytest.raises(ShapeError, match=r"has a head for the target 'reward', which the batch lacks \(its targets: "
                                         r"none\): pass Batch\(video, targets="):
        model.loss(batch)


def test_models_pass_the_checks_and_keep_heads_in_files(tmp_path):
    check_model(small())
    model = small()
    assert model.config.to_dict()["heads"]["reward"]["name"] == "two-hot"
    again = wk.WorldModel.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert list(again.heads) == ["reward", "terminated"] and "heads" in model.parameter_report()
    assert "`reward` (two-hot)" in (tmp_path / "model" / "README.md").read_text()


def test_heads_need_a_dynamics_and_the_objective_of_heads_needs_heads():
    with pytest.raises(IncompatibleComponentsError, match="head 'reward' reads the transitions of a dynamics, but"):
        small(dynamics=None, conditioners=None, objective={"name": "elbo"})
    with pytest.raises(IncompatibleComponentsError, match="objective 'heads' trains heads, but none is set; set"):
        small(heads={}, objective="heads")


def test_a_name_with_a_dot_is_refused():
    with pytest.raises(ConfigError, match="'a.b' cannot name a head"):
        small_config(heads={"a": {"b": {"name": "bernoulli"}}})


def test_parts_are_taken_over(tmp_path):
    from worldkit.storage.hub import load_parts

    trained, model = small(), small(objective="heads")
    torch.nn.init.normal_(trained.heads["reward"].readout.out[-1].weight)
    taken = load_parts(model, trained)
    assert {"heads.reward", "heads.terminated", "encoder", "dynamics"} <= set(taken)
    assert torch.equal(*(m.heads["reward"].readout.out[-1].weight for m in (model, trained)))


def test_a_head_of_your_own():
    class CountConfig(HeadConfig):
        name: str = "count"

    class Count(Head):
        Config = CountConfig

        def __init__(self, config, *, feature_dim):
            super().__init__(config, feature_dim=feature_dim)
            self.out = torch.nn.Linear(feature_dim, 1)

        def forward(self, features):
            return self.out(features.mean(2))[..., 0].exp()

        def loss(self, features, target):
            if target.ndim != 2:
                raise ShapeError("two axes, please")
            return torch.nn.functional.poisson_nll_loss(self(features).log(), target, reduction="none")

    register_head("count", Count)
    try:
        check_head("count", target=torch.ones(2, 4))
        assert small(heads={"lives": "count"}).heads["lives"].config.name == "count"
    finally:
        registry._entries.pop("count")


def test_a_wrong_head_is_told():
    class NoHead(torch.nn.Module):
        Config = HeadConfig

    register_head("no-head", NoHead)
    try:
        with pytest.raises(IncompatibleComponentsError, match="head 'no-head' is the class NoHead, which is no head"):
            small(heads={"reward": "no-head"})
    finally:
        registry._entries.pop("no-head")


# -- training


def test_clips_of_a_model_have_its_targets():
    episode = {"video": np.zeros((9, 3, 8, 8), np.uint8), "state": {"score": np.arange(9.0), "reward": np.ones(9)}}
    config = small_config(heads={"reward": {"name": "two-hot", "from": "score"}})
    clips = ClipDataset(ArraySource([episode]), 3, targets=config.targets)
    assert clips[1]["targets"]["reward"].tolist() == [1, 2, 3]
    with pytest.raises(DataError, match=r"no column 'points' .* heads.reward.from=COLUMN"):
        ClipDataset(ArraySource([episode]), 3, targets=small_config(
            heads={"reward": {"name": "two-hot", "from": "points"}}).targets)


def test_a_training_learns_rewards_and_finds_their_scale(tmp_path):
    from worldkit.collecting import collect
    from worldkit.envs import make_env
    from worldkit.training.plan import plan
    from worldkit.training.recipes import make_trainer, train

    collect(make_env("games/catch", size=32), tmp_path / "catch", episodes=4, max_steps=30)
    options = {"conditioners": {"action": "action"}, "latent_action": None, "heads": {
        "reward": "two-hot", "terminated": "bernoulli", "observation": {"name": "gaussian", "reached": True}}}
    dry = make_trainer("lpwm-balls-mini", str(tmp_path / "catch"), run=tmp_path / "run", overrides=options,
                       train_overrides={"batch_size": 2}, dry_run=True, show_progress=False)
    assert plan(dry)["first batch: target observation"] == "torch.float32 [2, 6, 4]"
    model, _ = train("lpwm-balls-mini", str(tmp_path / "catch"), run=tmp_path / "run", overrides=options,
                     train_overrides={"steps": 2, "batch_size": 2}, show_progress=False)
    head = model.config.heads["observation"]
    assert head.dim == 4 and len(head.mean) == 4 and model.config.heads["reward"].name == "two-hot"
    again = wk.create_model(f"dir:{tmp_path / 'run'}")
    assert again.config.heads == model.config.heads and list(again.heads) == list(model.heads)


@pytest.mark.parametrize("objective", ["heads", "one-step", "two-stage"])
def test_remembered_latents_give_the_same_loss(objective):
    model, plain = (small(objective={"name": objective, "remember": n}) for n in (4, 0))
    plain.load_state_dict(model.state_dict())
    batch = example_batch(model.config)
    model.objective.study(model, iter([batch]))
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    a, b = (m.eval().loss(batch, generator=torch.Generator().manual_seed(0)).total for m in (model, plain))
    assert not calls
    torch.testing.assert_close(a, b)
