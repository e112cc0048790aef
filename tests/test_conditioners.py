"""Actions of both kinds, masks, and the dropout of whole conditions."""

import numpy as np
import pytest
import torch

from worldkit import registry
from worldkit.assembly import build
from worldkit.conditioners import ModelView
from worldkit.conditioners.transition_action import TransitionActionConditioner, TransitionActionConfig
from worldkit.config import ObsSpec
from worldkit.distributions import MEANS, Sampler
from worldkit.errors import ConditionError, ConfigError, ShapeError
from worldkit.testing import check_conditioner, check_model, example_batch, example_condition
from worldkit.testing.examples import changed, small_config

OBS, TWO_VIEWS = ObsSpec(height=32, width=32), ObsSpec(height=32, width=32, views=2)
VIEW = ModelView(encode=lambda video: video, embed=lambda video: video[:, :, :, 0, :6], spread=lambda x: x)
CONTINUOUS, DISCRETE = {"name": "action", "dim": 3}, {"name": "action", "num_actions": 4}
LANGUAGE, GOAL = {"name": "language", "embed_dim": 5, "max_length": 2}, {"name": "goal-image"}
ABSENT = {
    which: {**options, "null_embedding": True}
    for which, options in {"action": CONTINUOUS, "choice": DISCRETE, "language": LANGUAGE, "goal": GOAL}.items()
}
MASKS = {"action": [(2,), (2, 4)], "choice": [(2,), (2, 4)], "language": [(2,), (2, 2)], "goal": [(2,)]}


def make(options, obs=OBS):
    torch.manual_seed(0)
    cls = registry.conditioners.get(options["name"])
    return cls(cls.Config.parse(options), dim=6, obs=obs)


def values(condition):
    return next(x for x in (condition.frame, condition.token, condition.memory) if x is not None)


def refuse(error, message, call):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value), str(caught.value)


# -- conformance

@pytest.mark.parametrize("which", ABSENT)
def test_conditioners(which):
    options = ABSENT[which]
    more = {"dim": None} if which == "choice" else {}
    check_conditioner(**{"conditioner": options["name"], **more, **{k: v for k, v in options.items() if k != "name"}},
                      dropout=0.5)


def test_conditioners_of_other_forms():
    check_conditioner("action", dim=None, num_actions=4)
    check_conditioner("goal-image", obs=TWO_VIEWS, null_embedding=True)


@pytest.mark.parametrize("conditioners", [
    {"action": DISCRETE},
    {"action": ABSENT["choice"], "language": ABSENT["language"], "goal_image": ABSENT["goal"]},
    {"action": ABSENT["action"] | {"to": "dynamics", "dropout": 0.5}, "language": ABSENT["language"] | {"to": "both"}},
], ids=["choice", "all with stand-ins", "both receivers"])
def test_models(conditioners):
    check_model(small_config(conditioners=conditioners))


# -- discrete actions

def test_actions_are_continuous_or_discrete():
    config = registry.conditioners.get("action").Config
    with pytest.raises(ConfigError, match=r"give either dim \(.*\) or num_actions \(.*both were, 3 and 4"):
        config.parse({"name": "action", "dim": 3, "num_actions": 4})
    with pytest.raises(ConfigError, match=r"give either dim \(.*\) or num_actions \(.*neither was given \(training"):
        make({"name": "action"})


@pytest.mark.parametrize(("given", "episodes", "found"), [
    ({}, [np.zeros((5, 7), np.float32)], {"dim": 7}),
    ({}, [np.array([0, 2]), np.array([5, 1])], {"num_actions": 6}),
    ({"dim": 3}, [np.zeros((5, 7), np.float32)], {"dim": 3}),
    ({"num_actions": 9, "null_embedding": True}, [np.array([0, 2])], {"num_actions": 9, "null_embedding": True}),
])
def test_the_data_tell_what_actions_are(given, episodes, found):
    config = registry.conditioners.get("action").Config.parse({"name": "action", "from": "state.x", **given})
    done = config.complete(iter(episodes))
    assert done.to_dict().items() >= (found | {"from": "state.x"}).items() and done.column == "state.x"


def test_from_names_a_column():
    config = small_config(conditioners={"proprio": {"name": "action", "dim": 4, "from": "state"}})
    assert config.columns == {"proprio": "state"}
    assert config.to_dict()["conditioners"]["proprio"]["from"] == "state"
    assert type(config).parse(config.to_dict()) == config
    assert config.replace("conditioners.proprio.from", "pose").columns == {"proprio": "pose"}
    with pytest.raises(ConfigError, match=r"unknown option 'form'. Did you mean 'from'"):
        config.replace("conditioners.proprio.form", "pose")


