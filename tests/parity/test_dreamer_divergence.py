"""Divergences as PlaNet and Dreamer v2 count them, overshooting, and pictures of five bits."""

from types import SimpleNamespace

import pytest
import torch

from worldkit.conditions import Condition
from worldkit.distributions import Categorical, Delta, Sampler
from worldkit.latents import Field, LatentDist, LatentSpec, TokenGroup
from worldkit.objectives.divergence import balanced, beyond, divergence
from worldkit.objectives.planet import coarse, overshoot

from .dreamer_weights import MISSING, ROOT, arrays, close, files, name_of
from .test_dreamer_rssm import FILES, Case

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)


@pytest.mark.parametrize("path", files("*/*kl*.npz"), ids=name_of)
def test_balanced(path):
    stored = arrays(path)
    classes, cases = stored["post"].shape[-1], sorted({key.split("_")[0] for key in stored if key.endswith("_args")})
    spec = LatentSpec((TokenGroup("state", 1, (Field("drawn", stored["post"][0, 0].numel(), Categorical(classes)),)),))
    for case in cases:
        balance, free, of_mean, forward = stored[f"{case}_args"].tolist()
        leaves = [stored[name].clone().requires_grad_() for name in ("post", "prior")]
        posterior, prior = (LatentDist(spec, {("state", "drawn"): x.flatten(2)[:, :, None]}) for x in leaves)
        loss, value = balanced(posterior, prior, balance=balance, free=free, of="mean" if of_mean else "frame",
                               forward=bool(forward))
        close(loss, stored[f"{case}_loss"], f"{case}_loss")
        close(value, stored[f"{case}_value"], f"{case}_value")
        loss.backward()
        for leaf, name in zip(leaves, ("post", "prior"), strict=True):
            close(leaf.grad, stored[f"{case}_grad_{name}"], f"{case}_grad_{name}")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_beyond_free_nats(path):
    case = Case(path)
    wanted = {name: x for name, x in case.out.items() if name.startswith("divergence_loss_free")}
    if not wanted:
        pytest.skip("no such loss is stored")
    kl = divergence(case.found.posterior, case.found.prior)
    for name, x in wanted.items():
        close(beyond(kl, float(name.removeprefix("divergence_loss_free"))).mean(), x, name)


class Halves:
    """The cell of the official run: half of the state before, plus the action."""

    def prior(self, z, cond):
        return LatentDist(z.spec, {key: 0.5 * x + cond.frame[:, :, None] for key, x in z.values.items()})


@pytest.mark.parametrize("path", files("*/*overshooting*.npz"), ids=name_of)
def test_overshooting(path):
    stored = arrays(path)
    spec = LatentSpec((TokenGroup("state", 1, (Field("x", stored["obs"].shape[-1], Delta()),)),))
    inside = torch.arange(stored["obs"].shape[1]) < stored["length"][:, None]
    states = torch.cat([torch.zeros_like(stored["obs"][:, :1]), stored["obs"][:, :-1]], 1)
    first = LatentDist(spec, {("state", "x"): (0.5 * states + stored["prev_action"])[:, :, None]})
    seen = SimpleNamespace(prior=first, cond=Condition(frame=stored["prev_action"]))
    found = overshoot(Halves(), seen, int(stored["amount"]), Sampler())
    assert len(found) == stored["prior"].shape[2]
    for distance, (prior, known) in enumerate(found):
        frames = known.shape[1]
        mask = stored["mask"][:, :frames, distance]
        assert (mask <= known.bool()).all() and (mask == inside[:, distance:]).all()
        assert not stored["mask"][:, frames:, distance].any()
        wanted = stored["prior"][:, :frames, distance]
        close(prior.params["state", "x"][:, :, 0][mask], wanted[mask], f"{distance} ahead", 1e-6)  # stored in float32


@pytest.mark.parametrize("path", files("*/*preprocess*.npz"), ids=name_of)
def test_coarse_pictures(path):
    stored = arrays(path)
    bits = int(stored["bits"])

    class Noise(Sampler):
        def uniform(self, name, like):
            return stored["noise"] * 2**bits

    close(coarse(stored["image"].double() / 255, bits, Noise()) - 0.5, stored["out"], "picture")
