"""Bad input is refused, and the message says what was given, what was expected and what to type next."""

from pathlib import Path

import pytest
import torch

import worldkit as wk
from worldkit.errors import (
    ConditionError,
    ConfigError,
    NoDecoderError,
    ShapeError,
    UnknownComponentError,
    WorldkitError,
)

CNN = {"base_channels": 4, "latent_channels": 4}
TINY = {
    "timestep_horizon": 3,
    "encoder": {"hidden_dim": 16, "proposal_cnn": CNN, "glimpse_cnn": CNN, "background_cnn": CNN},
    "decoder": {"hidden_dim": 16, "glimpse_cnn": CNN, "background_cnn": CNN},
    "dynamics": {"dim": 16, "num_layers": 1, "num_heads": 2},
    "latent_action": {"dim": 16, "num_layers": 1, "num_heads": 2},
}
CONDITIONERS = {
    "none": {},
    "action": {"action": {"name": "action", "dim": 2}},
    "maybe": {"action": {"name": "action", "dim": 2, "null_embedding": True}},
    "language": {"language": {"name": "language", "embed_dim": 8, "max_length": 4}},
    "goal": {"goal_image": {"name": "goal-image"}},
}


@pytest.fixture(scope="module")
def models():
    return {k: wk.create_model("lpwm-balls-mini", **TINY, conditioners=c) for k, c in CONDITIONERS.items()}


VIDEO = torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)  # a training clip
CONTEXT = VIDEO[:, :2]


def refuse(error, message, call):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value), str(caught.value)
    assert isinstance(caught.value, WorldkitError)


# -- names and options

@pytest.mark.parametrize("call, message", [
    (lambda: wk.create_model("lpwm-skechy"), "unknown model 'lpwm-skechy'. Did you mean 'lpwm-sketchy'?"),
    (lambda: wk.create_model("lpwm", encoder="partcle"), "unknown encoder 'partcle'. Did you mean 'particle'?"),
    (lambda: wk.create_model("lpwm", dynamics="pin"), "unknown dynamics 'pin'. Did you mean 'pint'?"),
    (lambda: wk.create_model("lpwm", latent_action="gausian"), "unknown latent action 'gausian'. Did you mean 'gaussi"),
    (lambda: wk.create_model("lpwm", objective={"name": "elbow"}), "unknown objective 'elbow'. Did you mean 'elbo'?"),
    (lambda: wk.create_model("lpwm", conditioners={"a": "actoin"}), "unknown conditioner 'actoin'. Did you mean"),
    (lambda: wk.get_model_spec("dlpv3-shape"), "Did you mean 'dlpv3-shapes'?"),
])
def test_unknown_names(call, message):
    refuse(UnknownComponentError, message, call)


@pytest.mark.parametrize("overrides, message", [
    ({"dynamics__num_layres": 4}, "dynamics: unknown option 'num_layres'. Did you mean 'num_layers'?"),
    ({"encoder": {"patchsize": 8}}, "encoder: unknown option 'patchsize'. Did you mean 'patch_size'?"),
    ({"timestep_horizn": 8}, "unknown option 'timestep_horizn'. Did you mean 'timestep_horizon'?"),
    ({"obs__heigth": 8}, "obs: unknown option 'heigth'. Did you mean 'height'?"),
    ({"encoder__glimpse_cnn__base_channels": 6}, "encoder.glimpse_cnn.base_channels: "),  # GroupNorm has 4 groups
    ({"conditioners": {"action": {"name": "action"}}}, "conditioner 'action': give either dim (numbers per continuous"),
])
def test_misspelt_and_missing_options(overrides, message):
    refuse(ConfigError, message, lambda: wk.create_model("lpwm-balls-mini", **overrides))


# -- sizes that cannot work together

