"""Genie's parts together: who sees what, who learns by what, and that a frame is drawn as it is learned."""

import math
from dataclasses import replace

import pytest
import torch

from worldkit import Batch, create_model
from worldkit.conditions import Condition
from worldkit.distributions import MEANS, Sampler
from worldkit.dreaming import Dream
from worldkit.dynamics.maskgit import Refinement, masked_counts
from worldkit.errors import ConfigError, IncompatibleComponentsError, ShapeError, WorldkitError
from worldkit.latents import Latent
from worldkit.nn.quantize import QuantizerConfig, VectorQuantizer, forget_restarted

PARTS = ("encoder", "decoder", "latent_action", "dynamics")


def seeded(seed=0):
    return Sampler(generator=torch.Generator().manual_seed(seed))


def moves(a, b):
    """Which frames differ, ``[T]``."""
    return [bool(x) for x in (a != b).flatten(2).any(-1).any(0)]


def codes_of(model, batch=2, frames=5, seed=1):
    spec = model.encoder.spec
    codes = torch.randint(7, (batch, frames, spec.num_tokens, 1), generator=torch.Generator().manual_seed(seed))
    return Latent.build(spec, {("patches", "code"): codes})


@torch.no_grad()
def test_every_part_is_causal(genie, video):
    model = genie().eval()
    changed = video.clone()
    changed[:, 2] = 1 - changed[:, 2]
    after = [False, False, True, True, True]
    vectors = model.encoder.to_code(model.encoder.transformer(model.encoder.embed_patches(
        torch.rand(2, 4, model.spec.num_tokens, model.encoder.embed_patches.in_features))))
    assert vectors.shape == (2, 4, model.spec.num_tokens, 4)
    seen = [model.encoder(v, sampler=MEANS).posterior.params["patches", "code"] for v in (video, changed)]
    assert moves(*seen) == after
    z, other = codes_of(model), codes_of(model)
    other.values["patches", "code"][:, 2] = (other.values["patches", "code"][:, 2] + 1) % 7
    assert moves(model.decode(z).video, model.decode(other).video) == after
    action = model.latent_action
    found = [action.to_code(action.encoder(torch.rand(2, 5, 7, 16, generator=torch.Generator().manual_seed(k))))
             for k in (0, 0)]
    assert torch.equal(*found)
    drawn = [action.draw(v[:, :4], torch.ones(2, 4, 4)) for v in (video, changed)]
    assert moves(*drawn) == after[:4]
    losses = [model.dynamics.loss(x, Condition(frame=torch.ones(2, 4, 4)), seeded())["cross_entropy"]
              for x in (z, other)]
    assert moves(*(x[..., None] for x in losses)) == after[1:]


@torch.no_grad()
def test_the_decoder_of_latent_actions_does_not_see_what_it_draws(genie, video):
    action = genie().eval().latent_action
    codes = torch.zeros(2, 4, dtype=torch.long)
    other = codes.clone()
    other[:, 2] = 1
    base, told = (action.draw(video[:, :4], action.quantizer.look_up(c)) for c in (codes, other))
    assert moves(base, told) == [False, False, True, True]  # index t draws frame t + 1
    patches = (base - told)[0, 2].abs().sum(0).unfold(0, 8, 8).unfold(1, 8, 8).sum((-1, -2))
    assert (patches > 0).all()
    reached = video.clone()
    reached[:, 3] = 1 - reached[:, 3]

    def vectors(v):
        tokens = action.embed_patches(torch.stack([f.flatten(1) for f in v.unfold(3, 8, 8).unfold(4, 8, 8)
                                                   .permute(0, 1, 3, 4, 2, 5, 6).flatten(0, 1).flatten(1, 2)])
                                      .unflatten(0, v.shape[:2]))
        token = action.action_token.expand(*v.shape[:2], 1, -1)
        return action.to_code(action.encoder(torch.cat([token, tokens], 2))[:, 1:, 0])

    assert moves(vectors(video)[..., None], vectors(reached)[..., None]) == [False, False, True, True]


