"""Squares of pixels as places of a convolution network's first level: stacks of codes, the U-Net, an actor's eyes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from worldkit.agents.pixel_actor_critic.networks import NetworkConfig, PixelNetwork
from worldkit.config import ObsSpec
from worldkit.decoders.vq import VQDecoder, VQDecoderConfig
from worldkit.distributions import Sampler
from worldkit.encoders.vq import VQEncoder, VQEncoderConfig
from worldkit.errors import ConfigError
from worldkit.nn.outcomes import Outcomes, OutcomesConfig
from worldkit.nn.unet import BlocksConfig, UNet

STACK = {"channels": 8, "multipliers": (1, 1), "num_blocks": 1, "attention": (), "map_channels": 8, "groups": 4}


def test_vq_stacks_cut_and_join_squares():
    obs = ObsSpec(height=16, width=24)
    encoder = VQEncoder(VQEncoderConfig(**STACK, patch=4, quantizer={"codes": 5, "dim": 3}), obs=obs).eval()
    assert encoder.spec.grid == (2, 3)
    decoder = VQDecoder(VQDecoderConfig(**STACK, patch=4), spec=encoder.drawn_spec, obs=obs)
    encoding = encoder(torch.rand(2, 3, 3, 16, 24), sampler=Sampler())
    assert decoder(encoding.to_draw).video.shape == (2, 3, 3, 16, 24)


def test_local_codes_depend_on_their_own_square_alone():
    obs, local = ObsSpec(height=16, width=16), {**STACK, "multipliers": (1,), "patch": 4, "local": True}
    encoder = VQEncoder(VQEncoderConfig(**local, quantizer={"codes": 50, "dim": 3}), obs=obs).eval()
    video = torch.rand(1, 1, 3, 16, 16)
    other = video.clone()
    other[..., 4:8, 8:12] = 1 - other[..., 4:8, 8:12]
    apart = (encoder.vectors(video) != encoder.vectors(other)).any(-1)[0, 0].view(4, 4)
    assert apart.nonzero().tolist() == [[1, 2]]
    decoder = VQDecoder(VQDecoderConfig(**local), spec=encoder.drawn_spec, obs=obs)
    z = encoder(video, sampler=Sampler()).to_draw
    moved = z.map(lambda x: x + (torch.arange(16) == 6)[:, None])
    drawn = (decoder(z).video != decoder(moved).video)[0, 0].any(0)
    assert drawn[4:8, 8:12].all() and drawn.sum() == 16


def test_squares_by_themselves_are_not_halved():
    with pytest.raises(ValueError, match=r"local.* one multiplier, not \[1, 1\]"):
        VQEncoderConfig(**STACK, patch=4, local=True)


def test_a_picture_that_squares_do_not_divide_is_told_the_nearest_that_they_do():
    with pytest.raises(ConfigError, match="squares of 4 pixels and halved 1 times.*as 16 x 16"):
        VQEncoder(VQEncoderConfig(**STACK, patch=4), obs=ObsSpec(height=20, width=20))


def test_the_unet_draws_any_sides_and_works_on_squares():
    levels = {"channels": (8, 8), "depths": (1, 1), "attention": (False, False)}
    net = UNet(BlocksConfig(**levels, patch=4), inputs=5, outputs=3, dim=6)
    torch.nn.init.normal_(net.conv_out.weight)
    told = net.modulate(torch.randn(2, 6))
    assert net(torch.randn(2, 5, 9, 14), told).shape == (2, 3, 9, 14)
    within = UNet(BlocksConfig(**levels), inputs=5 * 16, outputs=3 * 16, dim=6)
    within.load_state_dict(net.state_dict())
    x = torch.randn(2, 5, 8, 16)
    assert torch.allclose(net(x, told), F.pixel_shuffle(within(F.pixel_unshuffle(x, 4), told), 4), atol=1e-5)


def test_outcomes_read_squares():
    config = OutcomesConfig(channels=(8, 8), depths=(1, 1), attention=(False, False), dim=6, width=12, patch=4)
    outcomes = Outcomes(config, channels=3, size=(16, 24), action_dim=4)
    features, _ = outcomes(torch.rand(2, 5, 3, 16, 24), torch.rand(2, 5, 3, 16, 24), torch.rand(2, 5, 4))
    assert features.shape == (2, 5, 12)


def test_an_actor_sees_squares():
    options = NetworkConfig(channels=(8, 8), down=(False, True), memory=16, patch=4)
    net = PixelNetwork(options, frame_shape=(3, 16, 24), num_actions=5)
    frames = torch.rand(2, 4, 3, 16, 24)
    said = net(frames[:, -1], net.watch(frames[:, :-1], None, net.begin(2)))
    assert said.logits.shape == (2, 5) and net.encoder[0].in_channels == 48
    with pytest.raises(ConfigError, match="squares of 4 pixels and halves them 1 times.*multiples of 8, not 20 x 20"):
        PixelNetwork(options, frame_shape=(3, 20, 20), num_actions=5)
