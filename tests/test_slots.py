"""SAVi: slot encoder, spatial broadcast decoder and the reconstruction objective."""

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.config import ObsSpec
from worldkit.decoders.slot import SlotDecoder, SlotDecoderConfig
from worldkit.distributions import MEANS, Sampler
from worldkit.encoders.slot import SlotEncoder, SlotEncoderConfig
from worldkit.errors import ConfigError, IncompatibleComponentsError, ShapeError
from worldkit.latents import Slots
from worldkit.nn.slots import SlotAttention
from worldkit.testing import check_decoder, check_encoder, check_model, check_objective, example_latent, example_spec
from worldkit.testing.examples import SMALL, small_config
from worldkit.testing.report import shake

OBS = ObsSpec(height=32, width=32)
BARE = {"dynamics": None, "latent_action": None, "objective": "reconstruction"}


def encoder(obs=OBS, **options):
    torch.manual_seed(0)
    return SlotEncoder(SlotEncoderConfig(**SMALL["encoder"]["slot"] | options), obs=obs).eval()


def decoder(spec, obs=OBS, **options):
    torch.manual_seed(0)
    return SlotDecoder(SlotDecoderConfig(**SMALL["decoder"]["slot"] | options), spec=spec, obs=obs).eval()


def video(frames=3, obs=OBS, batch=2):
    return torch.rand(batch, frames, 3, obs.height, obs.width, generator=torch.Generator().manual_seed(0))


def discs(frames=4, batch=2, side=32):
    """Two discs of different colours on grey, each going its way: ``[B, T, 3, H, W]``."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    clips = torch.full((batch, frames, 3, side, side), 0.5)
    for b in range(batch):
        for t in range(frames):
            for disc, colour in enumerate(((1.0, 0.1, 0.1), (0.1, 0.2, 1.0))):
                centre = (8 + 14 * disc + t, (10 + 5 * b + 2 * t) * (1 - disc) + (22 - 2 * t) * disc)
                inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 25
                clips[b, t, :, inside] = torch.tensor(colour)[:, None]
    return clips


def train(model, batch, *, steps, lr):
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=lr), []
    for _ in range(steps):
        loss = model.loss(batch, generator=torch.Generator().manual_seed(0)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


VARIANTS = {
    "transformer and LSTM": {},
    "MLP": {"predictor": "mlp"},
    "no predictor": {"predictor": "none"},
    "stochastic": {"stochastic": True},
    "stochastic, MLP": {"stochastic": True, "predictor": "mlp"},
    "per frame": {"recurrent": False},
    "per frame, stochastic": {"recurrent": False, "stochastic": True},
    "two slots, one round": {"num_slots": 2, "num_iterations": 1},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_encoder_conforms(options):
    check_encoder("slot", **options)


def test_encoder_takes_images_that_are_not_square():
    check_encoder("slot", obs=ObsSpec(height=24, width=40))


@pytest.mark.parametrize("options", [{}, {"kernel_size": 3}, {"map_size": 32}, {"channels": (8, 8, 4)}])
def test_decoder_conforms(options):
    check_decoder("slot", spec=example_spec(kind="slots"), **options)


def test_objective_conforms():
    check_objective("reconstruction")
    check_objective("reconstruction", model={"encoder": {"name": "slot", "stochastic": True}}, regularizer_weight=0.1)


MODELS = {
    "savi": {"encoder": "slot", **BARE},
    "stochastic savi": {"encoder": {"name": "slot", "stochastic": True}, **BARE},
    "lpwm with slots": {"encoder": "slot"},
    "lpwm with stochastic slots": {"encoder": {"name": "slot", "stochastic": True, "predictor": "mlp"}},
    "slots and actions": {"encoder": "slot", "latent_action": None,
                          "conditioners": {"action": {"name": "action", "dim": 3}}},
}


@pytest.mark.parametrize("overrides", MODELS.values(), ids=MODELS)
def test_models_conform(overrides):
    check_model(small_config(**overrides))


# ---------------------------------------------------------------------------------------------------- slot attention


def attention(dim=8, iterations=2):
    torch.manual_seed(0)
    return SlotAttention(dim, hidden_dim=16, num_iterations=iterations)


def test_every_pixel_is_shared_out_among_the_slots():
    found = encoder()(video(), sampler=MEANS).aux.attention
    assert found.shape == (2, 3, 3, 8, 8)
    assert (found >= 0).all()
    assert torch.allclose(found.sum(2), torch.ones(2, 3, 8, 8), atol=1e-6)


def test_permuted_starts_give_permuted_slots():
    module, start = attention(), torch.randn(2, 4, 8)
    seen, order = module.look(torch.randn(2, 20, 8)), [2, 0, 3, 1]
    slots, shares = module(start, *seen)
    others, other_shares = module(start[:, order], *seen)
    assert torch.allclose(others, slots[:, order], atol=1e-5)
    assert torch.allclose(other_shares, shares[:, order], atol=1e-6)


def test_pixels_have_no_order():
    module, start, features = attention(), torch.randn(2, 3, 8), torch.randn(2, 20, 8)
    one, _ = module(start, *module.look(features))
    two, _ = module(start, *module.look(features.flip(1)))
    assert torch.allclose(one, two, atol=1e-5)


def test_slot_update_by_hand():
    """One round: shares over slots, weighted mean over pixels, recurrent cell, residual MLP."""
    module, start, features = attention(iterations=1), torch.randn(1, 2, 8), torch.randn(1, 5, 8)
    keys, values = module.look(features)
    slots, shares = module(start, keys, values)
    for n in range(2):
        query = module.to_query(module.norm_slots(start[0]))
        logits = (keys[0] @ query.T) / 8**0.5  # [pixels, slots]
        weight = logits.softmax(1)[:, n] + 1e-6
        update = (weight[:, None] * values[0]).sum(0) / weight.sum()
        by_hand = module.cell(update[None], start[0, n][None])
        assert torch.allclose(slots[0, n], (by_hand + module.mlp(by_hand))[0], atol=1e-5)


# ---------------------------------------------------------------------------------------------------- encoder


def test_spec_and_types():
    found = encoder()(video(), sampler=MEANS)
    assert isinstance(found.latent, Slots) and found.latent.features.shape == (2, 3, 3, 16)
    assert encoder().spec.identity == "tracked"
    assert encoder(recurrent=False).spec.identity == "exchangeable"
    assert found.aux.kernel is None


def test_one_frame_works_and_equals_the_first_of_many():
    module, clip = encoder(), video()
    one = module(clip[:, :1], sampler=MEANS).latent.features
    assert torch.allclose(one, module(clip, sampler=MEANS).latent.features[:, :1], atol=1e-6)


def test_recurrence_carries_the_past():
    clip = video()
    other = torch.cat([1 - clip[:, :1], clip[:, 1:]], 1)
    for recurrent, moved in ((True, True), (False, False)):
        module = encoder(recurrent=recurrent)
        a, b = (module(x, sampler=MEANS).latent.features[:, -1] for x in (clip, other))
        assert ((a - b).abs().max() > 1e-6) == moved


def test_predictor_remembers_more_than_one_frame():
    """The LSTM's state passes what no slot holds: the same slots lead elsewhere after another past."""
    module = encoder()
    slots, other = torch.randn(2, 2, 3, 16).unbind()
    _, state = module.predictor(slots, None)
    _, other_state = module.predictor(other, None)
    assert not torch.allclose(module.predictor(slots, state)[0], module.predictor(slots, other_state)[0])