def test_a_choice_is_a_row_of_the_table():
    module, ids = make(DISCRETE), torch.tensor([[0, 3, 3], [1, 0, 2]])
    out = module(ids, None, view=VIEW).frame
    assert out.shape == (2, 3, 6) and module.project[0].weight.shape == (4, 6)
    assert torch.equal(out[0, 1], out[0, 2]) and torch.equal(out[0, 0], out[1, 1])
    assert not torch.allclose(out[0, 0], out[0, 1])
    assert torch.equal(module(ids.to(torch.uint8), None, view=VIEW).frame, out)


def test_choices_per_view():
    module = make(DISCRETE, obs=TWO_VIEWS)
    ids = torch.zeros(1, 3, 5, dtype=torch.long)
    module.check(ids[:, :2], name="action")
    module.check(ids[:, 0], name="action")
    refuse(ShapeError, "axis v is 3, not 2", lambda: module.check(ids, name="action"))
    model = build(small_config(**{"obs.views": 2}, conditioners={"action": DISCRETE}))
    video, same = torch.rand(2, 2, 2, 3, 32, 32), torch.randint(4, (2, 1, 4))
    out = model.eval().rollout(video, 2, conditions={"action": same.expand(2, 2, 4)}, deterministic=True)
    assert out.video.shape == (2, 2, 2, 3, 32, 32)


@pytest.mark.parametrize(("raw", "message"), [
    (torch.zeros(2, 5), "must hold action numbers [B, T] of dtype int64, got torch.float32 [2, 5]; convert them"),
    (torch.zeros(2, 5, dtype=torch.bool), "of dtype int64, got torch.bool"),
    (torch.tensor([[0, 4]]), "must hold action numbers from 0 to 3, got 0 to 4; number the actions from 0, or create"),
    (torch.tensor([[-1, 2]]), "must hold action numbers from 0 to 3, got -1 to 2"),
    (torch.zeros(2, 5, 1, dtype=torch.long), "must have 2 axes [b t], got 3"),
    ([[0, 1]], "must be a tensor [b t], got list"),
    (torch.full((2, 5, 4), 0.5), "one-hot floats [B, T, 4]: shares of the choices, which add up to 1; got"),
    (torch.zeros(2, 5, 3), "must be [b t a=4]"),
])
def test_wrong_choices(raw, message):
    refuse(ShapeError, message, lambda: make(DISCRETE).check(raw, name="action"))


@pytest.mark.parametrize(("raw", "message"), [
    (torch.zeros(2, 5, dtype=torch.long), "must hold float vectors [B, T, 3], got torch.int64 [2, 5]; convert them "
     "with .float(), or create the model with num_actions=..."),
    (torch.zeros(2, 5, 2), "axis a is 2, not 3"),
])
def test_wrong_continuous_actions(raw, message):
    refuse(ShapeError, message, lambda: make(CONTINUOUS).check(raw, name="action"))


def test_choices_must_cover_the_prediction():
    model = build(small_config(conditioners={"action": DISCRETE}))
    ids = torch.zeros(1, 4, dtype=torch.long)
    refuse(ConditionError, "condition 'action' covers 4 frames, but 5 are needed",
           lambda: model.rollout(torch.zeros(1, 2, 3, 32, 32), 3, conditions={"action": ids}))


# -- masks

CASES = [(which, shape) for which, shapes in MASKS.items() for shape in shapes]


@pytest.mark.parametrize(("which", "shape"), CASES)
def test_nothing_behind_a_mask_is_seen(which, shape):
    """Neither by the condition nor by the gradient, and what stands there is the same for all."""
    module = make(ABSENT[which])
    raw = example_condition(module.config, OBS, 4)
    mask = torch.ones(shape, dtype=torch.bool)
    mask[1] = False
    module.check_mask(mask, raw, name=which)
    poisoned = raw.clone()
    poisoned[1] = float("nan") if which in ("action", "language") else changed(raw, 1)[1]
    outs, grads = [], []
    for x in (raw, poisoned):
        module.zero_grad()
        out = values(module(x, mask, view=VIEW))
        out.square().sum().backward()
        outs.append(out.detach())
        grads.append([p.grad.clone() for p in module.parameters()])
    assert torch.equal(*outs) and all(map(torch.equal, *grads))
    given = values(module(raw, None, view=VIEW))
    assert torch.equal(outs[0][0], given[0]) and not torch.allclose(outs[0][1], given[1])
    rows = outs[0][1].flatten(0, -2)
    assert torch.equal(rows, rows[:1].expand_as(rows))
    everything = torch.ones(shape, dtype=torch.bool)
    assert torch.equal(values(module(raw, everything, view=VIEW)), given)


