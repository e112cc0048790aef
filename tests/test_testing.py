"""The conformance checks catch faults planted on purpose, and say which."""

import pytest
import torch
from torch import nn

from worldkit.assembly import build
from worldkit.conditioners.action import ActionConditioner
from worldkit.decoders.particle import ParticleDecoder
from worldkit.dynamics.pint import PINT
from worldkit.encoders.particle import ParticleEncoder
from worldkit.latent_actions.gaussian import GaussianLatentAction
from worldkit.latents import LatentDist
from worldkit.objectives.base import Loss
from worldkit.objectives.elbo import ELBO
from worldkit.testing import (
    check_conditioner,
    check_decoder,
    check_dynamics,
    check_encoder,
    check_latent_action,
    check_model,
    check_objective,
)
from worldkit.testing.examples import SMALL, small_config

ENCODER, DECODER = SMALL["encoder"]["particle"], SMALL["decoder"]["particle"]
DYNAMICS, ACTION = SMALL["dynamics"]["pint"], SMALL["latent action"]["gaussian"]


def shifted(dist, f):
    return LatentDist(dist.spec, {key: p + f(p) for key, p in dist.params.items()})


class LooksAhead(PINT):
    def prior(self, z, cond):
        future = z.pack().mean((2, 3)).flip(1).cumsum(1).flip(1)  # [B, T]
        return shifted(super().prior(z, cond), lambda p: 0.1 * future[..., None, None])


class MixesSamples(PINT):
    def prior(self, z, cond):
        return shifted(super().prior(z, cond), lambda p: 0.1 * p.mean(0, keepdim=True))


class HasIdleParameter(PINT):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.idle = nn.Parameter(torch.zeros(3))


class ForgetsSteps(PINT):
    def step(self, carry, cond):
        return shifted(super().step(carry, cond), lambda p: 0.01)


class GivesNaN(PINT):
    def prior(self, z, cond):
        return shifted(super().prior(z, cond), lambda p: torch.nan)


class WrongLength(PINT):
    def prior(self, z, cond):
        return super().prior(z, cond)[:, 1:]


class IsRandom(PINT):
    def prior(self, z, cond):
        return shifted(super().prior(z, cond), lambda p: 0.1 * torch.rand(()))


class HidesState(PINT):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.secret = torch.randn(())  # neither parameter nor buffer: not saved

    def prior(self, z, cond):
        return shifted(super().prior(z, cond), lambda p: 0.1 * self.secret)


@pytest.mark.parametrize(("fault", "message"), [
    (LooksAhead, "causality: an earlier prior, when the last latent changes, differs by"),
    (MixesSamples, "batch independence: the prior of sample 0, when sample 1 changes, differs by"),
    (HasIdleParameter, "gradient reaches every parameter: 1 without .*idle"),
    (ForgetsSteps, "rollout steps agree with prior.*step 1 .exact. inside the window differs by 0.01"),
    (GivesNaN, "finite values: prior particles.position has .* NaN"),
    (WrongLength, r"shapes: prior particles.position is \[2, 3, 5, 4\], expected \[2, 4, 5, 4\]"),
    (IsRandom, "differs by"),
    (HidesState, "save and load: output 0 of the reloaded copy differs by"),
])
def test_faulty_dynamics(fault, message):
    with pytest.raises(AssertionError, match=f"^dynamics '{fault.__name__}': .*{message}"):
        check_dynamics(fault, **DYNAMICS)


class CutOff(ParticleEncoder):
    def _appearance(self, *args):
        features, glimpses = super()._appearance(*args)
        return features.detach(), glimpses


class AveragesTime(ParticleEncoder):
    def fold_frames(self, video):
        return super().fold_frames(video + 0.1 * video.mean(1, keepdim=True))


class NormalisesBatch(ParticleEncoder):
    def fold_frames(self, video):
        return super().fold_frames(video - video.mean((0, 1), keepdim=True))