@torch.no_grad()
@pytest.mark.parametrize("told", ["add", "prepend"])
def test_an_action_moves_the_frame_it_leads_to(genie, told):
    model = genie(dynamics={"dim": 16, "num_layers": 2, "num_heads": 2, "steps": 3, "told": told}).eval()
    dynamics, z = model.dynamics, codes_of(model)
    cond = Condition(frame=torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(3)))
    other = Condition(frame=cond.frame.clone())
    other.frame[:, 2] += 1
    logits = [dynamics.logits(dynamics._whole(z.values["patches", "code"][..., 0], c)) for c in (cond, other)]
    assert moves(*logits) == [False, False, False, True, True]  # transition 2 leads to frame 3
    # sampler and training say the same, also once the window has slid and a new frame is its first
    dynamics.sampling = Refinement(1, 1.0, "confidence", 0.0)
    state = dynamics.start(z, cond)  # five frames of which the window keeps four
    found = dynamics.predict(state, other.at(slice(2, 3)), MEANS, mean=False)
    kept = torch.cat([z.values["patches", "code"][:, 1:, :, 0], torch.zeros(2, 1, 6, dtype=torch.long)], 1)
    masked = torch.zeros(kept.shape, dtype=torch.bool)
    masked[:, -1] = True
    leading = Condition(frame=torch.cat([cond.frame[:, 1:], other.frame[:, 2:3]], 1))
    expected = dynamics.logits(dynamics._whole(kept, leading, masked))[:, -1].argmax(-1)
    assert torch.equal(found.values["patches", "code"][:, 0, :, 0], expected)


@torch.no_grad()
def test_caches_change_nothing(genie):
    model = genie().eval()
    dynamics, z = model.dynamics, codes_of(model, frames=4)
    cond = Condition(frame=torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(3)))
    state, seen = dynamics.start(z[:, :2], cond.at(slice(0, 1))), z[:, :2]
    for t in range(1, 6):  # beyond the window of four
        fresh = dynamics.start(seen, cond.at(slice(0, t)))
        found, again = (dynamics.predict(s, cond.at(slice(t, t + 1)), seeded(t), mean=True) for s in (state, fresh))
        assert torch.equal(found.values["patches", "code"], again.values["patches", "code"]), t
        dynamics.observe(state, found)
        seen = Latent.cat([seen, found])


def test_every_loss_reaches_its_own_part_and_all_of_it(genie, video):
    stages = {
        "reconstruction": dict(dynamics=None, latent_action=None, objective="reconstruction", timestep_horizon=5),
        "latent-action": dict(dynamics=None, objective={"name": "latent-action", "num_frames": 5}),
        "two-stage": {}, "both": dict(objective={"num_frames": 5, "actions": "learn"}),
    }
    learn = {"reconstruction": {"encoder", "decoder"}, "latent-action": {"latent_action"}, "two-stage": {"dynamics"},
             "both": {"dynamics", "latent_action"}}
    for stage, overrides in stages.items():
        model = genie(**overrides).train()
        before = {name: x.clone() for name, x in model.state_dict().items()}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
        for step in range(3):
            optimizer.zero_grad()
            model.loss(Batch(video), step, sampler=seeded(step)).total.backward()
            optimizer.step()
        got = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
        assert got == learn[stage], stage
        silent = [name for name, p in model.named_parameters()
                  if name.split(".")[0] in got and (p.grad is None or not p.grad.abs().sum())]
        assert silent == [], stage
        frozen = [name for name, x in model.state_dict().items()
                  if name.split(".")[0] not in learn[stage] and not torch.equal(x, before[name])]
        assert frozen == [], stage


def test_what_is_hidden_in_training(genie):
    model = genie(shaken=False)
    dynamics, codes = model.dynamics, torch.zeros(2000, 5, 6, dtype=torch.long)
    masked = dynamics.mask(codes, seeded())
    share = masked[:, 1:].float().mean((1, 2))
    assert not masked[:, 0].any() and masked[:, -1].any()
    assert abs(share.mean() - 0.75) < 0.01 and share.std() > 0.1 and (share > 0.2).all()
    z = codes_of(model, batch=64)
    kept = z.values["patches", "code"].clone()
    loss = dynamics.loss(z, Condition(), seeded())["cross_entropy"].mean()
    assert abs(loss - math.log(7)) < 0.1 and torch.equal(kept, z.values["patches", "code"])
    hidden = dynamics.mask(kept[..., 0], seeded())
    logits = dynamics.logits(dynamics._whole(kept[..., 0], Condition(), hidden))
    by_clip = [torch.nn.functional.cross_entropy(logits[b][hidden[b]], kept[b, ..., 0][hidden[b]]) for b in range(64)]
    torch.testing.assert_close(loss, torch.stack(by_clip).mean())
    shown = genie(dynamics={"dim": 16, "num_layers": 1, "num_heads": 2, "clean_history": 1.0}).dynamics.mask(codes,
                                                                                                      seeded())
    first = shown.any(-1).float().argmax(1)
    assert set(first.tolist()) >= {1, 2, 3, 4} and not shown[:, 0].any()