@pytest.mark.parametrize("overrides, message", [
    ({"obs": {"height": 36, "width": 36}},
     "image size 36 x 36 does not divide by encoder.patch_size 8; patch sizes that do: 4, 6, 9, 12, 18, 36"),
    ({"obs__width": 64}, "a decoder that doubles the side 2 times needs 3 channel_multipliers, got [1, 2]"),
    ({"encoder__glimpse_cnn__channel_multipliers": [1, 1, 1, 1, 1]},
     "encoder.glimpse_cnn halves its input 4 times, which 8 pixels do not allow; use fewer channel_multipliers"),
    ({"encoder__proposal_cnn__channel_multipliers": [1, 1, 1, 1, 1]}, "encoder.proposal_cnn halves its input 4 times"),
    ({"encoder__glimpse_ratio": 0.3}, "encoder.glimpse_cnn halves its input 1 times, which 9 pixels do not allow"),
    ({"decoder__glimpse_map_size": 3},
     "decoder.glimpse_map_size 3 cannot grow to a glimpse of 8 pixels (glimpse_ratio 0.25 of 32) by doubling"),
    ({"decoder__glimpse_map_size": 16}, "decoder.glimpse_map_size 16 cannot grow to a glimpse of 8 pixels"),
    ({"encoder__glimpse_ratio": 1.5}, "encoder.glimpse_ratio: Input should be less than 1"),
])
def test_sizes(overrides, message):
    refuse(ConfigError, message, lambda: wk.create_model("lpwm-balls-mini", **overrides))


# -- video

VIDEOS = [
    (VIDEO[0], "video must have 5 axes [b t c=3 h=32 w=32], got 4: [4, 3, 32, 32]"),
    (VIDEO[:, :, :1], "axis c is 1, not 3"),
    (torch.zeros(1, 4, 3, 32, 48), "axis w is 48, not 32"),
    (VIDEO[:, None], "video must have 5 axes"),
    (VIDEO.float() + 255, "must lie in [0, 1], got values from 255 to 255; divide by 255, or pass uint8"),
    (VIDEO.float() - 1, "got values from -1 to -1"),
    (VIDEO.float() * float("nan"), "got values from nan to nan"),
    (VIDEO.long(), "must be uint8 in [0, 255] or float in [0, 1], got torch.int64"),
]


@pytest.mark.parametrize("video, message", VIDEOS, ids=[m[-30:] for _, m in VIDEOS])
def test_wrong_rank_size_and_range(models, video, message):
    model = models["none"]
    refuse(ShapeError, message, lambda: model.encode(video))
    refuse(ShapeError, message, lambda: model.loss(wk.Batch(video)))
    refuse(ShapeError, message, lambda: model.rollout(video, 1))


# -- what is no tensor, no batch, no latent

ARRAY = VIDEO.numpy()
NO_TENSORS = [
    (lambda m: m.encode(ARRAY), "video must be a tensor [b t c h w], got ndarray; torch.as_tensor(...) makes one"),
    (lambda m: m.encode(ARRAY.tolist()), "got list; torch.as_tensor(...)"),
    (lambda m: m.encode("film.mp4"), "video must be a tensor [b t c h w], got str"),
    (lambda m: m.rollout(ARRAY, 1), "video must be a tensor [b t c h w], got ndarray"),
    (lambda m: m.infer_latent_actions(ARRAY), "video must be a tensor [b t c h w], got ndarray"),
    (lambda m: m.loss(VIDEO), "loss takes a batch, worldkit.Batch(video, conditions=...), got Tensor"),
    (lambda m: m.loss({"video": VIDEO}), "loss takes a batch, worldkit.Batch(video, conditions=...), got dict"),
    (lambda m: wk.Batch(ARRAY), "video must be a tensor [b t c h w], got ndarray"),
    (lambda m: wk.Batch("x"), "video must be a tensor [b t c h w], got str"),
    (lambda m: wk.Batch(VIDEO, done_mask=[1]), "done_mask must be a tensor [b t], got list"),
    (lambda m: wk.Batch(VIDEO, torch.zeros(1)), 'conditions must be a table, conditions={"action": ...}, got Tensor'),
    (lambda m: m.rollout(VIDEO, 1, conditions=torch.zeros(1, 5, 2)), "conditions must be a table"),
    (lambda m: m.rollout(VIDEO, 1, masks=[True]), "masks must be a table"),
    (lambda m: m.infer_latent_actions(VIDEO, conditions=torch.zeros(2)), "conditions must be a table"),
    (lambda m: m.rollout(VIDEO, "3"), "horizon must be at least 1, got '3'"),
    (lambda m: m.rollout(VIDEO, 2.5), "horizon must be at least 1, got 2.5"),
    (lambda m: m.rollout(CONTEXT, 1, latent_actions=[0]), "latent_actions must be a tensor [b=1 t=2 n a], got list"),
    (lambda m: m.decode(VIDEO), "decode takes a latent, as encode(video) gives it, got Tensor"),
]


