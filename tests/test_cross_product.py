"""Every encoder x dynamics x condition builds and works, or refuses at build time naming the parts that would fit.

The lists come from the registry: registering a component is writing its tests here.
"""

import json
from itertools import combinations

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.compat import import_transformers
from worldkit.config import WorldModelConfig
from worldkit.errors import IncompatibleComponentsError
from worldkit.testing import check_model
from worldkit.testing.examples import SMALL, small_config

LANGUAGE = {"name": "language", **SMALL["conditioner"]["language"]}
ACTION = {"name": "action", **SMALL["conditioner"]["action"]}
CONDITIONS = {
    "no condition": {},
    "action": {"action": ACTION},
    "language": {"language": LANGUAGE},
    "goal image": {"goal_image": {"name": "goal-image"}},
    "action and language": {"action": ACTION, "language": LANGUAGE},
}


@pytest.fixture(scope="session")
def encoder_options(tmp_path_factory):
    """Options an encoder cannot do without: the pretrained one needs a model, here a tiny random one."""
    folder = tmp_path_factory.mktemp("dinov2")

    def options(name):
        if name != "pretrained":
            return {}
        if not any(folder.iterdir()):
            pytest.importorskip("transformers")
            transformers = import_transformers("vision", "the test")
            torch.manual_seed(0)
            transformers.Dinov2Model(transformers.Dinov2Config(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32,
                patch_size=8,
            )).save_pretrained(folder)
        return {"model": str(folder)}

    return options


def compose(encoder, dynamics, conditions, options, latent_action=None):
    return small_config(encoder={"name": encoder, **options(encoder)}, dynamics=dynamics, conditioners=conditions,
                        latent_action=latent_action)


CODES = ("space-time-vq", "vq")
"""Encoders of codes. They go with dynamics of codes, and those with nothing else."""
READS_CODES = [name for name in wk.list_dynamics() if "codes" in wk.registry.dynamics.get(name).requires]
ALL = [name for name in wk.list_dynamics()
       if not wk.registry.dynamics.get(name).filtering and name not in READS_CODES]
"""Dynamics that do not filter and read numbers: the others go with fewer parts."""
ENCODERS = [name for name in wk.list_encoders() if name == "pretrained"
            or "model" not in wk.registry.encoders.get(name).Config.model_fields]
"""All but those of single papers, which are frozen features as encoder `pretrained` gives them."""
NUMBERS = [name for name in ENCODERS if name not in CODES]
FILTERING = [name for name in wk.list_dynamics() if wk.registry.dynamics.get(name).filtering]
WHOLE = {"conv": ("action", "goal image"), "multi": ("action",), "mlp": ("no condition",), "vit": ("no condition",),
         "simnorm": ("no condition",), "simnorm-conv": ("no condition",), "identity": ("action",),
         "vit-cls": ("no condition",), "jepa-vit": ("no condition",), "conv-vae": ("no condition",),
         "impala": ("no condition",), "menet": ("no condition",),
         "with-vectors": ("no condition",), "adapted": ("no condition",), "fsq": ("no condition",)}
"""Encoders that give one token for a whole frame, or its pixels: for other parts they are alike, so part of the product
will do."""
NARROW = ("multi", "mlp", "simnorm", "simnorm-conv", "vit-cls", "jepa-vit", "conv-vae", "with-vectors", "adapted",
          "fsq", "impala", "menet")
"""Those of them that are put together with one dynamics alone."""


HAVE = {"grid": ("fsq", "identity", "patch", "pretrained"), "normal": ("conv-vae", "patch")}
"""Property of latents -> encoders that have it, where not all have."""
TOLD_FRAMES = ("adaln-causal", "vjepa2-ac", "causal-patches", "causal-dit")
"""Dynamics to which a latent action is as an action, or that read no conditions of tokens."""
ON_GRIDS = ("flam", *TOLD_FRAMES[1:])
"""Dynamics whose grids are alike whatever encoder they come from."""
NO_GOALS = ("flam", "latent-mlp", "state-gru", "unet-diffusion", "causal-dit")
"""Dynamics that embed no goals."""