@torch.no_grad()
@pytest.mark.parametrize("order", ["confidence", "random"])
def test_tokens_are_put_down_by_schedule_and_stay(genie, order):
    model = genie().eval()
    dynamics, z = model.dynamics, codes_of(model, frames=2)
    for steps in (1, 3, 20):  # 20 is more than there are tokens
        dynamics.sampling = Refinement(steps, 2.0, order, 1.0)
        state, told = dynamics.start(z, Condition()), torch.zeros(2, 1, 1, 16)
        before, still, counts = None, torch.ones(2, 1, 6, dtype=torch.bool), []
        for codes, masked in dynamics.rounds(state, told, seeded()):
            assert (masked <= still).all() and (codes >= 0).all() and (codes < 7).all()
            if before is not None:
                assert torch.equal(codes[~still], before[~still])
            assert (masked.sum(-1) == masked.sum(-1)[0]).all()
            before, still, counts = codes, masked, [*counts, int(masked[0].sum())]
        assert not still.any()
        assert counts == [n for n, last in zip(masked_counts(6, steps), [6, *masked_counts(6, steps)], strict=False)
                          if n != last]
        again = [dynamics.predict(dynamics.start(z, Condition()), Condition(), seeded(4), mean=True).values[
            "patches", "code"] for _ in range(2)]
        assert torch.equal(*again)


@torch.no_grad()
def test_a_higher_temperature_draws_more_freely(genie):
    model = genie().eval()
    dynamics, z = model.dynamics, codes_of(model, batch=1, frames=1)
    dynamics.to_logits.weight.mul_(20)
    z = z.map(lambda x: x.expand(400, -1, -1, -1))
    entropies = []
    for temperature in (0.2, 1.0, 5.0):
        dynamics.sampling = replace(dynamics.sampling, steps=1, temperature=temperature)
        codes = dynamics.predict(dynamics.start(z, Condition()), Condition(), seeded(), mean=True).values[
            "patches", "code"][:, 0, 0, 0]
        shares = torch.bincount(codes, minlength=7) / 400
        entropies.append(-torch.xlogy(shares, shares).sum().item())
    assert entropies[0] < entropies[1] < entropies[2]


@torch.no_grad()
def test_frames_are_drawn_with_their_history(genie, video):
    model = genie().eval()
    z = model.encode(video)
    whole = model.decode(z[:, :4]).video
    for t in range(4):
        torch.testing.assert_close(model.decode(z[:, : t + 1]).video[:, -1], whole[:, t])
        torch.testing.assert_close(model.decode(z[:, t : t + 1], before=z[:, :t]).video[:, 0], whole[:, t])
    alone = model.decode(z[:, 3:4]).video[:, 0]
    assert not torch.allclose(alone, whole[:, 3], atol=1e-4)
    out = model.rollout(video[:, :2], 9, deterministic=True)  # far beyond the window
    assert out.video.shape[1] == 9 and out.latent_actions.shape == (2, 10, 1, 1)
    drawn = model.decode(Latent.cat([out.context_latents, out.latents])).video[:, 2:]
    torch.testing.assert_close(out.video, drawn)
    dream = Dream(model, video[:, :2], sampler=MEANS)
    for t in range(6):
        dream.step()
        torch.testing.assert_close(dream.picture().video[:, 0], out.video[:, t])


@torch.no_grad()
def test_codes_steer(genie, video):
    model = genie().eval()
    found = model.infer_latent_actions(video)
    assert found.dtype == torch.int64 and found.shape == (2, 4, 1, 1)
    other = found.clone()
    other[:, 2:] = (other[:, 2:] + 1) % 3
    a, b = (model.rollout(video[:, :2], 3, latent_actions=x, generator=torch.Generator().manual_seed(0)).latents
            for x in (found, other))
    assert torch.equal(a.features[:, 0], b.features[:, 0]) and not torch.equal(a.features[:, 1], b.features[:, 1])
    policy = model.rollout(video[:, :1], 3, generator=torch.Generator().manual_seed(0))
    assert set(policy.latent_actions.flatten().tolist()) <= {0, 1, 2}
    z = model.encode(video)
    with pytest.raises(WorldkitError, match=r"read off video, and this starts from 5 frames of latents"):
        model.rollout(z, 2)
    with pytest.raises(WorldkitError, match="read off video"):
        model.infer_latent_actions(z)
    assert model.rollout(z[:, -1:], 2).latents.shape == (2, 2)
    assert model.rollout(z, 1, latent_actions=torch.zeros(2, 5, 1, 1, dtype=torch.long)).latents.shape == (2, 1)