def test_part_of_a_sentence_and_of_a_clip():
    module = make(ABSENT["language"])
    raw, mask = torch.randn(2, 2, 5), torch.tensor([[True, False], [True, True]])
    out, given = (module(raw, m, view=VIEW).memory for m in (mask, None))
    assert torch.equal(out[0, 0], given[0, 0]) and torch.equal(out[1], given[1])
    assert torch.equal(out[0, 1], module.project(module.null) + module.kind)


@pytest.mark.parametrize(("which", "mask", "message"), [
    ("action", torch.ones(2, 4), "the mask of condition 'x' must be a bool tensor (True = given), got torch.float32"),
    ("action", torch.ones(2, 3, dtype=torch.bool), "must be [2] or [2, 4], got [2, 3]"),
    ("choice", torch.ones(2, 4, 1, dtype=torch.bool), "must be [2] or [2, 4], got [2, 4, 1]"),
    ("language", torch.ones(2, 3, dtype=torch.bool), "must be [2] or [2, 2], got [2, 3]"),
    ("goal", torch.ones(2, 4, dtype=torch.bool), "must be [2], got [2, 4]"),
    ("goal", [True, False], "must be a bool tensor (True = given), got list"),
])
def test_wrong_masks(which, mask, message):
    module = make(ABSENT[which])
    raw = example_condition(module.config, OBS, 4)
    refuse(ShapeError, message, lambda: module.check_mask(mask, raw, name="x"))


def test_a_hidden_goal_changes_no_prediction():
    model = build(small_config(conditioners={"goal_image": ABSENT["goal"]})).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    video, goals = torch.rand(2, 2, 3, 32, 32), torch.rand(2, 2, 3, 32, 32)

    def predict(goal, mask=None):
        masks = {} if mask is None else {"goal_image": mask}
        return model.rollout(video, 2, conditions={"goal_image": goal}, masks=masks, deterministic=True).video

    mask = torch.tensor([True, False])
    assert torch.equal(predict(goals[0], mask)[1], predict(goals[1], mask)[1])
    assert not torch.allclose(predict(goals[0], mask)[0], predict(goals[1], mask)[0])
    assert torch.equal(predict(goals[0], mask)[0], predict(goals[0])[0])
    refuse(ShapeError, "the mask of condition 'goal_image' must be [2], got [3]",
           lambda: predict(goals[0], torch.ones(3, dtype=torch.bool)))


@pytest.mark.parametrize("which", ["language", "goal"])
def test_masks_need_a_stand_in(which):
    options = {"language": LANGUAGE, "goal": GOAL}[which]
    model = build(small_config(conditioners={"x": options}))
    batch = example_batch(model.config)
    masks = {"x": torch.ones(2, dtype=torch.bool)}
    refuse(ConditionError, "condition 'x' was given a mask, but its conditioner has no stand-in for absent values; "
           'create the model with conditioners={"x": {"null_embedding": True}}',
           lambda: model.rollout(batch.video, 1, conditions=batch.conditions, masks=masks))


# -- dropout

class Recorder(Sampler):
    """Remembers what was drawn."""

    def __init__(self, seed=0):
        super().__init__(generator=torch.Generator().manual_seed(seed))
        self.names = []

    def uniform(self, name, like):
        self.names.append(name)
        return super().uniform(name, like)


@pytest.mark.parametrize("which", ["action", "language", "goal"])
def test_dropout_needs_a_stand_in(which):
    options = {"action": CONTINUOUS, "language": LANGUAGE, "goal": GOAL}[which]
    config = registry.conditioners.get(options["name"]).Config
    refuse(ConfigError, "dropout hides conditions behind a null embedding; set null_embedding=True",
           lambda: config.parse({**options, "dropout": 0.1}))
    refuse(ConfigError, "dropout: Input should be less than 1", lambda: config.parse({**ABSENT[which], "dropout": 1.0}))
    assert config.parse({**ABSENT[which], "dropout": 0.1}).dropout == 0.1


