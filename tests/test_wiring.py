"""A part that does not read a condition is refused when the model is built, whether or not it says what it reads."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import worldkit as wk
from worldkit import registry
from worldkit.assembly import build
from worldkit.conditioners.base import Conditioner, ConditionerConfig
from worldkit.conditions import FORMS, Condition
from worldkit.config import ComponentConfig
from worldkit.dynamics import Dynamics
from worldkit.latent_actions.gaussian import GaussianLatentAction
from worldkit.nn.spec import LatentEmbed, LatentHead
from worldkit.testing import check_conditioner, check_dynamics, check_latent_action, check_model, example_batch
from worldkit.testing.examples import SMALL, small_config
from worldkit.wiring import tried


class Solo(Dynamics):
    """Every token from its own last value and whatever is named in ``reads``: the example of docs/plugins.md."""

    class Config(ComponentConfig):
        name: str = "test-solo"
        dim: int = 8

    reads = frozenset({"frame", "token"})

    def __init__(self, config, **wiring):
        super().__init__(config, **wiring)
        self.cond_dim = config.dim
        self.embed_latent = LatentEmbed(self.spec, config.dim)
        self.head = LatentHead(self.spec, config.dim)

    def prior(self, z, cond):
        tokens, seen = self.embed_latent(z), cond.only(self.reads)
        if (vectors := seen.adaln()) is not None:
            tokens = tokens + vectors
        if seen.memory is not None:
            tokens = tokens + seen.memory.mean(1)[:, None, None]
        return self.head(tokens)


class Declared(Solo):
    takes = frozenset({"frame", "token"})


class Embedding(Solo):
    def embed(self, z):
        return self.embed_latent(z, mark_views=False)


class Deaf(Solo):
    reads = frozenset()


class Scholar(Solo):
    reads = frozenset(FORMS)


class NeedsFrames(Solo):
    """Crashes without an action, and with a condition per token."""

    def prior(self, z, cond):
        assert cond.token is None
        return self.head(self.embed_latent(z) + cond.frame[:, :, None])


class Still(Solo):
    """Begins as a dynamics that no condition can reach: its gate is zero."""

    def __init__(self, config, **wiring):
        super().__init__(config, **wiring)
        self.gate = nn.Parameter(torch.zeros(()))

    def prior(self, z, cond):
        steer = cond.adaln()
        return self.head(self.embed_latent(z) + (0 if steer is None else self.gate * steer))


class Implicit(Solo):
    explicit_prior = False

    def loss(self, z, cond, sampler):
        error = super().prior(z[:, :-1], cond).mode().pack() - z.detach()[:, 1:].pack()
        return {"error": error.square().sum((2, 3))}


ACTION = {"action": {"name": "action", "dim": 3}}
LANGUAGE = {"language": SMALL["conditioner"]["language"] | {"name": "language"}}
GOAL = {"goal_image": {"name": "goal-image"}}


@pytest.fixture
def use(monkeypatch):
    """Register a dynamics for the length of a test, and configure a small model with it."""
    for table in (registry.dynamics, registry.conditioners, registry.latent_actions):
        for attribute in ("_entries", "_aliases"):
            monkeypatch.setattr(table, attribute, dict(getattr(table, attribute)))

    def small(cls, conditioners, **options):
        registry.dynamics.register("test-solo", cls, override=True)
        options = {"latent_action": None, "encoder": "patch", **options}
        return small_config(dynamics={"name": "test-solo"}, conditioners=conditioners, **options)

    return small


def works(config):
    model = build(config)
    batch = example_batch(config)
    model.loss(batch).total.backward()
    whole = example_batch(config, config.clip_length + 2)
    model.rollout(batch.video[:, :2], 3, conditions=whole.conditions)
    return model


@pytest.mark.parametrize("cls, conditioners, message", [
    (Solo, ACTION, ""), (Declared, ACTION, ""), (NeedsFrames, ACTION, ""), (Still, ACTION, ""), (Implicit, ACTION, ""),
    (Scholar, ACTION | LANGUAGE, ""), (Embedding, GOAL | ACTION, ""),
    (Solo, GOAL, "does not read goals as it embeds latents .a method embed., which condition 'goal_image' gives it. To "
                 "send it goals, give it a method embed.self, z. -> tokens"),
    (Deaf, ACTION, "does not read conditions per frame .Condition.frame., which condition 'action' gives it. It was "
                   r"tried: .* say so in its class: takes = frozenset\({'frame'}\). Otherwise take a dynamics"),
    (Solo, LANGUAGE, r"does not read tokens to attend to ..*, which condition 'language' gives it.*takes "
                     r"= frozenset\({'frame', 'token', 'memory'}\)"),
    (Declared, LANGUAGE, r"which condition 'language' gives it. Otherwise take a dynamics that does .*pint.*, drop "
                         "the conditioner, or send it elsewhere .latent_action='gaussian' and "
                         "conditioners.language.to='latent_action'"),
])
def test_read_or_refused(use, cls, conditioners, message):
    config = use(cls, conditioners)
    if not message:
        works(config)
        return
    with pytest.raises(wk.IncompatibleComponentsError, match=message):
        build(config)


def test_latent_actions_are_conditions_too(use):
    works(use(Solo, {}, latent_action="gaussian"))
    with pytest.raises(wk.IncompatibleComponentsError, match="per token.*which latent action 'gaussian' gives it"):
        build(use(NeedsFrames, {}, latent_action="gaussian"))


class DeafAction(GaussianLatentAction):
    takes = None

    def forward(self, z, cond):
        return super().forward(z, replace(cond, frame=None, token=None))


def test_latent_actions_that_do_not_read(use):
    registry.latent_actions.register("test-deaf", DeafAction)
    options = SMALL["latent action"]["gaussian"]
    with pytest.raises(wk.IncompatibleComponentsError, match="latent action 'test-deaf' does not read conditions per"):
        build(use(Solo, ACTION, latent_action={"name": "test-deaf", **options}))
    build(use(Solo, {"action": {**ACTION["action"], "to": "dynamics"}}, latent_action={"name": "test-deaf", **options}))
    with pytest.raises(AssertionError, match="conditions: takes names 'frame', but the answer does not depend on"):
        check_latent_action(type("Boasts", (DeafAction,), {"takes": FORMS, "__module__": __name__}), **options)


class Mood(Conditioner):
    """Says nothing of what it gives, nor that it asks the receiver to embed."""

    class Config(ConditionerConfig):
        name: str = "test-mood"

    def __init__(self, config, *, dim, obs):
        super().__init__(config, dim=dim, obs=obs)
        self.project = nn.Linear(1, dim)

    def check(self, raw, *, name):
        if raw.ndim != 2:
            raise wk.ShapeError(f"{name} must be [B, 1]")

    def forward(self, raw, mask, *, view):
        return Condition(token=self.project(raw)[:, None, None])


class Embeds(Mood):
    def forward(self, raw, mask, *, view):
        tokens = view.embed(view.encode(torch.zeros(len(raw), 1, 3, self.obs.height, self.obs.width)))
        return Condition(token=self.project(raw)[:, None, None] + tokens)


@pytest.mark.parametrize("conditioner, dynamics, message", [
    (Mood, Deaf, "condition 'mood' gave conditions per token .* which Deaf does not read: it takes no conditions"),
    (Embeds, Solo, "Solo embeds no goals. To send it goals, give it a method embed"),
])
def test_conditioners_that_do_not_say_what_they_give(use, conditioner, dynamics, message):
    registry.conditioners.register("test-mood", conditioner)
    config = use(dynamics, {"mood": {"name": "test-mood"}})
    model, video = build(config), torch.rand(2, config.clip_length, 3, 32, 32)
    conditions = {"mood": torch.ones(2, 1)}
    with pytest.raises(wk.IncompatibleComponentsError, match=message):
        model.loss(wk.Batch(video, conditions))
    with pytest.raises(wk.IncompatibleComponentsError, match=message):
        model.rollout(video[:, :2], 1, conditions=conditions)


@pytest.mark.parametrize("fault, message", [
    ({"gives": {"memory"}}, "gives: declares memory, but gave token"),
    ({"embeds": True}, "embeds: declared, but it never called view.embed"),
])
def test_conditioners_that_say_something_else(fault, message):
    raw = torch.ones(2, 1)
    check_conditioner(Mood, raw=raw)
    with pytest.raises(AssertionError, match=message):
        check_conditioner(type("Boasts", (Mood,), {**fault, "__module__": __name__}), raw=raw)
    with pytest.raises(AssertionError, match="embeds: it called view.embed"):
        check_conditioner(Embeds, raw=raw)


@pytest.mark.parametrize("cls, expected", [
    (Solo, {"frame", "token"}), (Deaf, set()), (Scholar, set(FORMS)), (NeedsFrames, {"frame"}),
    (Still, {"frame", "token"}), (Implicit, {"frame", "token"}),
])
def test_trying_out(cls, expected):
    part = built(cls, memory_length=2)
    before, state = {n: x.clone() for n, x in part.state_dict().items()}, torch.get_rng_state()
    assert tried(part) == expected
    assert all(torch.equal(x, before[n]) for n, x in part.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and part.training and part.takes is None


def built(cls, memory_length=0):
    from worldkit.testing import example_spec

    return cls(cls.Config(), spec=example_spec(), anchors={}, window=4, memory_length=memory_length)


def test_what_cannot_be_tried_is_not_refused(use):
    class Broken(Solo):
        def prior(self, z, cond):
            raise RuntimeError("needs a GPU")

    assert tried(built(Broken)) is None
    build(use(Broken, ACTION))
    with torch.device("meta"):
        assert tried(built(Deaf)) is None


@pytest.mark.parametrize("cls", [Solo, Declared, Embedding, Scholar, NeedsFrames, Still, Implicit])
def test_honest_dynamics_pass_the_check(cls):
    if cls is not Implicit:
        check_dynamics(cls)


class Crashes(Declared):
    takes = FORMS

    def prior(self, z, cond):
        return super().prior(z, replace(cond, frame=cond.frame + 0))


class ShyOfGoals(Solo):
    def embed(self, z):
        return self.embed_latent(z)[:, :, 0]


@pytest.mark.parametrize("fault, message", [
    (type("Boasts", (Solo,), {"takes": FORMS}), "takes names 'memory', but the answer does not depend on a condition"),
    (type("Modest", (Scholar,), {"takes": {"frame", "token"}}), "depends on a condition of the form 'memory', which"),
    (Crashes, r"with those that it takes \(token\): TypeError"),
    (ShyOfGoals, r"shapes: embed\(\), through which goals go, is \[2, 4, 8\], expected \[2, 4, 6, 8\]"),
])
def test_the_check_finds_what_is_not_so(fault, message):
    with pytest.raises(AssertionError, match=message):
        check_dynamics(fault)


def test_a_whole_model_with_a_goal(use):
    config = use(Embedding, GOAL | ACTION)
    check_model(config)
