"""A dynamics that filters, as small as one can be: a GRU cell for every token, a Gaussian part, nothing else.

Over particles the encoder's fields stay beside the state, and the posterior passes them on as they were seen.
"""

from dataclasses import replace

import pytest
import torch
from einops import rearrange
from torch import nn

import worldkit as wk
from worldkit.config import ComponentConfig
from worldkit.distributions import Delta, Normal
from worldkit.dynamics.filtering import Filtered, FilteringDynamics, kept, stacked
from worldkit.latents import Field, LatentDist, TokenGroup
from worldkit.nn.spec import LatentEmbed, LatentHead
from worldkit.registry import Entry, dynamics
from worldkit.testing.examples import small_config


class TinyConfig(ComponentConfig):
    name: str = "tiny-filter"
    deterministic: int = 6
    stochastic: int = 4


class Tiny(FilteringDynamics):
    Config = TinyConfig
    takes = frozenset({"frame", "token", "memory"})

    def __init__(self, config, *, spec, anchors, window, memory_length=0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        width = self.cond_dim = config.deterministic
        own = Field("deterministic", width, Delta()), Field("stochastic", config.stochastic, Normal())
        drawn = [(TokenGroup(g.name, g.size, (*(g.fields if spec.kind == "particles" else ()), own[1]), g.drawn))
                 for g in spec.groups]
        drawn_spec = replace(spec, groups=tuple(drawn))
        groups = [replace(g, fields=(*g.fields[:-1], own[0], g.fields[-1])) for g in drawn]
        self.spec = replace(spec, groups=tuple(groups))
        self.look, self.state = LatentEmbed(spec, width), LatentEmbed(self.spec, width)
        self.cell = nn.GRUCell(width, width)
        self.before = LatentHead(drawn_spec, width)
        self.after = LatentHead(replace(spec, kind="latent", groups=tuple(replace(g, fields=(own[1],)) for g in drawn)),
                                width)

    def deter(self, z):
        return torch.cat([z.values[g.name, "deterministic"] for g in self.spec.groups], 2)

    def whole(self, deter, drawn):
        parts = deter.split([g.size for g in self.spec.groups], 2)
        known = {(g.name, "deterministic"): part for g, part in zip(self.spec.groups, parts, strict=True)}
        return LatentDist(self.spec, known | dict(drawn.params))

    def advance(self, z, cond):
        tokens, steer = self.state(z), cond.adaln()
        tokens = tokens if steer is None else tokens + steer
        tokens = tokens if cond.memory is None else tokens + cond.memory.mean(1)[:, None, None]
        b, t, n, _ = tokens.shape
        deter = self.cell(*(rearrange(x, "b t n d -> (b t n) d") for x in (tokens, self.deter(z))))
        return rearrange(deter, "(b t n) d -> b t n d", b=b, t=t, n=n)

    def prior(self, z, cond):
        deter = self.advance(z, cond)
        return self.whole(deter, self.before(deter))

    def filter(self, seen, cond, sampler, *, first, last=None):
        looked, priors, posteriors, states = self.look(seen.latent), [], [], []
        zeros = LatentDist(self.spec, {
            key: looked.new_zeros(len(looked), 1, self.spec.group(key[0]).size,
                                  self.spec.field(key).dist.param_dim(self.spec.field(key).dim))
            for key in self.spec.keys()}).mode().map(torch.nan_to_num)
        state = zeros if last is None else last
        for t in range(looked.shape[1]):
            state = state.map(lambda x, t=t: kept(x, first[:, t]))
            prior = self.prior(state, cond.at(slice(t, t + 1)))
            deter = torch.cat([prior.params[g.name, "deterministic"] for g in self.spec.groups], 2)
            found = dict(self.after(deter + looked[:, t : t + 1]).params)
            found |= {key: x[:, t : t + 1] for key, x in seen.posterior.params.items() if key in prior.params}
            posterior = self.whole(deter, LatentDist(self.before.spec, found))
            state = posterior.sample(sampler)
            state = wk.latents.Latent.build(self.spec, {
                key: seen.latent.values[key][:, t : t + 1] if key in seen.latent.values else x
                for key, x in state.values.items()})
            priors.append(prior), posteriors.append(posterior), states.append(state)
        return Filtered(stacked(states), stacked(posteriors), stacked(priors))


@pytest.fixture(autouse=True)
def tiny_filter(monkeypatch):
    monkeypatch.setitem(dynamics._entries, "tiny-filter", Entry("tiny-filter", Tiny, provider="__main__"))


ACTION = {"action": {"name": "action", "dim": 3}}


@pytest.fixture
def make():
    """make(seed=0, **overrides) -> a small model whose dynamics filters; patches, told actions, unless overridden."""

    def make(seed=0, **overrides):
        torch.manual_seed(seed)
        given = {"encoder": "patch", "dynamics": "tiny-filter", "latent_action": None, "conditioners": ACTION}
        return wk.assembly.build(small_config(**(given | overrides)))

    return make
