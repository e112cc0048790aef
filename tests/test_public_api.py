"""The public names. A change of this list is a change of the interface: make it on purpose."""

import subprocess
import sys

import pytest

import worldkit as wk

NAMES = """
    Batch CheckpointError ConditionError ConfigError DataError Decoded DuplicateComponentError
    IncompatibleComponentsError Latent Loss MissingExtraError NoDecoderError NoPretrainedWeightsError Particles Rollout
    ShapeError TrainingError UnknownComponentError WorldModel WorldModelConfig WorldkitError
    __version__ ablation bench convert create_config create_model data envs export get_model_spec get_operator
    list_conditioners list_decoders list_dynamics list_encoders list_env_backends list_envs list_latent_actions
    list_models list_objectives list_priors make_env metrics model_info plugin_errors
    register_conditioner register_decoder register_dynamics register_encoder register_latent_action register_model
    register_objective register_preset_file register_prior
    testing training viz what_if
""".split()


def test_public_names():
    assert sorted(wk.__all__) == sorted(NAMES)
    assert len(wk.__all__) == len(set(wk.__all__)) <= 59  # 55 for models and data; environments are 4


@pytest.mark.parametrize("name", NAMES)
def test_every_name_resolves(name):
    assert getattr(wk, name) is not None
    assert name in dir(wk)


def test_names_say_where_they_belong():
    for name in NAMES:
        value = getattr(wk, name)
        if isinstance(value, type) or callable(value):
            module = getattr(value, "__module__", "worldkit")
            assert module.split(".")[0] == "worldkit", name
            assert value.__doc__, name


def test_errors_share_a_base():
    errors = [getattr(wk, n) for n in NAMES if n.endswith("Error")]
    assert len(errors) == 13 and all(issubclass(e, wk.WorldkitError) and e.__doc__ for e in errors)


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="module 'worldkit' has no attribute 'create_modle'"):
        wk.create_modle  # noqa: B018


def test_star_import_in_a_fresh_process():
    code = "from worldkit import *; print(create_model.__name__, Batch.__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["create_model", "Batch"]
