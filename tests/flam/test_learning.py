"""FLAM learns on a board of 4 x 4 cells given as vectors, in seconds: more factors than actors do no harm."""

import pytest
import torch

from worldkit.conditions import Condition
from worldkit.distributions import MEANS, Delta
from worldkit.latents import Field, Latent, LatentSpec, TokenGroup
from worldkit.registry import dynamics, latent_actions

SIDE, ACTORS = 4, 2
SPEC = LatentSpec((TokenGroup("patches", SIDE**2, (Field("features", 3, Delta(), "which actor"),)),), kind="patches",
                  grid=(SIDE, SIDE))
MOVES = torch.tensor([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])


def clips(generator, batch=32, frames=3):
    """Actors that stay or go a cell up, down, left or right; every cell says who is in it."""
    at, seen = torch.randint(SIDE, (batch, ACTORS, 2), generator=generator), []
    for _ in range(frames):
        board = torch.full((batch, SIDE**2, 3), -0.5)
        for actor in range(ACTORS):
            board[torch.arange(batch), at[:, actor, 0] * SIDE + at[:, actor, 1]] = torch.eye(3)[actor]
        seen.append(board)
        at = (at + MOVES[torch.randint(5, (batch, ACTORS), generator=generator)]).clamp(0, SIDE - 1)
    return Latent.build(SPEC, {("patches", "features"): torch.stack(seen, 1)})


def learn(num_factors, *, seed=0, steps=300, lr=3e-3):
    """Error of the next frame over that of copying, mean of the last 50 steps; actions are read off what came."""
    torch.manual_seed(seed)
    sizes = {"dim": 32, "num_layers": 1, "num_heads": 2}
    cls = dynamics.get("flam")
    forward = cls(cls.Config(num_factors=num_factors, aggregator_layers=1, num_iterations=2, **sizes), spec=SPEC,
                  anchors={}, window=2)
    cls = latent_actions.get("factored")
    inverse = cls(cls.Config(action_dim=4, center="batch", **sizes), spec=forward.factor_spec, anchors={}, window=2,
                  dynamics_dim=32)
    weights = [*forward.parameters(), *inverse.parameters()]
    optimizer = torch.optim.AdamW(weights, lr, betas=(0.9, 0.98))
    generator, shares = torch.Generator().manual_seed(seed), []
    for step in range(steps):
        z = clips(generator)
        slots = forward.factors(z)
        action = inverse(slots, Condition())[0].sample(MEANS, "action")
        predicted = forward.prior(z[:, :-1], inverse.condition(action), factors=slots[:, :-1]).mode().pack()
        error, copied = ((x - z[:, 1:].pack()).square().mean() for x in (predicted, z[:, :-1].pack()))
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 50)
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        shares.append((error / copied).item())
    return sum(shares[-50:]) / 50


@pytest.mark.slow
def test_more_factors_than_actors_do_no_harm():
    as_many, more = learn(ACTORS), learn(ACTORS + 3)
    assert as_many < 0.55, "actions say nothing"
    assert more < 1.1 * as_many
