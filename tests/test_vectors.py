"""Vectors beside the video, and alone: encoders, decoders, models, errors."""

import json

import pytest
import torch

from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.config import ObsSpec, WorldModelConfig
from worldkit.decoders.mlp import MLPDecoder
from worldkit.decoders.multi import MultiDecoder
from worldkit.distributions import MEANS
from worldkit.encoders.conv import embedding_spec
from worldkit.encoders.mlp import MLPEncoder
from worldkit.encoders.multi import MultiEncoder
from worldkit.errors import ConfigError, ShapeError
from worldkit.latents import Latent
from worldkit.testing import check_decoder, check_encoder, check_model
from worldkit.testing.examples import example_batch, small_config

from .test_pictures import count, state_spec

BOTH = ObsSpec(height=16, width=16, vectors={"speed": 2, "arm": 3}, discrete={"door": 3})
# size -> units, deterministic width, classes, then encoder and decoder of walker and of cartpole (official modules)
PROPRIO = {
    "size1m": (64, 512, 4, 10_112, 51_096, 8_896, 49_861),
    "size12m": (256, 2048, 16, 138_752, 794_136, 133_888, 789_253),
    "size25m": (384, 3072, 24, 306_432, 1_781_016),
    "size50m": (512, 4096, 32, 539_648, 3_161_112),
    "size100m": (768, 6144, 48, 1_202_688, 7_100_952),
    "size200m": (1024, 8192, 64, 2_127_872, 12_613_656, 2_108_416, 12_594_181),
    "size400m": (1536, 12288, 96, 4_764_672, 28_357_656),
}


@pytest.mark.parametrize("name, options", [
    ("mlp", {}), ("mlp", {"symlog": False, "norm": "none", "activation": "elu", "init": "glorot"}), ("multi", {}),
])
def test_contracts(name, options):
    check_encoder(name, **options)
    check_decoder(name, spec=state_spec(8, 6), **options)


def test_multi_draws_with_transposed_convolutions_too():
    check_decoder("multi", spec=state_spec(8, 6), image={"name": "conv-transposed", "depth": 2})
    assert MultiDecoder.Config(image="conv_transposed").image.start == 32
    with pytest.raises(ValueError, match="one of conv, conv-transposed, got 'patch'"):
        MultiDecoder.Config(image="patch")


@pytest.mark.parametrize("size", PROPRIO)
def test_parameters_of_the_official_sizes(size):
    units, deterministic, classes, *wanted = PROPRIO[size]
    tasks = ({"height": 1, "orientations": 14, "velocity": 9}, {"position": 3, "velocity": 2})
    with torch.device("meta"):
        for vectors, counts in zip(tasks, (wanted[:2], wanted[2:]), strict=True):
            obs = ObsSpec(vectors=vectors)
            encoder = MLPEncoder(MLPEncoder.Config(units=units), obs=obs)
            decoder = MLPDecoder(MLPDecoder.Config(units=units), spec=state_spec(deterministic, 32 * classes), obs=obs)
            assert not counts or [count(encoder), count(decoder)] == counts


@pytest.mark.parametrize("overrides", [
    {"encoder": "mlp", "dynamics": "gru"},
    {"encoder": "multi", "objective": "reconstruction", "dynamics": None, "timestep_horizon": 1},
    {"encoder": "multi", "dynamics": "gru", "conditioners": {"action": {"name": "action", "dim": 3}}},
], ids=["vectors alone", "single images", "pictures and vectors"])
def test_models(overrides):
    config = small_config(latent_action=None, **overrides)
    assert WorldModelConfig.parse(json.loads(config.to_json())) == config
    check_model(config)


def test_what_is_observed_changes_latents_and_losses():
    model = build(small_config(encoder="multi", latent_action=None, dynamics="gru"))
    batch = example_batch(model.config)
    loss = model.loss(batch, sampler=MEANS)
    assert {"vector/door", "vector/joints", "vector/speed", "psnr"} <= loss.terms.keys()
    for name, value in batch.vectors.items():
        other = Batch(batch.video, vectors={**batch.vectors, name: (value + 1) % 3})
        assert not model.encode(other).pack().equal(model.encode(batch).pack())
        assert model.loss(other, sampler=MEANS).total != loss.total


def test_a_model_of_vectors_alone_predicts_them():
    model = build(small_config(encoder="mlp", latent_action=None, dynamics="gru"))
    batch = example_batch(model.config)
    out = model.rollout(batch.context(2), 3)
    assert out.video.shape == (2, 3, 3, 0, 0) and out.vectors["joints"].shape == (2, 3, 3)
    assert out.context_vectors["door"].shape == (2, 2, 3) and "psnr" not in model.loss(batch).terms
    torch.testing.assert_close(out.vectors["door"].sum(-1), torch.ones(2, 3))
    assert "vectors: door [2, 3, 3], joints [2, 3, 3]" in repr(out)
    assert model.rollout(batch.context(2), 3, decode=False).vectors == {}
    again = model.rollout(Batch.of_vectors(batch.context(2).vectors), 3)
    torch.testing.assert_close(again.vectors, out.vectors)