def test_permuted_initial_slots_give_permuted_videos_of_slots():
    module, clip, order = encoder(), video(), [1, 2, 0]
    before = module(clip, sampler=MEANS).latent.features
    with torch.no_grad():
        module.initial.copy_(module.initial[order])
    assert torch.allclose(module(clip, sampler=MEANS).latent.features, before[:, :, order], atol=1e-5)


def test_stochastic_kernels_are_drawn_and_their_variance_is_pulled():
    module, clip = encoder(stochastic=True), video()
    draws = [module(clip, sampler=Sampler(generator=torch.Generator().manual_seed(s))) for s in (0, 1)]
    assert not torch.allclose(draws[0].latent.features, draws[1].latent.features)
    kernel = draws[0].aux.kernel
    assert kernel.shape == (2, 3, 3, 32)
    mean, variance = kernel.chunk(2, -1)[0], kernel.chunk(2, -1)[1].exp()
    by_hand = 0.5 * (variance / 0.01 - 1 - (variance / 0.01).log()).sum(-1).mean(-1)
    penalty = module.regularizers(draws[0])["kernel"]
    assert penalty.shape == (2, 3) and torch.allclose(penalty, by_hand, rtol=1e-4)
    slope = torch.autograd.grad(penalty.sum(), kernel)[0]
    assert slope[..., : mean.shape[-1]].abs().max() == 0 and slope[..., mean.shape[-1]:].abs().min() > 0
    assert encoder().regularizers(encoder()(clip, sampler=MEANS)) == {}


@pytest.mark.parametrize(("side", "max_map", "size"), [(32, 64, 32), (64, 64, 64), (128, 64, 64), (32, 16, 16)])
def test_feature_map_is_at_most_max_map(side, max_map, size):
    assert encoder(ObsSpec(height=side, width=side), max_map=max_map).features.size == (size, size)


