"""Dreamer's picture encoders and decoders: contracts, sizes, numbers of parameters, errors."""

import pytest
import torch
import torch.nn.functional as F

from worldkit.config import ObsSpec
from worldkit.decoders.conv import ConvDecoder, TransposedDecoder
from worldkit.distributions import MEANS, Delta
from worldkit.encoders.conv import ConvEncoder, embedding_spec
from worldkit.errors import ConfigError
from worldkit.latents import Field, Latent, LatentSpec, TokenGroup
from worldkit.nn.conv_tower import Doubled, ShrinkingConv
from worldkit.testing import check_decoder, check_encoder

V1 = {"multipliers": (1, 2, 4, 8), "kernel_size": 4, "shrink": "stride", "padding": "valid", "norm": "none",
      "activation": "relu", "init": "glorot", "depth": 2}
# size -> depth, units, deterministic width, classes (of 32), then parameters of encoder and decoder (official modules)
SIZES = {
    "size1m": (4, 64, 512, 4, 14_304, 80_595),
    "size12m": (16, 256, 2048, 16, 220_416, 1_272_003),
    "size25m": (24, 384, 3072, 24, 493_824, 2_857_635),
    "size50m": (32, 512, 4096, 32, 876_032, 5_076_355),
    "size100m": (48, 768, 6144, 48, 1_966_848, 11_413_059),
    "size200m": (64, 1024, 8192, 64, 3_492_864, 20_282_115),
    "size400m": (96, 1536, 12288, 96, 7_850_496, 45_617_283),
}
ATARI = {"size1m": (13_904, 142_273), "size12m": (218_816, 2_256_001), "size200m": (3_486_464, 36_014_593)}


def state_spec(deterministic, drawn, tokens=1):
    fields = (Field("deterministic", deterministic, Delta()), Field("stochastic", drawn, Delta()))
    return LatentSpec((TokenGroup("state", tokens, fields),))


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("options", [
    {"depth": 2}, {"depth": 2, "shrink": "stride"}, {"depth": 2, "keep_first": True}, {**V1, "multipliers": (1, 2, 4)},
    {"depth": 2, "norm": "layer", "activation": "elu"},
], ids=["v3", "strided", "outer", "v1", "layer norm"])
def test_encoder_contract(options):
    check_encoder("conv", **options)


def test_encoder_of_two_views():
    check_encoder("conv", depth=2, obs=ObsSpec(height=16, width=32, channels=1, views=2))


@pytest.mark.parametrize("spec", [embedding_spec(6), state_spec(8, 6), state_spec(4, 3, tokens=2)],
                         ids=["embedding", "state", "two tokens"])
def test_decoder_contract(spec):
    check_decoder("conv", spec=spec, depth=2, units=4)
    check_decoder("conv-transposed", spec=spec, depth=2, multipliers=(1, 2), kernel_sizes=(4, 6, 6), start=4,
                  obs=ObsSpec(height=28, width=28))