def test_a_rested_code_is_restarted_and_a_used_one_is_not(genie, video):
    action = genie(objective="latent-action", dynamics=None, latent_action__quantizer__restart_after=2).train(
        ).latent_action
    with torch.no_grad():
        action.quantizer.codebook.copy_(torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0], [-1, 0, 0, 1e-3]]))
        action.to_code.weight.zero_()
        action.to_code.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
    before = action.quantizer.codebook.clone()
    for _ in range(3):
        action(None, Condition(), video=video)
    after = action.quantizer.codebook
    assert torch.equal(after[0], before[0]) and not torch.equal(after[1:], before[1:])
    assert action.usage[0] > 1 / 3


def test_clips_of_one_row_and_two_frames(genie, video):
    model = genie()
    assert torch.isfinite(model.loss(Batch(video[:1, :2])).total)
    assert torch.isfinite(model.eval().rollout(video[:1, :1], 1).video).all()


def test_what_is_wrong_is_said(genie, video):
    model = genie().eval()
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        replace(model.dynamics.sampling, steps=0)
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        replace(model.dynamics.sampling, temperature=0)
    with pytest.raises(ConfigError, match=r"dynamics.steps"):
        create_model("genie-mini", dynamics__steps=0)
    with pytest.raises(ShapeError, match=r"codes must be numbers from 0 to 2 .* got 0 to 3"):
        model.rollout(video[:, :1], 1, latent_actions=torch.tensor([0, 3]).view(2, 1, 1, 1))
    bad = model.encode(video[:, :1]).map(lambda x: x + 7)
    with pytest.raises(ShapeError, match="codes must be numbers from 0 to 6"):
        model.decode(bad)
    with pytest.raises(ConfigError, match="sees one camera"):
        genie(obs={"height": 24, "width": 16, "views": 2})
    with pytest.raises(IncompatibleComponentsError, match="objectives that have them: .*latent-action, two-stage"):
        genie(objective="elbo")
    with pytest.raises(IncompatibleComponentsError, match="dynamics 'maskgit' needs .*, but encoder 'vit'"):
        genie(encoder="vit", decoder=None)
    with pytest.raises(IncompatibleComponentsError, match="trains latent actions, but none is set"):
        genie(latent_action=None, objective="latent-action")


@torch.no_grad()
def test_a_prompt_longer_than_the_window_counts_with_its_end(genie, video):
    """The dynamics sees four frames; codes and latent actions of the others are let go."""
    model = genie().eval()
    z = model.encode(torch.cat([video, video], 1))
    actions = torch.ones(2, 10, 1, 1, dtype=torch.long)
    a = model.rollout(z, 1, latent_actions=actions, deterministic=True).latents
    b = model.rollout(z[:, -4:], 1, latent_actions=actions[:, :4], deterministic=True).latents
    assert torch.equal(a.features, b.features)


def test_an_optimiser_forgets_codes_that_were_restarted():
    quantizer = VectorQuantizer(QuantizerConfig(codes=3, dim=2, restart_after=1)).train()
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=1e-3)
    forget_restarted(optimizer, quantizer)
    z = torch.tensor([[[9.0, 0.0], [9.0, 0.1]]])
    for _ in range(3):
        optimizer.zero_grad()
        quantizer(z).loss.sum().backward()
        optimizer.state[quantizer.codebook].setdefault("exp_avg", torch.zeros(3, 2)).fill_(7.0)
        optimizer.state[quantizer.codebook].setdefault("exp_avg_sq", torch.ones(3, 2))
        optimizer.state[quantizer.codebook].setdefault("step", torch.tensor(1.0))
        optimizer.step()
        left = optimizer.state[quantizer.codebook]["exp_avg"][:, 1].abs() > 1
        assert torch.equal(left, ~quantizer.restarted), (left, quantizer.restarted)
    assert quantizer.restarted.any() and not quantizer.restarted.all()