def test_encoder_refusals():
    with pytest.raises(ConfigError, match=r"sees one camera, got obs.views = 2; use views = 1"):
        encoder(ObsSpec(height=32, width=32, views=2))
    with pytest.raises(ConfigError, match=r"stride of 8 .* kernels of 5 would skip some; set encoder.max_map"):
        encoder(max_map=4)
    with pytest.raises(ConfigError, match="kernel_size must be odd, got 4"):
        encoder(kernel_size=4)
    with pytest.raises(ConfigError, match="slot_dim 16 must be divisible by encoder.num_heads 3"):
        encoder(num_heads=3)
    with pytest.raises(ShapeError, match="video"):
        encoder()(video()[..., :16], sampler=MEANS)


def test_slots_that_change_places_are_refused_by_a_dynamics_that_follows_them():
    with pytest.raises(IncompatibleComponentsError, match=r"'pint' needs tokens that keep their identity .* encoder "
                       r"'slot' gives 3 slots .* Dynamics that fit: "):
        build(small_config(encoder={"name": "slot", "recurrent": False}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_full_precision_slots(dtype):
    module, clip = encoder(stochastic=True), video()
    with torch.autocast("cpu", dtype):
        found = module(clip, sampler=MEANS)
    assert found.latent.features.dtype == found.aux.kernel.dtype == torch.float32
    assert torch.allclose(found.latent.features, module(clip, sampler=MEANS).latent.features, atol=0.1)


# ---------------------------------------------------------------------------------------------------- decoder


@pytest.mark.parametrize("obs", [OBS, ObsSpec(height=64, width=64), ObsSpec(height=128, width=128),
                                 ObsSpec(height=32, width=48)], ids=["32", "64", "128", "32 x 48"])
def test_pictures_and_masks(obs):
    spec = example_spec(kind="slots")
    z = example_latent(spec, time=2)
    module = decoder(spec, obs, channels=(8, 8, 8, 8))
    drawn = module(z, masks=True)
    slots = spec.group("slots").size
    assert drawn.masks.shape == (2, 2, slots, 1, obs.height, obs.width)
    assert drawn.glimpses.shape == (2, 2, slots, 4, obs.height, obs.width)
    assert torch.allclose(drawn.masks.sum(2), torch.ones(2, 2, 1, obs.height, obs.width), atol=1e-5)
    alone = drawn.glimpses[:, :, :, 1:]
    assert torch.allclose((drawn.masks * alone).sum(2), drawn.video, atol=1e-5)
    plain = module(z)
    assert plain.masks is None and plain.glimpses is None
    assert torch.allclose(plain.video, drawn.video, atol=1e-5)


def test_order_of_slots_does_not_change_the_picture():
    spec = example_spec(kind="slots")
    z = example_latent(spec, time=2)
    module = decoder(spec)
    assert torch.allclose(module(z.map(lambda x: x.flip(2))).video, module(z).video, atol=1e-5)


def test_chunks_do_not_change_anything(monkeypatch):
    spec = example_spec(kind="slots")
    z, clip = example_latent(spec, time=3), video()
    whole = decoder(spec)(z).video, encoder()(clip, sampler=MEANS).latent.features
    monkeypatch.setattr("worldkit.nn.slots._CPU_CHUNK_BYTES", 1)  # image by image
    assert torch.allclose(decoder(spec)(z).video, whole[0], atol=1e-6)
    assert torch.allclose(encoder()(clip, sampler=MEANS).latent.features, whole[1], atol=1e-5)


def test_decoder_refusals():
    spec = example_spec(kind="slots")
    with pytest.raises(ConfigError, match=r"map_size 7 does not grow to 32 x 32 pixels by doubling"):
        decoder(spec, map_size=7)
    with pytest.raises(ConfigError, match=r"takes 4 doublings, but decoder.channels \[8, 8\] has 2 layers"):
        decoder(spec, ObsSpec(height=128, width=128))
    with pytest.raises(ConfigError, match="does not grow to 32 x 34"):
        decoder(spec, ObsSpec(height=32, width=34))
    with pytest.raises(IncompatibleComponentsError, match="decoder 'slot' draws slots, but encoder 'particle' gives"):
        build(small_config(decoder="slot"))


# ---------------------------------------------------------------------------------------------------- training


def test_reconstruction_counts_errors_in_images_from_minus_one_to_one():
    torch.manual_seed(0)
    model = build(small_config(encoder={"name": "slot", "stochastic": True}, **BARE))
    batch = wk.Batch(video(model.clip_length))
    model.objective.config = model.objective.config.replace("regularizer_weight", 0.5)
    loss = model.loss(batch, sampler=MEANS)
    error = (model.decode(model.encode(batch.video)).video - batch.video).square().mean()
    assert torch.allclose(loss.terms["reconstruction"], 4 * error, rtol=1e-4)
    assert torch.allclose(loss.terms["psnr"], -10 * error.log10(), rtol=1e-4)
    assert torch.allclose(loss.total, 4 * error + 0.5 * loss.terms["regularizer/kernel"], rtol=1e-4)


def test_frames_after_the_end_of_an_episode_do_not_count():
    torch.manual_seed(0)
    model, clip = build(small_config(encoder="slot", **BARE)), video(4)
    done = torch.tensor([[1.0, 1, 1, 0], [1, 1, 0, 0]])
    other = clip.clone()
    other[0, 3:], other[1, 2:] = 0, 1
    a, b = (model.loss(wk.Batch(x, done_mask=done), sampler=MEANS).total for x in (clip, other))
    assert torch.allclose(a, b, rtol=1e-6)


def test_reconstruction_wants_no_dynamics():
    with pytest.raises(IncompatibleComponentsError, match="would leave dynamics 'pint' untrained"):
        build(small_config(encoder="slot", objective="reconstruction"))


def test_checkpointing_changes_no_gradient():
    from worldkit.nn.checkpoint import set_checkpointing

    torch.manual_seed(0)
    model, batch, found = build(small_config(encoder="slot", **BARE)), wk.Batch(video(4)), []
    for level in ("off", "cnn"):
        set_checkpointing(model, level)
        model.zero_grad()
        model.loss(batch).total.backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_slots_learn_more_than_the_mean_image():
    torch.manual_seed(0)
    model = build(small_config(
        encoder={"name": "slot", "slot_dim": 64, "predictor": "mlp"}, timestep_horizon=2, **BARE,
        decoder={"name": "slot", "map_size": 4, "channels": (64, 64, 32, 16), "kernel_size": 3},
    ))
    clips = discs(frames=2, batch=4)
    mean_image = 4 * (clips - clips.mean((0, 1))).square().mean()
    losses = train(model, wk.Batch(clips), steps=60, lr=3e-3)
    assert losses[-1] < 0.95 * mean_image < losses[0]


def test_lpwm_with_slots_trains_and_predicts():
    torch.manual_seed(0)
    model = build(small_config(encoder="slot"))
    batch = wk.Batch(discs(model.clip_length))
    losses = train(model, batch, steps=12, lr=3e-3)
    assert losses[-1] < 0.9 * losses[0]
    rollout = model.rollout(batch.video[:, :2], 5, deterministic=True)
    assert rollout.video.shape == (2, 5, 3, 32, 32)
    assert isinstance(rollout.latents, Slots)


# ---------------------------------------------------------------------------------------------------- presets


def test_presets_have_the_official_sizes():
    obj3d, clevrer = wk.create_config("savi-obj3d"), wk.create_config("savi-clevrer")
    assert (obj3d.encoder.num_slots, clevrer.encoder.num_slots) == (6, 7)
    assert (obj3d.encoder.predictor, clevrer.encoder.predictor) == ("transformer-lstm", "mlp")
    assert (obj3d.encoder.stochastic, clevrer.encoder.stochastic) == (False, True)
    assert obj3d.encoder == SlotEncoderConfig() and obj3d.decoder == SlotDecoderConfig()  # the components' defaults
    assert (obj3d.clip_length, obj3d.dynamics, obj3d.objective.name) == (6, None, "reconstruction")
    assert wk.get_model_spec("savi-clevrer").train["max_grad_norm"] == 0.05


def test_slots_swapped_into_the_small_model_are_those_of_its_slot_preset():
    swapped, preset = wk.create_config("lpwm-balls-mini", encoder="slot"), wk.create_config("slots-balls-mini")
    assert swapped == preset
    alone = wk.create_config("savi-balls-mini")
    assert (preset.encoder, preset.decoder) == (alone.encoder, alone.decoder)


@pytest.mark.parametrize("predictor", ["transformer-lstm", "mlp", "none"])
def test_slots_go_on_from_what_they_carry_and_forget_at_borders(predictor):
    config = SlotEncoderConfig(num_slots=3, slot_dim=8, hidden_dim=8, channels=(8, 8), num_heads=2, predictor=predictor)
    encoder = shake(SlotEncoder(config, obs=ObsSpec(height=16, width=16)))
    video = torch.rand(2, 5, 3, 16, 16)
    with torch.no_grad():
        whole, carry = encoder(video, sampler=MEANS), None
        for t in range(5):
            found = encoder(video[:, t : t + 1], sampler=MEANS, carry=carry)
            carry = found.carry
            torch.testing.assert_close(found.latent.features, whole.latent.features[:, t : t + 1])
        first = torch.zeros(2, 5, dtype=torch.bool)
        first[0, 2] = True
        begun = encoder(video, sampler=MEANS, first=first).latent.features
        torch.testing.assert_close(begun[:1, 2:], encoder(video[:1, 2:], sampler=MEANS).latent.features)
        torch.testing.assert_close(begun[1:], whole.latent.features[1:])