@pytest.mark.parametrize("call, message", NO_TENSORS)
def test_other_things_than_tensors_batches_and_latents(models, call, message):
    refuse(ShapeError, message, lambda: call(models["none"]))


@pytest.mark.parametrize("which, axes", [("action", "[b t a=2]"), ("language", "[b l=4 e=8]"),
                                         ("goal", "[b c=3 h=32 w=32]")])
def test_conditions_that_are_arrays(models, which, axes):
    model, (field,) = models[which], CONDITIONERS[which]
    given = {field: torch.zeros(1, 4, 2).numpy()}
    message = f"condition '{field}' must be a tensor {axes}, got ndarray; torch.as_tensor(...) makes one of it"
    refuse(ShapeError, message, lambda: model.loss(wk.Batch(VIDEO, given)))
    refuse(ShapeError, message, lambda: model.rollout(CONTEXT, 1, conditions=given))


def test_lists_of_numbers_are_no_instructions(models):
    refuse(WorldkitError, "condition 'language'", lambda: models["language"].loss(wk.Batch(VIDEO, {"language": [1.0]})))


def test_tokens_may_be_one_number(models):
    z = models["none"].encode(CONTEXT)
    assert torch.equal(z.edit(3, scale=0.5).scale, z.edit([3], scale=0.5).scale)
    refuse(WorldkitError, "", lambda: z.edit("3", scale=0.5))
    refuse(WorldkitError, "", lambda: z.edit(1.5, scale=0.5))


@pytest.mark.parametrize("call, message", [
    (lambda: wk.create_model(3), "a model is named by a text, for example 'lpwm-sketchy', not by int 3"),
    (lambda: wk.create_model(["lpwm"]), "a model is named by a text, for example 'lpwm-sketchy', not by list ['lpwm']"),
    (lambda: wk.create_config(3), "a model is named by a text"),
    (lambda: wk.get_model_spec([3]), "a model is named by a text"),
    (lambda: wk.create_model(config={"obs": {}}), "config must be a WorldModelConfig"),
    (lambda: wk.create_model(Path("runs/x")), "write 'dir:runs/x'"),
])
def test_names_that_are_no_texts(call, message):
    refuse(ConfigError, message, call)


# -- conditions

LANGUAGE, GOAL = torch.zeros(1, 4, 8), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)


@pytest.mark.parametrize("which, value, message", [
    ("action", torch.zeros(1, 4, 3), "condition 'action' must be [b t a=2], got [1, 4, 3]: axis a is 3, not 2"),
    ("action", torch.zeros(4, 2), "condition 'action' must have 3 axes [b t a=2], got 2: [4, 2]"),
    ("language", torch.zeros(1, 5, 8), "condition 'language' must be [b l=4 e=8], got [1, 5, 8]: axis l is 5, not 4"),
    ("language", torch.zeros(1, 4, 9), "axis e is 9, not 8"),
    ("goal", GOAL[:, :, :16], "condition 'goal_image' must be [b c=3 h=32 w=32], got [1, 3, 16, 32]: axis h is 16"),
    ("goal", GOAL[:, None], "condition 'goal_image' must have 4 axes"),
    ("goal", GOAL.float() + 9, "must lie in [0, 1], got values from 9 to 9"),
])
def test_conditions_of_the_wrong_shape(models, which, value, message):
    model, (field,) = models[which], CONDITIONERS[which]
    refuse(ShapeError, message, lambda: model.loss(wk.Batch(VIDEO, {field: value})))
    refuse(ShapeError, message, lambda: model.rollout(CONTEXT, 2, conditions={field: value}))