class TakesAnyRank(ParticleEncoder):
    def fold_frames(self, video):
        return super().fold_frames(video if video.ndim == 5 else video[None])


class IgnoresGenerator(ParticleEncoder):
    def forward(self, video, *, sampler):
        sampler.generator = None
        return super().forward(video, sampler=sampler)


@pytest.mark.parametrize(("fault", "message"), [
    (CutOff, "gradient reaches every parameter: .*appearance_cnn"),
    (AveragesTime, "causality: the latent of earlier frames, when the last one changes, differs by"),
    (NormalisesBatch, "differs by"),
    (TakesAnyRank, "wrong rank: a video without batch axis was accepted"),
    (IgnoresGenerator, "determinism under a generator"),
])
def test_faulty_encoder(fault, message):
    with pytest.raises(AssertionError, match=f"^encoder '{fault.__name__}': .*{message}"):
        check_encoder(fault, **ENCODER)


class SmearsTime(ParticleDecoder):
    def forward(self, z, *, masks=False):
        out = super().forward(z, masks=masks)
        object.__setattr__(out, "video", out.video + 0.1 * out.video.mean(1, keepdim=True))
        return out


def test_faulty_decoder():
    with pytest.raises(AssertionError, match="causality: the picture of earlier frames"):
        check_decoder(SmearsTime, **DECODER)


class KnowsOutcome(GaussianLatentAction):
    """A policy that has seen what it should guess."""

    def forward(self, z, cond):
        posterior, prior = super().forward(z, cond)
        hint = torch.cat([posterior.params[:, :1] * 0, posterior.params], 1).roll(-1, 1)
        return posterior, type(prior)(prior.dist, prior.params + hint)


def test_faulty_latent_action():
    with pytest.raises(AssertionError, match="causality: an earlier prior, when the last frame changes"):
        check_latent_action(KnowsOutcome, **ACTION)


class LeaksMasked(ActionConditioner):
    def forward(self, raw, mask, *, view):
        return super().forward(raw, None, view=view)


class AcceptsAnything(ActionConditioner):
    def check(self, raw, *, name):
        pass


class LooksAtNextAction(ActionConditioner):
    def forward(self, raw, mask, *, view):
        return super().forward(raw + raw.roll(-1, 1), mask, view=view)


@pytest.mark.parametrize(("fault", "message"), [
    (LeaksMasked, "gradient reaches every parameter: 1 without .*null"),
    (AcceptsAnything, "wrong rank: a value without batch axis was accepted"),
    (LooksAtNextAction, "causality: an earlier condition"),
])
def test_faulty_conditioner(fault, message):
    with pytest.raises(AssertionError, match=f"^conditioner '{fault.__name__}': .*{message}"):
        check_conditioner(fault, dim=3, null_embedding=True)


class KeepsGraph(ELBO):
    def forward(self, model, batch, step, *, sampler):
        loss = super().forward(model, batch, step, sampler=sampler)
        return Loss(loss.total, {**loss.terms, "kept": loss.total})


class ForgetsDynamics(ELBO):
    def _dynamic_kl(self, *args):
        return {}, None, None


@pytest.mark.parametrize(("fault", "message"), [
    (KeepsGraph, "terms are detached: loss term kept"),
    (ForgetsDynamics, "gradient reaches every parameter: .*dynamics"),
])
def test_faulty_objective(fault, message):
    with pytest.raises(AssertionError, match=message):
        check_objective(fault)


def test_faulty_model():
    model = build(small_config(latent_action=None))

    def mixed(z, cond, prior=model.dynamics.prior):
        return shifted(prior(z, cond), lambda p: 0.1 * p.mean(0, keepdim=True))

    model.dynamics.prior = mixed
    message = "^model 'ComposedWorldModel': batch independence: the prior of sample 0"
    with pytest.raises(AssertionError, match=message):
        check_model(model)


def test_unknown_name_is_a_worldkit_error():
    with pytest.raises(LookupError, match="pint"):
        check_dynamics("pnit")
