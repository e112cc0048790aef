"""Encoders and decoders of Dreamer v1, v2 and v3 against the official code's numbers. Skipped without the files."""

import pytest
import torch

from worldkit.config import ObsSpec
from worldkit.decoders.conv import ConvDecoder, TransposedDecoder
from worldkit.distributions import MEANS, Delta
from worldkit.encoders.conv import ConvEncoder, embedding_spec
from worldkit.latents import Field, Latent, LatentSpec, TokenGroup

from .dreamer_weights import (
    MISSING,
    ROOT,
    D,
    Weights,
    arrays,
    close,
    config_of,
    files,
    folders,
    load_decoder_v3,
    load_encoder_v3,
    name_of,
)

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)

V12 = [f for f in files("*/*conv*.npz") if f.parent.name in ("v1", "v2")]
V3 = folders("config.json", "weights.npz", "inputs.npz", "tensors.npz")


def frames(image):
    """``[B, T, H, W, C]`` uint8 -> ``[B, T, C, H, W]`` in [0, 1]."""
    return image.movedim(-1, -3).to(D) / 255


def picture_of(config):
    height, width, channels = config["image"]
    return ObsSpec(height=height, width=width, channels=channels)


@pytest.mark.parametrize("file", V12, ids=name_of)
def test_pictures_of_v1_and_v2(file):
    stored, second = arrays(file), file.parent.name == "v2"
    depth, video = int(stored["depth"]), frames(stored["image"])
    obs = ObsSpec(height=video.shape[-2], width=video.shape[-1], channels=video.shape[-3])
    common = {"activation": "elu" if second else "relu", "init": "glorot", "norm": "none"}
    weights = Weights(stored)
    encoder = ConvEncoder(ConvEncoder.Config(
        depth=depth, multipliers=(1, 2, 4, 8), kernel_size=4, shrink="stride", padding="valid", **common), obs=obs)
    for index, layer in enumerate(encoder.picture.tower.layers):
        weights.copy(layer.conv, f"enc/conv{index}" if second else f"enc/h{index + 1}")
    found = encoder.to(D)(video, sampler=MEANS).latent.values["state", "embedding"][:, :, 0]
    close(found, stored["embed"], "embed")

    spec = embedding_spec(stored["feat"].shape[-1])
    decoder = TransposedDecoder(TransposedDecoder.Config(depth=depth, **common), spec=spec, obs=obs)
    tower = decoder.painter.tower
    weights.copy(tower.start, "dec/convin" if second else "dec/h1")
    for index, layer in enumerate(tower.convs):
        weights.copy(layer, f"dec/conv{index}" if second else f"dec/h{index + 2}")
    drawn = decoder.to(D)(Latent.build(spec, {("state", "embedding"): stored["feat"][:, :, None]})).video
    close(drawn.movedim(-3, -1) - 0.5, stored["recon_mean"], "recon_mean", 1e-6)  # stored in float32
    nll = 0.5 * (drawn - video).square().sum((-1, -2, -3)) + 0.5 * video[0, 0].numel() * torch.log(torch.tensor(
        2 * torch.pi, dtype=D))
    close(-nll, stored["log_prob"], "log_prob")
    assert not {key for key in weights.left if key.startswith(("enc/", "dec/"))}


def state_of(config, out):
    """The filtered states of the fixture."""
    deter, stoch = out["post_deter"], out["post_stoch"].long()
    drawn = torch.nn.functional.one_hot(stoch, config["classes"]).to(D).flatten(-2)
    fields = (Field("deterministic", deter.shape[-1], Delta()), Field("stochastic", drawn.shape[-1], Delta()))
    spec = LatentSpec((TokenGroup("state", 1, fields),))
    values = {("state", "deterministic"): deter, ("state", "stochastic"): drawn}
    return Latent.build(spec, {key: value[:, :, None] for key, value in values.items()})


@pytest.mark.parametrize("folder", [f for f in V3 if config_of(f)["image"]], ids=name_of)
def test_pictures_of_v3(folder):
    config, out = config_of(folder), arrays(folder / "tensors.npz")
    weights, video = Weights(arrays(folder / "weights.npz")), frames(arrays(folder / "inputs.npz")["obs/image"])
    obs = picture_of(config)
    encoder = ConvEncoder(ConvEncoder.Config(depth=config["depth"], multipliers=config["mults"]), obs=obs)
    load_encoder_v3(weights, encoder)
    found = encoder.to(D)(video, sampler=MEANS).latent.values["state", "embedding"][:, :, 0]
    close(found, out["tokens"][..., -found.shape[-1]:], "tokens")

    z = state_of(config, out)
    decoder = ConvDecoder(ConvDecoder.Config(
        depth=config["depth"], multipliers=config["mults"], units=config["units"], blocks=config["bspace"],
    ), spec=z.spec, obs=obs)
    load_decoder_v3(weights, decoder)
    drawn = decoder.to(D)(z).video
    close(drawn.movedim(-3, -1), out["dec_pred/image"], "image")
    close((drawn - video).square().sum((-1, -2, -3)), out["loss/image"], "loss")