@pytest.mark.parametrize("which", ["action", "language", "goal"])
def test_missing_condition(models, which):
    model, (field,) = models[which], CONDITIONERS[which]
    message = (
        f"this model needs the condition '{field}' ({model.config.conditioners[field].name}): pass "
        f'Batch(video, conditions={{"{field}": ...}}) or rollout(..., conditions={{"{field}": ...}})'
    )
    refuse(ConditionError, message, lambda: model.loss(wk.Batch(VIDEO)))
    refuse(ConditionError, message, lambda: model.rollout(CONTEXT, 2))
    refuse(ConditionError, message, lambda: model.infer_latent_actions(VIDEO))


def test_actions_that_end_too_early(models):
    actions = {"action": torch.zeros(1, 5, 2)}
    refuse(ConditionError, "condition 'action' covers 5 frames, but 6 are needed (context and horizon)",
           lambda: models["action"].rollout(CONTEXT, 4, conditions=actions))
    refuse(ConditionError, "condition 'action' covers 3 frames, but 4 are needed",
           lambda: models["action"].loss(wk.Batch(VIDEO, {"action": torch.zeros(1, 3, 2)})))


def test_condition_the_model_does_not_take(models):
    refuse(ConditionError, "this model takes no condition 'action'; it takes: none. Add one when creating it: "
           'create_model(..., conditioners={"action": ...})',
           lambda: models["none"].rollout(CONTEXT, 1, conditions={"action": torch.zeros(1, 3, 2)}))
    refuse(ConditionError, "this model takes no condition 'gaol_image'; it takes: goal_image",
           lambda: models["goal"].rollout(CONTEXT, 1, conditions={"gaol_image": GOAL}))
    refuse(ConditionError, "this model takes no mask 'language'; it takes: action",
           lambda: models["maybe"].rollout(CONTEXT, 1, conditions={"action": torch.zeros(1, 3, 2)},
                                           masks={"language": torch.ones(1, 3)}))


def test_mask_without_a_stand_in(models):
    conditions, masks = {"action": torch.zeros(1, 4, 2)}, {"action": torch.ones(1, 4, dtype=torch.bool)}
    message = ("condition 'action' was given a mask, but its conditioner has no stand-in for absent values; create the "
               'model with conditioners={"action": {"null_embedding": True}}')
    refuse(ConditionError, message, lambda: models["action"].loss(wk.Batch(VIDEO, conditions, masks)))
    refuse(ConditionError, message, lambda: models["action"].rollout(CONTEXT, 2, conditions=conditions, masks=masks))
    assert torch.isfinite(models["maybe"].loss(wk.Batch(VIDEO, conditions, masks)).total)


# -- rollouts and decoding

@pytest.mark.parametrize("horizon", [0, -3])
def test_horizon(models, horizon):
    refuse(ShapeError, f"horizon must be at least 1, got {horizon}", lambda: models["none"].rollout(CONTEXT, horizon))


def test_latent_actions_of_the_wrong_length(models):
    model = models["none"]
    actions = model.rollout(CONTEXT, 2, decode=False).latent_actions
    refuse(ShapeError, "latent_actions must be [b=1 t=4 n a], got [1, 3, 17, 5]: axis t is 3, not 4",
           lambda: model.rollout(CONTEXT, 3, latent_actions=actions))


def test_window(models):
    refuse(WorldkitError, "window must be 'exact' or 'streaming', got 'fast'",
           lambda: models["none"].rollout(CONTEXT, 1, window="fast"))


def test_models_without_the_part_that_is_asked_for():
    image = wk.create_model("lpwm-balls-mini", **TINY | {"dynamics": None, "latent_action": None})
    refuse(WorldkitError, "this model has no dynamics and predicts nothing", lambda: image.rollout(CONTEXT, 1))
    plain = wk.create_model("lpwm-balls-mini", **TINY | {"latent_action": None})
    refuse(WorldkitError, "infer_latent_actions needs latent actions",
           lambda: plain.infer_latent_actions(VIDEO))
    refuse(WorldkitError, "latent_actions=... needs latent actions",
           lambda: plain.rollout(CONTEXT, 1, latent_actions=torch.zeros(1, 2, 17, 5)))
    latent = plain.encode(CONTEXT)
    plain.decoder = None
    refuse(NoDecoderError, "has no decoder and cannot draw", lambda: plain.decode(latent))
