"""IRIS's parts beyond the checks that every component passes: memory, refresh, turns, padding, bad input."""

import pytest
import torch

from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.conditions import Condition
from worldkit.distributions import MEANS, Sampler
from worldkit.errors import ConfigError, IncompatibleComponentsError, ShapeError
from worldkit.latents import Latent
from worldkit.nn.quantize import QuantizerConfig
from worldkit.objectives.remembered import RememberedFrames
from worldkit.testing import example_latent, example_spec
from worldkit.testing.examples import example_batch, small_config

SPEC = example_spec(kind="codes")
TOKENS, WINDOW = SPEC.num_tokens, 3
ACTION = {"action": {"name": "raw-action", "num_actions": 3}}


def dynamics(**options):
    from worldkit.dynamics.token_transformer import TokenTransformer, TokenTransformerConfig

    torch.manual_seed(0)
    config = TokenTransformerConfig(dim=16, num_layers=2, num_heads=2, dropout=0.0, cond_dim=3, **options)
    made = TokenTransformer(config, spec=SPEC, anchors={}, window=WINDOW).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return made


def told(steps, batch=2):
    generator = torch.Generator().manual_seed(1)
    return Condition(frame=torch.randn(batch, steps, 3, generator=generator))


@torch.no_grad()
def roll(module, z, cond, steps, window="exact", sampler=MEANS):
    """Frames after those of ``z``, and tokens that each took."""
    first, counts = z.shape[1] - 1, []
    handle = module.net.register_forward_hook(lambda m, args, out: counts.append(out.shape[1]))
    carry, frames, taken = module.start(z, cond.at(slice(0, first)), window=window), [], []
    for t in range(first, first + steps):
        counts.clear()
        frames.append(module.predict(carry, cond.at(slice(t, t + 1)), sampler, mean=False))
        taken.append(sum(counts))
        module.observe(carry, frames[-1])
    handle.remove()
    return frames, taken


AGAIN = WINDOW * (TOKENS + 1) + TOKENS - 1  # the frames of the window, their actions, and what is drawn so far
ONE = TOKENS + TOKENS  # a frame, the action, and what is drawn but the last code


@pytest.mark.parametrize("refresh, window, behind", [
    ("frame", "exact", [ONE, TOKENS + 1]), ("window", "streaming", [ONE, TOKENS + 1]),
    ("window", "exact", [AGAIN, AGAIN]),
])
def test_a_frame_costs_its_tokens_once_and_a_full_memory_is_refreshed(refresh, window, behind):
    frames, taken = roll(dynamics(refresh=refresh), example_latent(SPEC, time=1), told(6), 5, window)
    assert taken == [ONE, TOKENS + 1, TOKENS + 1, *behind]
    assert all(frame.shape == (2, 1) for frame in frames)


@torch.no_grad()
def test_a_window_that_slides_predicts_as_if_it_had_seen_nothing_before():
    module, cond = dynamics(), told(7)
    frames, _ = roll(module, example_latent(SPEC, time=1), cond, 6)
    seen = Latent.cat([example_latent(SPEC, time=1), *frames])
    for t in (4, 5):  # the memory was full
        newest = seen[:, t + 1 - WINDOW : t + 1]
        again, _ = roll(module, newest, cond.at(slice(t + 1 - WINDOW, None)), 1)
        assert torch.equal(again[0].values["patches", "code"], frames[t].values["patches", "code"])
    alone, _ = roll(dynamics(refresh="frame"), seen[:, 3:4], cond.at(slice(3, None)), 1)
    forgets, _ = roll(dynamics(refresh="frame"), seen[:, :1], cond, 4)
    assert torch.equal(forgets[0].values["patches", "code"], frames[0].values["patches", "code"])
    assert alone[0].shape == forgets[3].shape


@torch.no_grad()
def test_a_frame_that_was_edited_is_read_again():
    module, cond, z = dynamics(), told(3), example_latent(SPEC, time=1)
    carry = module.start(z, cond.at(slice(0, 0)))
    guess = module.predict(carry, cond.at(slice(0, 1)), MEANS, mean=False)
    other = guess.map(lambda x: (x + 1) % 6)
    module.observe(carry, other)
    after = module.predict(carry, cond.at(slice(1, 2)), MEANS, mean=False)
    again, _ = roll(module, Latent.cat([z, other]), cond, 1)
    assert torch.equal(after.values["patches", "code"], again[0].values["patches", "code"])
    whole = module.features(Latent.cat([z, other]), cond.at(slice(0, 2)))
    assert torch.allclose(module.step_features(carry, other, after, cond), whole[:, -1:], atol=1e-5)