def fits(encoder, dynamics):
    """Whether a dynamics can do with an encoder's latents."""
    return all(encoder in HAVE[p] for p in wk.registry.dynamics.get(dynamics).requires if p in HAVE)


def some_of_the_whole():
    """Encoder, dynamics and condition."""
    return [(encoder, dynamics, condition) for encoder in NUMBERS for dynamics in ALL
            for condition in WHOLE.get(encoder, CONDITIONS) if encoder not in NARROW or dynamics == "gru"
            if fits(encoder, dynamics) and (encoder, dynamics) != ("pretrained", "unet-diffusion")  # as with "patch"
            if dynamics not in NO_GOALS or condition in ("no condition", "action and language")
            or encoder == "identity"
            if dynamics != "adaln-causal" or (condition == "action and language" and encoder in ("particle", "patch"))
            if dynamics != "factored" or (condition == "action" and encoder in ("particle", "slot"))
            if dynamics not in ON_GRIDS or (condition == "action" and encoder == "patch")]


def covering(rows, size):
    """The rows as parameters, in their order; all are slow but some that together hold every choice of ``size`` values.

    With two of three, every two parts meet; most of the product's time went into the same pairs again.
    """
    def choices(row):
        return set(combinations(enumerate(row), size))

    missing, chosen = set().union(*map(choices, rows)), []
    while missing:
        chosen.append(max(rows, key=lambda row: len(choices(row) & missing)))
        missing -= choices(chosen[-1])
    return [pytest.param(*row, marks=() if row in chosen else pytest.mark.slow) for row in rows]


@pytest.mark.parametrize("dynamics", [d for d in (*ALL, *FILTERING) if not fits("particle", d)])
def test_a_dynamics_that_needs_another_latent_is_refused(dynamics, encoder_options):
    with pytest.raises(IncompatibleComponentsError, match=f"dynamics '{dynamics}' needs .* encoder 'particle' gives "
                                                          ".*Dynamics that fit: "):
        build(compose("particle", dynamics, {}, encoder_options))


@pytest.mark.parametrize("encoder, dynamics, condition", covering(some_of_the_whole(), 2))
def test_composition(encoder, dynamics, condition, encoder_options):
    check_model(compose(encoder, dynamics, CONDITIONS[condition], encoder_options))


@pytest.mark.parametrize("condition", ["no condition", "action"])
@pytest.mark.parametrize("dynamics", READS_CODES)
@pytest.mark.parametrize("encoder", CODES)
def test_codes(encoder, dynamics, condition, encoder_options):
    check_model(compose(encoder, dynamics, CONDITIONS[condition], encoder_options))


@pytest.mark.parametrize("encoder, dynamics", [
    *((e, d) for e in CODES for d in wk.list_dynamics() if d not in READS_CODES),
    *((e, d) for e in NUMBERS if e not in NARROW for d in READS_CODES),
])
def test_codes_and_numbers_are_told_apart(encoder, dynamics, encoder_options):
    with pytest.raises(IncompatibleComponentsError, match=f"dynamics '{dynamics}' needs .*encoder '{encoder}'") as told:
        build(compose(encoder, dynamics, {}, encoder_options))
    fits = str(told.value).split("Dynamics that fit: ")[1].split(", ")
    assert (READS_CODES[0] in fits) == (encoder in CODES) and dynamics not in fits


def test_latent_actions_that_add_values_up_refuse_codes(encoder_options):
    with pytest.raises(IncompatibleComponentsError, match="latent action 'gaussian' needs numbers .*codes"):
        build(compose("vq", "token-transformer", {}, encoder_options, "gaussian"))


@pytest.mark.parametrize("encoder, dynamics", covering([(e, d) for e in NUMBERS for d in ALL
                                                        if e not in NARROW and fits(e, d)
                                                        and d not in TOLD_FRAMES], 1))
def test_latent_actions_work_with_every_encoder_and_dynamics(encoder, dynamics, encoder_options):
    check_model(compose(encoder, dynamics, {}, encoder_options, "gaussian"))


