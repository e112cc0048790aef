"""CMA-ES as a run needs it: candidates are scored in any order, and a run that was killed goes on as if it were not.

Nothing of the package ``cma`` is stored but the scores it was told: with the same seed the same scores lead to the same
candidates, so going on is being told everything once more.

Source: Hansen (arXiv:1604.00772); package ``cma``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError, require_extra


class Evolution:
    """Vectors that get better.

    Args:
        size: Numbers of a vector.
        population: Candidates of a generation.
        sigma: Deviation of the first ones, around zeros.
        episodes: Scores that a candidate is given before its generation is over.
        seed: Of the candidates.
    Attributes:
        candidates: Of this generation, ``[population, size]``.
        generation: Its number, from 0.
    Raises:
        MissingExtraError: the package ``cma`` is missing.
    Example::

        evolution = Evolution(3, population=8, sigma=0.5, episodes=1, seed=0)
        while evolution.generation < 30:
            number = evolution.next()
            evolution.tell(number, -evolution.candidates[number].square().sum().item())
        evolution.mean
    """

    def __init__(self, size: int, *, population: int, sigma: float, episodes: int, seed: int):
        self.size, self.population, self.sigma, self.episodes, self.seed = size, population, sigma, episodes, seed
        self._begin([])

    def _begin(self, history: list[list[float]]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about plots
            cma = require_extra("cma", "evolution", "training agent 'controller'")
        random = np.random.RandomState(self.seed)
        options = {"popsize": self.population, "randn": lambda *shape: random.randn(*shape), "seed": np.nan,
                   "verbose": -9, "CMA_diagonal": False, "maxiter": np.inf}
        self._strategy = cma.CMAEvolutionStrategy(np.zeros(self.size), self.sigma, options)
        self.history: list[list[float]] = []
        self._ask()
        for scores in history:
            self._select(scores)

    def _ask(self) -> None:
        self._asked = self._strategy.ask()
        self.candidates = torch.from_numpy(np.stack(self._asked)).float()
        self.scores: list[list[float]] = [[] for _ in range(self.population)]

    def _select(self, scores: list[float]) -> None:
        self._strategy.tell(self._asked, [-score for score in scores])
        self.history.append(scores)
        self._ask()

    @property
    def generation(self) -> int:
        return len(self.history)

    @property
    def mean(self) -> Tensor:
        """The middle of what is being tried, which is better than any single one of it, ``[size]``."""
        return torch.from_numpy(np.asarray(self._strategy.result.xfavorite)).float()

    def next(self, busy: list[int] = []) -> int:  # noqa: B006 - never written to
        """Who should be tried next: the first of those with the fewest scores, of ``busy`` ones also those to come."""
        known = [len(scores) + busy.count(number) for number, scores in enumerate(self.scores)]
        return known.index(min(known))

    def tell(self, number: int, score: float) -> bool:
        """A score of a candidate; scores beyond ``episodes`` count, too. Whether that ended the generation."""
        self.scores[number].append(float(score))
        if min(map(len, self.scores)) < self.episodes:
            return False
        self._select([float(np.mean(scores)) for scores in self.scores])
        return True

    def state_dict(self) -> dict[str, Any]:
        """Everything that was told."""
        return {"history": [list(scores) for scores in self.history], "scores": [list(x) for x in self.scores]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            ConfigError: it was told of another number of candidates.
        """
        if any(len(scores) != self.population for scores in [*state["history"], state["scores"]]):
            raise ConfigError(f"agent.population is {self.population}, but this run had another: leave it as it was, "
                              "or give another folder (--run)")
        self._begin(state["history"])
        self.scores = [list(scores) for scores in state["scores"]]