@pytest.mark.parametrize("size", SIZES)
def test_parameters_of_the_official_sizes(size):
    depth, units, deterministic, classes, *wanted = SIZES[size]
    with torch.device("meta"):
        for obs, counts in ((ObsSpec(height=64, width=64), wanted),
                            (ObsSpec(height=96, width=96, channels=1), ATARI.get(size))):
            encoder = ConvEncoder(ConvEncoder.Config(depth=depth), obs=obs)
            spec = state_spec(deterministic, 32 * classes)
            decoder = ConvDecoder(ConvDecoder.Config(depth=depth, units=units), spec=spec, obs=obs)
            assert counts is None or [count(encoder), count(decoder)] == list(counts)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_doubled_is_interpolation_and_convolution(kernel):
    layer, x = Doubled(3, 4, kernel).double(), torch.rand(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    torch.nn.init.normal_(layer.bias)
    plain = F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=kernel // 2)
    torch.testing.assert_close(layer(x), plain)
    parameters = (x, layer.weight, layer.bias)
    above = torch.rand_like(plain)
    for a, b in zip(torch.autograd.grad(layer(x), parameters, above), torch.autograd.grad(plain, parameters, above),
                    strict=True):
        torch.testing.assert_close(a, b)


def test_a_stride_pads_as_tensorflow_does():
    """For an even side one pixel less above than below: a picture's last row is seen by the last output alone."""
    layer = ShrinkingConv(1, 1, kernel_size=5, shrink="stride", padding="same", norm="none", activation="none",
                          eps=1e-4, init="glorot")
    torch.nn.init.ones_(layer.conv.weight)
    picture = torch.zeros(1, 1, 8, 8)
    picture[..., 0, 0] = 1
    assert layer(picture)[0, 0].nonzero().tolist() == [[0, 0]]  # rows -1 .. 3 and 1 .. 5
    assert layer(picture.flip(2, 3))[0, 0].nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
    assert layer(torch.zeros(1, 1, 7, 7)).shape[-2:] == (4, 4) and layer.size(7) == 4


def test_pooling_comes_before_the_norm():
    layer = ShrinkingConv(3, 4, kernel_size=5, shrink="pool", padding="same", norm="rms", activation="silu", eps=1e-4,
                          init="truncated-normal")
    x = torch.randn(2, 3, 8, 8)
    pooled = F.max_pool2d(layer.conv(x), 2)
    torch.testing.assert_close(layer(x), F.silu(F.rms_norm(pooled.movedim(1, -1), (4,), eps=1e-4)).movedim(-1, 1))


def test_embedding_is_flat_by_rows_columns_channels():
    encoder = ConvEncoder(ConvEncoder.Config(depth=2, multipliers=(1,)), obs=ObsSpec(height=8, width=4))
    video = torch.rand(1, 1, 3, 8, 4)
    maps = encoder.picture.tower.layers(video[0] - 0.5)
    flat = encoder(video, sampler=MEANS).latent.values["state", "embedding"]
    torch.testing.assert_close(flat.flatten(), maps.movedim(1, -1).flatten())


def test_the_decoder_reads_every_part_of_the_state():
    spec = state_spec(8, 6)
    decoder = ConvDecoder(ConvDecoder.Config(depth=2, units=4), spec=spec, obs=ObsSpec(height=32, width=32))
    values = {key: torch.randn(1, 1, 1, spec.field(key).dim, requires_grad=True) for key in spec.keys()}
    decoder(Latent.build(spec, values)).video.square().sum().backward()
    assert all((value.grad != 0).all() for value in values.values())


@pytest.mark.parametrize("size, options, told", [
    ((60, 64), {}, "multiples of 16 (48, 64, 80, ...), at most 2"), ((8, 8), {}, "multiples of 16 (16, ...)"),
    ((16, 16), V1, "16x16 -> 7x7 -> 2x2, then nothing is left"), ((0, 0), {}, "encoder=mlp"),
])
def test_errors_of_sizes(size, options, told):
    obs = ObsSpec.model_construct(height=size[0], width=size[1], channels=3, views=1)
    with pytest.raises(ConfigError) as error:
        ConvEncoder(ConvEncoder.Config(**options), obs=obs)
    assert told in str(error.value)


@pytest.mark.parametrize("cls, size, options, told", [
    (ConvDecoder, (60, 64), {}, "multiples of 16 (48, 64, 80, ...)"),
    (ConvDecoder, (64, 64), {"blocks": 5}, "blocks=0"),
    (ConvDecoder, (64, 64), {"kernel_size": 4}, "odd"), (ConvDecoder, (0, 0), {}, "decoder=mlp"),
    (TransposedDecoder, (32, 32), {"kernel_sizes": (5, 5, 6, 6)}, "kernel_sizes=[3, 3, 3, 4], or decoder=conv"),
    (TransposedDecoder, (96, 64), {}, "cannot draw 96 x 64 pixels: use decoder=conv"),
    (TransposedDecoder, (0, 0), {}, "decoder=mlp"),
])
def test_errors_of_decoders(cls, size, options, told):
    obs = ObsSpec.model_construct(height=size[0], width=size[1], channels=3, views=1)
    with pytest.raises(ConfigError) as error:
        cls(cls.Config(**options), spec=state_spec(8, 6), obs=obs)
    assert told in str(error.value)