@pytest.mark.parametrize("encoder, dynamics", [("patch", "pint"), ("space-time-vq", "maskgit")])
def test_latent_actions_that_read_video_know_no_encoder(encoder, dynamics):
    check_model(small_config(encoder=encoder, dynamics=dynamics, latent_action="vq", objective="two-stage"))
    message = "objectives that have them: inverse-forward, latent-action, two-stage"
    with pytest.raises(IncompatibleComponentsError, match=message):
        build(small_config(encoder=encoder, dynamics=dynamics, latent_action="vq"))


@pytest.mark.parametrize("encoder, dynamics", [(e, d) for e in NUMBERS for d in FILTERING if fits(e, d)
                                               and e != "identity"])  # refused: test_identity.py
def test_dynamics_that_filter_go_with_every_encoder(encoder, dynamics, encoder_options):
    told = {"action": {"name": "transition-action", "dim": 3}}
    check_model(compose(encoder, dynamics, told, encoder_options))


@pytest.mark.parametrize("dynamics", FILTERING)
@pytest.mark.parametrize("condition", ["goal image", "language"])
def test_dynamics_that_filter_say_what_they_are_not_told(condition, dynamics, encoder_options):
    with pytest.raises(IncompatibleComponentsError, match=condition.replace(" ", "_")):
        build(compose("patch", dynamics, CONDITIONS[condition], encoder_options))
    with pytest.raises(IncompatibleComponentsError, match="filters.*latent_action=none"):
        build(compose("patch", dynamics, {}, encoder_options, "gaussian"))


@pytest.mark.parametrize("dynamics", [d for d in ALL if fits("slot", d)])
def test_slots_without_identity(dynamics, encoder_options):
    config = small_config(encoder={"name": "slot", "recurrent": False}, dynamics=dynamics, latent_action=None)
    if "tracked" not in wk.registry.dynamics.get(dynamics).requires:
        return check_model(config)
    with pytest.raises(IncompatibleComponentsError) as refused:
        build(config)
    message = str(refused.value)
    assert f"dynamics '{dynamics}' needs tokens that keep their identity over time, but encoder 'slot'" in message
    fits = message.split("Dynamics that fit: ")[1]
    assert "slotformer" in fits and dynamics not in fits.split(", ")


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_decoder_for_something_else_is_refused(encoder, encoder_options):
    other = "slot" if encoder != "slot" else "particle"
    with pytest.raises(IncompatibleComponentsError, match=f"decoder '{other}' draws .*Decoders that fit: "):
        build(small_config(encoder={"name": encoder, **encoder_options(encoder)}, decoder=other))


@pytest.mark.parametrize("dynamics", wk.list_dynamics())
@pytest.mark.parametrize("encoder", ENCODERS)
def test_configs_survive_json(encoder, dynamics, encoder_options):
    config = compose(encoder, dynamics, CONDITIONS["action and language"], encoder_options)
    assert WorldModelConfig.parse(json.loads(config.to_json())) == config


@pytest.mark.parametrize("dynamics", [d for d in ALL if d != "pint" and fits("particle", d)])
def test_swapping_the_dynamics_leaves_every_other_part_alone(dynamics):
    torch.manual_seed(0)
    base = wk.create_model("lpwm-balls-mini")
    torch.manual_seed(0)
    other = wk.create_model("lpwm-balls-mini", dynamics=dynamics)
    for part in ("encoder", "decoder", "latent_action", "objective"):
        assert getattr(other.config, part) == getattr(base.config, part)
    for part in ("encoder", "decoder"):
        first, second = getattr(base, part).state_dict(), getattr(other, part).state_dict()
        assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    assert type(other.dynamics) is not type(base.dynamics)


@pytest.mark.parametrize("encoder", [e for e in ENCODERS if e not in ("particle", "pretrained")])
def test_swapping_the_encoder_brings_its_decoder_and_no_old_option(encoder):
    config = wk.create_config("lpwm-balls-mini", encoder=encoder)
    base = wk.create_config("lpwm-balls-mini")
    assert config.encoder.name == encoder and config.decoder.name != "particle"
    assert (config.dynamics, config.latent_action, config.objective) == (base.dynamics, base.latent_action,
                                                                        base.objective)
    with pytest.raises(wk.ConfigError, match="unknown option 'proposals_per_patch'"):
        wk.create_config("lpwm-balls-mini", encoder=encoder, encoder__proposals_per_patch=2)
