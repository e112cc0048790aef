"""The plugin passes the checks that worldkit's own parts pass."""

import pytest
import worldkit_example_plugin as plugin

import worldkit as wk
from worldkit.config import ObsSpec
from worldkit.testing import check_decoder, check_dynamics, check_encoder, check_model

TWO_VIEWS = ObsSpec(height=16, width=32, views=2)


@pytest.mark.parametrize("obs", [ObsSpec(height=32, width=32), TWO_VIEWS], ids=["one view", "two views"])
def test_mosaic(obs):
    check_encoder("mosaic", obs=obs)
    check_decoder("mosaic", spec=plugin.mosaic.MosaicEncoder(wk.create_config(
        "mosaic-balls-mini").encoder, obs=obs).spec, obs=obs)


def test_token_mlp():
    check_dynamics("token-mlp", dim=16)
    check_dynamics("token-mlp", dim=16, memory_length=2)


@pytest.mark.parametrize("options", [
    {},
    {"conditioners": {"action": {"name": "action", "dim": 3}}},
    {"conditioners": {"language": {"name": "language", "embed_dim": 5, "max_length": 2}}},
    {"conditioners": {"goal_image": {"name": "goal-image"}}},
    {"obs.views": 2},
], ids=["plain", "action", "language", "goal", "two views"])
def test_models(options):
    check_model("mosaic-balls-mini", **options)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(wk.ConfigError, match="patch_size 5 must divide"):
        wk.create_model("mosaic-balls-mini", encoder__patch_size=5)
    with pytest.raises(wk.ConfigError, match="cells 3 must divide"):
        wk.create_model("mosaic-balls-mini", encoder__cells=3)
    with pytest.raises(wk.ConfigError, match="same patch_size"):
        wk.create_model("mosaic-balls-mini", encoder__patch_size=16)