def test_missing_values_are_zeros_and_cost_nothing():
    encoder = MLPEncoder(MLPEncoder.Config(units=8), obs=BOTH)
    values = {"speed": torch.randn(1, 1, 2), "arm": torch.randn(1, 1, 3), "door": torch.tensor([[2]])}
    seen = {}
    encoder.vectors.stack.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    missing = {**values, "speed": torch.full((1, 1, 2), -torch.inf), "door": torch.tensor([[-1]])}
    encoder.see(Batch.of_vectors(missing), sampler=MEANS)
    assert seen["x"][0, 0].tolist()[3:] == [0] * 5  # arm, door, speed
    encoder.see(Batch.of_vectors(values), sampler=MEANS)
    assert seen["x"][0, 0, 3:6].tolist() == [0, 0, 1]
    torch.testing.assert_close(seen["x"][0, 0, 6:], values["speed"][0, 0].sign() * values["speed"][0, 0].abs().log1p())

    decoder = MultiDecoder(MultiDecoder.Config(image={"multipliers": (2,)}), spec=embedding_spec(4), obs=BOTH)
    z = Latent.build(decoder.spec, {("state", "embedding"): torch.randn(1, 1, 1, 4, requires_grad=True)})
    drawn = decoder(z)
    for likelihood in ("squared", "normal"):
        losses = decoder.vector_losses(drawn, missing, likelihood=likelihood)
        assert losses["speed"].item() == losses["door"].item() == 0 < losses["arm"].item()
        for loss in losses.values():
            loss.sum().backward(retain_graph=True)
    assert torch.isfinite(z.values["state", "embedding"].grad).all()


def test_vectors_of_v2_are_raw_and_normal():
    obs = ObsSpec(vectors={"x": 2})
    decoder = MLPDecoder(MLPDecoder.Config(symlog=False), spec=embedding_spec(4), obs=obs)
    drawn = decoder(Latent.build(decoder.spec, {("state", "embedding"): torch.randn(1, 1, 1, 4)}))
    x = torch.tensor([[[3.0, -1.0]]])
    assert drawn.vectors["x"].equal(drawn.raw["x"])
    normal = -torch.distributions.Normal(drawn.raw["x"], 1).log_prob(x).sum(-1)
    torch.testing.assert_close(decoder.vector_losses(drawn, {"x": x}, likelihood="normal")["x"], normal)


@pytest.mark.parametrize("options, told", [
    ({}, "nothing is observed"), ({"height": 3}, "both be pixels"), ({"vectors": {"a.b": 2}}, "dots separate names"),
    ({"vectors": {"image": 2}}, "cannot be called 'image'"), ({"vectors": {"a": 0}}, "vectors.a"),
    ({"vectors": {"a": 1}, "discrete": {"a": 2}}, "only be one"),
    ({"vectors": {"a": 1}, "columns": {"b": "c"}}, "names no vector; there are: a"),
])
def test_errors_of_the_spec(options, told):
    with pytest.raises(ConfigError) as error:
        ObsSpec.parse(options)
    assert told in str(error.value)


@pytest.mark.parametrize("changes, told", [
    ({"speed": None}, "reads the vector 'speed', which the observations lack (their vectors: arm, door)"),
    ({"speed": torch.zeros(1, 2, 3)}, "s=2"), ({"arm": torch.full((1, 2, 3), torch.nan)}, "clip 0, frame 0: [nan"),
    ({"arm": torch.full((1, 2, 3), torch.inf)}, "not finite"), ({"door": torch.full((1, 2), 3)}, "from 0 to 2"),
])
def test_errors_of_observations(changes, told):
    encoder = MultiEncoder(MultiEncoder.Config(image={"depth": 2}), obs=BOTH)
    vectors = {"speed": torch.zeros(1, 2, 2), "arm": torch.zeros(1, 2, 3), "door": torch.zeros(1, 2, dtype=torch.long)}
    vectors = {name: x for name, x in {**vectors, **changes}.items() if x is not None}
    with pytest.raises(ShapeError) as error:
        encoder.see(Batch(torch.rand(1, 2, 3, 16, 16), vectors=vectors), sampler=MEANS)
    assert told in str(error.value)


@pytest.mark.parametrize("make, told", [
    (lambda: MLPEncoder(MLPEncoder.Config(), obs=ObsSpec(height=16, width=16)), "obs.vectors.NAME=WIDTH"),
    (lambda: MLPDecoder(MLPDecoder.Config(), spec=embedding_spec(4), obs=BOTH), "decoder=multi predicts both"),
    (lambda: MLPDecoder(MLPDecoder.Config(), spec=embedding_spec(4), obs=ObsSpec(height=16, width=16)), "decoder=mul"),
    (lambda: MultiEncoder(MultiEncoder.Config(), obs=ObsSpec(vectors={"a": 2})), "encoder.image 'conv' reads pictures"),
    (lambda: MultiDecoder(MultiDecoder.Config(), spec=embedding_spec(4), obs=ObsSpec(height=16, width=16)),
     "decoder.vectors 'mlp' predicts vectors, but these observations name none"),
])
def test_errors_of_parts(make, told):
    with pytest.raises(ConfigError) as error:
        make()
    assert told in str(error.value)
