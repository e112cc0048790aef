"""Pixels as latents: encoder and decoder `identity`."""

import pytest
import torch

from worldkit.assembly import build
from worldkit.config import ObsSpec
from worldkit.decoders.identity import IdentityDecoder, IdentityDecoderConfig
from worldkit.distributions import MEANS
from worldkit.encoders.identity import IdentityEncoder, IdentityEncoderConfig
from worldkit.errors import ConfigError, IncompatibleComponentsError
from worldkit.latents import Pixels
from worldkit.testing import check_decoder, check_encoder
from worldkit.testing.examples import small_config

TWO_VIEWS = ObsSpec(height=6, width=8, channels=1, views=2)


def parts(obs):
    encoder = IdentityEncoder(IdentityEncoderConfig(), obs=obs)
    return encoder, IdentityDecoder(IdentityDecoderConfig(), spec=encoder.spec, obs=obs)


@pytest.mark.parametrize("obs", [ObsSpec(height=6, width=8), TWO_VIEWS])
def test_contract(obs):
    encoder, _ = parts(obs)
    check_encoder("identity", obs=obs)
    check_decoder("identity", obs=obs, spec=encoder.spec)


@pytest.mark.parametrize("obs", [ObsSpec(height=6, width=8), TWO_VIEWS])
def test_pixels_come_back(obs):
    encoder, decoder = parts(obs)
    views = () if obs.views == 1 else (obs.views,)
    video = torch.rand(2, *views, 3, obs.channels, 6, 8)
    z = encoder(video, sampler=MEANS).latent
    assert isinstance(z, Pixels) and z.maps.shape == (2, 3, obs.views, obs.channels, 6, 8)
    torch.testing.assert_close(decoder(z).video, video)
    assert z.pixels.min() < -0.9 and z.pixels.max() > 0.9


def test_tokens_are_a_view_of_the_pictures():
    """One change of scale each way, and no other copy: the tokens lie as the pictures do."""
    encoder, _ = parts(ObsSpec(height=6, width=8))
    z = encoder(torch.rand(2, 3, 3, 6, 8), sampler=MEANS).latent
    assert z.maps.is_contiguous() and z.maps.data_ptr() == z.pixels.data_ptr() == z.flat("pixels").data_ptr()
    again = Pixels.of_maps(encoder.spec, z.maps)
    assert again.pixels.data_ptr() == z.pixels.data_ptr() and torch.equal(again.pixels, z.pixels)


def test_refusals():
    with pytest.raises(ConfigError, match="obs.height is 0.*encoder=mlp"):
        parts(ObsSpec(height=0, width=0, vectors={"speed": 1}))
    with pytest.raises(IncompatibleComponentsError, match="decoder 'identity' draws pixels, but encoder 'patch' gives"):
        build(small_config(encoder="patch", decoder="identity"))
    with pytest.raises(IncompatibleComponentsError, match="this dynamics puts states in their place.*encoder=conv"):
        build(small_config(encoder="identity", dynamics="rssm", latent_action=None, objective="dreamer",
                           conditioners={"action": {"name": "transition-action", "dim": 3}}))
