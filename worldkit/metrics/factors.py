"""Do factors stand for agents? Factor-agent disentanglement, completeness and informativeness, and who an edit changes.

A linear probe per factor and agent says how well the agent's label (its cell, or what it did) is read off that factor
alone, on clips that the probe has not seen. How much better than the most frequent label is how important the factor
is for the agent; 0 within three standard errors of that. Then, as DCI (Eastwood and Williams 2018):

* disentanglement, of a factor: 1 - the entropy of its importance over agents; of all: weighted by their importance;
* completeness, of an agent: 1 - the entropy of importance over factors; of all: the mean;
* informativeness: accuracy of the probes of matched pairs, factors and agents matched one to one for the best sum.

All three are in [0, 1]. Source: FLAM (arXiv:2602.16229) for the protocol (linear probes per slot, Hungarian match,
normalised entropies, matched accuracy). How importance is made of accuracies, ridge regression on one-hot labels as the
probe, and the split are ours: only rows of one table compare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import check_shape
from ..errors import ShapeError


@dataclass(frozen=True)
class FactorScores:
    """How K factors stand for A agents.

    Attributes:
        disentanglement, completeness, informativeness: See `worldkit.metrics.factors`.
        accuracy: Of the probe of every factor and agent on held-out samples, ``[K, A]``.
        chance: Accuracy of the most frequent label, ``[A]``.
        matched: The factor of every agent, int64 ``[A]``; -1 where there are fewer factors than agents.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    accuracy: Tensor
    chance: Tensor
    matched: Tensor

    def __str__(self) -> str:
        return (f"disentanglement {self.disentanglement:.2f}, completeness {self.completeness:.2f}, informativeness "
                f"{self.informativeness:.2f}")


def factor_agent_scores(factors: Tensor, labels: Tensor, *, train: int | None = None, ridge: float = 1e-3
                        ) -> FactorScores:
    """Scores of factors, of samples that come in order (clip by clip): the first ones train the probes.

    Args:
        factors: What every factor holds, ``[M, K, D]``.
        labels: What there is to know of every agent, int64 ``[M, A, L]``: L whole numbers, all of which a probe has to
            get right (row and column of its cell).
        train: So many samples train the probes; default: half.
        ridge: Of the regression, relative to the mean variance of the numbers it reads.
    Raises:
        ShapeError: shapes do not fit, or there are too few samples for both halves.
    Example:
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> labels = torch.randint(4, (400, 2, 1))
        >>> alone = torch.nn.functional.one_hot(labels[:, :, 0], 4).float()  # factor k holds agent k
        >>> print(factor_agent_scores(alone, labels))
        disentanglement 1.00, completeness 1.00, informativeness 1.00
        >>> both = alone.flatten(1)[:, None].expand(-1, 2, -1)  # either holds both
        >>> print(factor_agent_scores(both, labels))
        disentanglement 0.00, completeness 0.00, informativeness 1.00
    """
    from scipy.optimize import linear_sum_assignment

    sizes = check_shape(factors, "m k d", name="factors")
    agents = check_shape(labels, "m a l", name="labels", m=sizes["m"])["a"]
    train = sizes["m"] // 2 if train is None else train
    if not 2 <= train < sizes["m"]:
        raise ShapeError(f"{train} of {sizes['m']} samples would train the probes: leave at least one to test them, "
                         "and give more samples")
    accuracy = torch.stack([_accuracy(factors[:, k], labels, train, ridge) for k in range(sizes["k"])])
    usual = labels[:train].mode(0).values
    chance = (labels[train:] == usual).all(-1).double().mean(0)
    error = (chance * (1 - chance) / (sizes["m"] - train)).sqrt()
    importance = torch.where(accuracy > chance + 3 * error, (accuracy - chance) / (1 - chance).clamp(min=1e-9), 0.0)
    share = importance.sum(1) / importance.sum().clamp(min=1e-12)
    rows, columns = linear_sum_assignment(-accuracy.numpy())
    matched = torch.full((agents,), -1)
    matched[torch.from_numpy(columns)] = torch.from_numpy(rows)
    return FactorScores(
        float((share * _purity(importance)).sum()), float(_purity(importance.T).mean()),
        float(accuracy[rows, columns].sum() / agents), accuracy, chance, matched)


def _accuracy(x: Tensor, labels: Tensor, train: int, ridge: float) -> Tensor:
    """Held-out accuracy of linear probes that read ``[M, D]``, for every agent ``[A]``."""
    x = x.double()
    x = torch.cat([x - x[:train].mean(0), torch.ones_like(x[:, :1])], -1)
    seen, rest = x[:train], x[train:]
    gram = seen.T @ seen / train
    gram += (ridge * gram.diagonal().mean() + 1e-9) * torch.eye(len(gram), dtype=gram.dtype)
    right = torch.ones(labels[train:].shape[:2], dtype=torch.bool)
    for part in labels.unbind(-1):
        classes = int(part.max()) + 1
        targets = torch.nn.functional.one_hot(part[:train], classes).double().flatten(1)
        weights = torch.linalg.solve(gram, seen.T @ targets / train)
        right &= (rest @ weights).unflatten(-1, (-1, classes)).argmax(-1) == part[train:]
    return right.double().mean(0)


def _purity(importance: Tensor) -> Tensor:
    """1 - the entropy of each row's shares over that of equal shares, ``[rows]``; 0 of a row without importance."""
    total, count = importance.sum(-1, keepdim=True), importance.shape[-1]
    if count == 1:
        return (total[..., 0] > 0).double()
    shares = importance / total.clamp(min=1e-12)
    entropy = -torch.xlogy(shares, shares).sum(-1) / math.log(count)
    return torch.where(total[..., 0] > 0, 1 - entropy, 0.0).clamp(0, 1)


def change_inside(before: Tensor, after: Tensor, inside: Tensor, *, threshold: float = 0.1
                  ) -> tuple[Tensor, Tensor]:
    """How much of what an edit changes lies where it should.

    Args:
        before, after: Pictures in [0, 1], ``[B, C, H, W]``.
        inside: Where changes belong, bool ``[B, H, W]``.
        threshold: A pixel has changed if a channel did by more than this.
    Returns:
        (share of changed pixels that lie inside, NaN where none has changed; how many have), both ``[B]``.
    Raises:
        ShapeError: if shapes do not fit.
    Example:
        >>> before, after = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
        >>> after[:, 0, 0] = 1.0
        >>> change_inside(before, after, torch.tensor([[[True, False], [True, False]]]))
        (tensor([0.5000]), tensor([2]))
    """
    sizes = check_shape(before, "b c h w", name="before")
    check_shape(after, "b c h w", name="after", **sizes)
    check_shape(inside, "b h w", name="inside", **{k: sizes[k] for k in "bhw"})
    changed = (after - before).abs().amax(1) > threshold
    count = changed.sum((1, 2))
    share = (changed & inside).sum((1, 2)) / count
    return share, count
