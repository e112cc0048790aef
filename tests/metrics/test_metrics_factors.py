"""Factor-agent scores: what they say of factors that are made up."""

import pytest
import torch
import torch.nn.functional as F

import worldkit as wk
from worldkit.metrics import change_inside, factor_agent_scores


def sample(seed=0, count=1200, agents=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, (count, agents, 2), generator=generator), generator


def held(labels, agent):
    """One-hot row and column of an agent, ``[M, 8]``."""
    return F.one_hot(labels[:, agent], 4).float().flatten(1)


def test_one_factor_per_agent_and_others_that_hold_nothing():
    labels, generator = sample()
    noise = torch.randn(len(labels), 8, generator=generator)
    scores = factor_agent_scores(torch.stack([noise, held(labels, 1), held(labels, 0)], 1), labels)
    assert scores.matched.tolist() == [2, 1] and scores.informativeness == 1
    assert scores.disentanglement > 0.85 and scores.completeness > 0.85
    assert scores.accuracy[0].max() < 0.15 and scores.chance.max() < 0.15


def test_a_factor_of_two_agents_is_complete_but_not_pure():
    labels, generator = sample()
    both = torch.cat([held(labels, 0), held(labels, 1)], -1)
    scores = factor_agent_scores(torch.stack([both, torch.randn(*both.shape, generator=generator)], 1), labels)
    assert scores.disentanglement < 0.1 and scores.completeness > 0.9 and scores.informativeness < 0.6


def test_an_agent_in_two_factors_is_pure_but_not_complete():
    labels, _ = sample(agents=1)
    scores = factor_agent_scores(torch.stack([held(labels, 0)] * 2, 1), labels)
    assert scores.disentanglement == 1 and scores.completeness < 0.01 and scores.informativeness == 1


def test_fewer_factors_than_agents_cost():
    labels, _ = sample()
    scores = factor_agent_scores(held(labels, 1)[:, None], labels)
    assert scores.matched.tolist() == [-1, 0] and scores.informativeness == 0.5


def test_noise_says_nothing():
    labels, generator = sample()
    scores = factor_agent_scores(torch.randn(len(labels), 3, 8, generator=generator), labels)
    assert scores.informativeness < 0.12


def test_probes_are_scored_on_samples_they_have_not_seen():
    labels = torch.randint(4, (60, 1, 1), generator=torch.Generator().manual_seed(0))
    wide = torch.randn(60, 1, 200, generator=torch.Generator().manual_seed(1))  # enough to learn any labels by heart
    assert factor_agent_scores(wide, labels, ridge=1e-9).informativeness < 0.6


def test_what_does_not_fit():
    labels, _ = sample(count=4)
    with pytest.raises(wk.errors.ShapeError, match="4 of 4 samples would train the probes"):
        factor_agent_scores(torch.randn(4, 2, 3), labels, train=4)
    with pytest.raises(wk.errors.ShapeError, match="labels"):
        factor_agent_scores(torch.randn(5, 2, 3), labels)


def test_share_of_changes():
    before = torch.zeros(2, 3, 4, 4)
    after, inside = before.clone(), torch.zeros(2, 4, 4, dtype=torch.bool)
    after[0, 1, :2, :2], after[0, 2, 3, 3], after[1] = 0.5, 0.05, 0.09
    inside[:, :1] = True
    share, count = change_inside(before, after, inside)
    assert share[0] == 0.5 and count.tolist() == [4, 0] and share[1].isnan()