@pytest.mark.parametrize("which", ABSENT)
def test_dropout_hides_whole_clips_in_training_only(which):
    module = make({**ABSENT[which], "dropout": 0.25})
    raw = example_condition(module.config, OBS, 4, batch=2000 if which != "goal" else 500)
    mask = module.hide_clips(raw, None, Recorder(), name=which)
    hidden = 1 - mask.float().mean().item()
    assert mask.shape == (len(raw),)
    assert abs(hidden - 0.25) < 4 * (0.25 * 0.75 / len(raw)) ** 0.5  # four standard errors
    assert module.hide_clips(raw, None, MEANS, name=which) is None
    assert module.eval().hide_clips(raw, None, Recorder(), name=which) is None


def test_dropout_joins_a_mask():
    module, raw = make({**ABSENT["action"], "dropout": 0.5}), torch.randn(8, 4, 3)
    mask = torch.rand(8, 4) < 0.5
    keep = module.hide_clips(raw, None, Recorder(), name="action")
    both = module.hide_clips(raw, mask, Recorder(), name="action")
    assert 0 < keep.sum() < 8 and torch.equal(both, mask & keep[:, None])


def test_dropout_in_a_model():
    options = {"to": "both", "dropout": 0.5}
    model = build(small_config(conditioners={"action": ABSENT["action"] | options, "goal_image": ABSENT["goal"]}))
    batch, sampler = example_batch(model.config, batch=8), Recorder()
    frames = batch.video.shape[1]
    plain = model.eval()._gather_conditions(batch.conditions, {}, frames, Recorder())["dynamics"].frame
    total = model.train()._gather_conditions(batch.conditions, {}, frames, sampler)
    assert sampler.names == ["conditioners.action.dropout"]  # one draw for both receivers, none for the goal
    dropped, null = total["dynamics"].frame, model.conditioners["action"].project(model.conditioners["action"].null)
    assert torch.equal(dropped, total["latent_action"].frame)
    kept = (dropped == plain).flatten(1).all(1)
    assert 0 < kept.sum() < 8 and torch.allclose(dropped[~kept], null.expand_as(dropped[~kept]), atol=1e-6)
    rolls = [model.rollout(batch.video[:, :2], 2, conditions=batch.conditions, deterministic=True) for _ in range(2)]
    assert torch.equal(rolls[0].video, rolls[1].video)  # a prediction hides nothing, also of a model in training mode


# -- actions as Dreamer tells them


def transition(**options):
    torch.manual_seed(0)
    config = TransitionActionConfig(**options)
    return TransitionActionConditioner(config, dim=5, obs=ObsSpec(height=8, width=8))


def test_an_absent_transition_is_an_action_of_zeros():
    """Also of choices, whose first one is something else; nothing hidden gets through."""
    for options, raw in ({"num_actions": 4}, torch.tensor([[0, 2]])), ({"dim": 2}, torch.full((1, 2, 2), torch.nan)):
        told = transition(**options)
        torch.nn.init.normal_(told.linear.bias)
        hidden = told(raw, torch.tensor([[False, False]]), view=None).frame
        wanted = told.activation(told.norm(told.linear.bias))
        torch.testing.assert_close(hidden, wanted.expand(1, 2, 5))
    assert not torch.allclose(told(torch.zeros(1, 1, 2), None, view=None).frame,
                              told(torch.ones(1, 1, 2), None, view=None).frame)


def test_actions_beyond_one_are_brought_back_without_gradient():
    told = transition(dim=2, norm="none", activation="none", bias=False)
    x = torch.tensor([[[3.0, -0.5]]], requires_grad=True)
    out = told(x, None, view=None).frame
    torch.testing.assert_close(out, told(torch.tensor([[[1.0, -0.5]]]), None, view=None).frame)
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad[0, 0], told.linear.weight.sum(0) / torch.tensor([3.0, 1.0]))
    free = transition(dim=2, norm="none", activation="none", bias=False, bound=False)
    torch.testing.assert_close(free(2 * x, None, view=None).frame, 2 * free(x, None, view=None).frame)


def test_choices_may_come_as_numbers_with_gradients():
    told = transition(num_actions=3)
    soft = torch.nn.functional.one_hot(torch.tensor([[2, 0]]), 3).float().requires_grad_()
    out = told(soft, None, view=None).frame
    torch.testing.assert_close(out, told(torch.tensor([[2, 0]]), None, view=None).frame)
    assert torch.autograd.grad(out.square().sum(), soft)[0].abs().sum() > 0
