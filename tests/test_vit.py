"""The encoder `vit`: conformance, views, and what it refuses."""

import pytest
import torch

from worldkit.config import ObsSpec
from worldkit.distributions import MEANS
from worldkit.encoders.vit import ViTEncoder, ViTEncoderConfig
from worldkit.errors import ConfigError
from worldkit.testing import check_encoder


@pytest.mark.parametrize("obs", [
    ObsSpec(height=24, width=16), ObsSpec(height=16, width=16, channels=1), ObsSpec(height=16, width=16, views=2),
])
def test_sizes_and_views(obs):
    check_encoder("vit", obs=obs)


def test_every_patch_and_its_place_matter():
    torch.manual_seed(0)
    encoder = ViTEncoder(ViTEncoderConfig(dim=16), obs=ObsSpec(height=16, width=24))
    video = torch.rand(1, 1, 3, 16, 24)
    base = encoder(video, sampler=MEANS).latent.flat("state")
    for row in (0, 8):
        for column in (0, 8, 16):
            other = video.clone()
            other[..., row : row + 8, column : column + 8] += 0.5
            assert (encoder(other, sampler=MEANS).latent.flat("state") - base).abs().max() > 1e-4
    assert (encoder(video.roll(8, -1), sampler=MEANS).latent.flat("state") - base).abs().max() > 1e-6


@pytest.mark.parametrize(("options", "obs", "message"), [
    ({"patch_size": 7}, {}, r"16 x 16 does not divide into patches of encoder.patch_size 7; patch sizes that do: 2, 4"),
    ({"dim": 10, "num_heads": 4}, {}, "encoder.dim 10 does not divide into encoder.num_heads 4"),
])
def test_what_does_not_fit_is_refused(options, obs, message):
    with pytest.raises(ConfigError, match=message):
        ViTEncoder(ViTEncoderConfig(**options), obs=ObsSpec(**{"height": 16, "width": 16, **obs}))
