"""Encoders and decoders of Dreamer v1, v2 and v3 against the official code's numbers. Skipped without the files."""

from dataclasses import replace

import pytest
import torch

from worldkit.batch import Batch
from worldkit.config import ObsSpec
from worldkit.decoders.conv import TransposedDecoder
from worldkit.decoders.mlp import MLPDecoder
from worldkit.decoders.multi import MultiDecoder
from worldkit.distributions import MEANS, Delta
from worldkit.encoders.conv import ConvEncoder, embedding_spec
from worldkit.encoders.mlp import MLPEncoder
from worldkit.encoders.multi import MultiEncoder
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


def vectors_of(config, inputs):
    """What was observed beside the picture: names and widths, and values."""
    widths = {name: max(1, int(torch.tensor(shape).prod())) for name, shape in config["vec"].items()}
    values = {name: inputs[f"obs/{name}"].reshape(*inputs["obs/reward"].shape, width)
              for name, width in widths.items()}
    discrete = {"flag": config["flag"]} if config["flag"] else {}
    return widths, discrete, values | {name: inputs[f"obs/{name}"].long() for name in discrete}


@pytest.mark.parametrize("folder", V3, ids=name_of)
def test_observations_of_v3(folder):
    config, out, inputs = config_of(folder), arrays(folder / "tensors.npz"), arrays(folder / "inputs.npz")
    weights, (widths, discrete, values) = Weights(arrays(folder / "weights.npz")), vectors_of(config, inputs)
    picture = dict(zip(("height", "width", "channels"), config["image"] or (0, 0, 3), strict=True))
    obs = ObsSpec(**picture, vectors=widths, discrete=discrete)
    batch = Batch.of_vectors(values)
    layers = {part: {"units": config["units"], "layers": config["layers"][part]} for part in ("enc", "dec")}
    z = state_of(config, out)
    if config["image"]:
        batch = replace(batch, video=frames(inputs["obs/image"]))
        common = {"depth": config["depth"], "multipliers": config["mults"]}
        encoder = MultiEncoder(MultiEncoder.Config(image=common, vectors=layers["enc"]), obs=obs)
        common |= {"units": config["units"], "blocks": config["bspace"]}
        decoder = MultiDecoder(MultiDecoder.Config(image=common, vectors=layers["dec"]), spec=z.spec, obs=obs)
    else:
        encoder = MLPEncoder(MLPEncoder.Config(**layers["enc"]), obs=obs)
        decoder = MLPDecoder(MLPDecoder.Config(**layers["dec"]), spec=z.spec, obs=obs)
    load_encoder_v3(weights, encoder)
    load_decoder_v3(weights, decoder)
    assert not {key for key in weights.left if key.startswith(("enc/", "dec/"))}

    tokens = encoder.to(D).see(batch, sampler=MEANS).latent.values["state", "embedding"]
    close(tokens[:, :, 0], out["tokens"], "tokens")
    drawn = decoder.to(D)(z)
    losses = decoder.vector_losses(drawn, batch.vectors)
    if config["image"]:
        losses["image"] = (drawn.video - batch.video).square().sum((-1, -2, -3))
        close(drawn.video.movedim(-3, -1), out["dec_pred/image"], "image")
    for name in widths:
        close(drawn.raw[name].view(out[f"dec_pred/{name}"].shape), out[f"dec_pred/{name}"], name)
    for name in discrete:
        assert drawn.vectors[name].argmax(-1).equal(out[f"dec_pred/{name}"])
    assert losses.keys() == {key.removeprefix("loss/") for key in out if key.startswith("loss/")}
    for name, loss in losses.items():
        close(loss, out[f"loss/{name}"], f"loss of {name}")