@torch.no_grad()
def test_a_drawn_frame_is_known_without_comparing_codes(monkeypatch):
    """What depends on values cannot be traced, so that no rollout could be exported."""
    model = world().eval()
    video, action = torch.rand(2, 1, 3, 32, 32), torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    wanted = model.rollout(video, 3, conditions={"action": action}, deterministic=True)
    monkeypatch.setattr(torch, "equal", None)
    found = model.rollout(video, 3, conditions={"action": action}, deterministic=True)
    assert (found.video == wanted.video).all()


def world(**options):
    torch.manual_seed(0)
    heads = {"reward": {"name": "categorical", "readout": {"units": 8}}}
    return build(small_config(**{
        "encoder": "vq", "dynamics": "token-transformer", "latent_action": None, "conditioners": ACTION, "heads": heads,
        "objective": {"name": "iris", "perceptual": 0}, **options}))


def test_each_turn_reaches_its_own_parts_and_all_of_them():
    model = world().train()
    batch, reached = example_batch(model.config), {}
    for part in model.objective.turns:
        model.zero_grad()
        model.objective.turn_loss(model, batch, part, sampler=Sampler()).total.backward()
        reached[part] = {id(p) for p in model.parameters() if p.grad is not None and p.grad.any()}
        mine = {id(p) for p in model.objective.turn_parameters(model, part)}
        assert reached[part] <= mine and len(reached[part]) > 0.9 * len(mine)
    assert not reached["tokenizer"] & reached["dynamics"]


def test_padded_frames_count_for_nothing():
    model = world().eval()
    batch = example_batch(model.config)
    done = torch.ones(batch.video.shape[:2], dtype=torch.bool)
    done[1, 2:] = False
    video = batch.video.clone()
    video[1, 2:] = 0
    rewards = batch.targets["reward"].clone()
    rewards[1, 2:] = 9
    for part in model.objective.turns:
        losses = [model.objective.turn_loss(
            model, Batch(v, batch.conditions, targets={"reward": r}, done_mask=done), part, sampler=MEANS).total
            for v, r in ((batch.video, batch.targets["reward"]), (video, rewards))]
        assert torch.allclose(*losses, atol=1e-6), part


def test_codes_of_frames_are_remembered_while_the_encoder_stays():
    model, memory, seen = world().eval(), RememberedFrames(100), []
    model.encoder.register_forward_hook(lambda m, args, out: seen.append(out.latent.shape))
    video = torch.rand(2, 5, 3, 32, 32)
    first, shifted = Batch(video[:, :4]), Batch(video[:, 1:])
    for batch, count in ((first, 8), (shifted, 2), (first, 0)):
        seen.clear()
        z = memory.means(model.encoder, batch)
        assert sum(a * b for a, b in seen) == count
        assert torch.equal(z.values["patches", "code"], model.encode(batch).values["patches", "code"])
    with torch.no_grad():
        model.encoder.project.bias += 1
    seen.clear()
    memory.means(model.encoder, first)
    assert len(seen) == 1


def test_the_tokenizer_comes_first_and_then_rests():
    model = world(objective={"name": "iris", "perceptual": 0, "tokenizer_steps": 2}).train()
    model.objective.steps_per_epoch = 5
    batch = example_batch(model.config)
    early, late = (model.loss(batch, step) for step in (1, 2))
    assert early.partial and "tokens" not in early.terms and not late.partial and "reconstruction" not in late.terms
    assert {"tokens", "reconstruction"} <= set(model.eval().loss(batch, 1).terms)


def test_bad_input_is_told():
    with pytest.raises(ConfigError, match="halved 3 times.*84 x 84.*88 x 88|halved 3 times.*84 x 84.*80 x 80"):
        world(obs={"height": 84, "width": 84})
    with pytest.raises(ConfigError, match="norms have 4 groups"):
        world(encoder={"name": "vq", "channels": 6, "groups": 4})
    model = world()
    z = model.encode(torch.rand(1, 2, 3, 32, 32))
    wrong = z.map(lambda x: x + QuantizerConfig().codes)
    with pytest.raises(ShapeError, match="codes must be numbers from 0 to 8"):
        model.decode(wrong)
    with pytest.raises(ShapeError, match="codes must be numbers from 0 to 8"):
        model.dynamics.hidden(wrong, Condition())
    with pytest.raises(ShapeError, match="7 frames do not fit into the 5"):
        model.dynamics.loss(example_latent(z.spec, 1, 7), Condition(), MEANS)
    with pytest.raises(IncompatibleComponentsError, match="objective 'iris' trains a transformer over codes"):
        build(small_config(objective={"name": "iris", "perceptual": 0}, latent_action=None))
