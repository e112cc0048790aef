"""Two-hot numbers against the official code's; skipped without its files."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from worldkit.nn.two_hot import expected, symexp, symexp_bins, symlog, two_hot, two_hot_loss

HERE = Path(os.environ.get("WORLDKIT_PARITY") or Path(__file__).parents[3] / "shared/parity")
FILES = sorted(HERE.rglob("v3_units.npz"))


def cases():
    for path in FILES:
        names = sorted({k.split("/")[0] for k in np.load(path).files if k.startswith("th")})
        yield from ((path, name) for name in names)


@pytest.mark.skipif(not FILES, reason="needs the parity files")
@pytest.mark.parametrize("path, name", cases(), ids=lambda x: getattr(x, "stem", x))
def test_as_the_official_code(path, name):
    with np.load(path) as file:
        c = {key.removeprefix(f"{name}/"): torch.from_numpy(file[key]) for key in file if key.startswith(f"{name}/")}
    bins, logits, target = c["bins"].double(), c["logits"].double().requires_grad_(), c["target"].double()
    torch.testing.assert_close(symexp_bins(len(bins), dtype=torch.float64), bins, rtol=1e-9, atol=0)
    loss = two_hot_loss(logits, target, symexp_bins(len(bins), dtype=torch.float64))
    torch.testing.assert_close(loss, c["loss"].double(), rtol=1e-9, atol=1e-12)
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, c["grad"].double(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(expected(logits, bins), c["pred"].double(), rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("num", [5, 6, 255])
def test_a_number_comes_back(num):
    bins, x = symexp_bins(num, 3.0), torch.tensor([-19.0, -2.5, 0.0, 1.0, 7.7])
    torch.testing.assert_close((two_hot(x, bins) * bins).sum(-1), x)
    torch.testing.assert_close(symexp(symlog(x)), x)
    assert expected(torch.zeros(num), bins) == 0
    assert two_hot(torch.tensor([-99.0, 99.0]), bins)[[0, 1], [0, -1]].tolist() == [1, 1]


def test_what_is_no_number_is_no_bin():
    bins = symexp_bins(5, 2.0)
    assert two_hot_loss(torch.zeros(2, 5), torch.tensor([torch.nan, torch.inf]), bins).isnan().tolist() == [True, False]


def test_two_losses_at_once_are_their_sum():
    bins, logits = symexp_bins(7, 2.0, dtype=torch.float64), torch.randn(3, 4, 7, dtype=torch.float64)
    one, two = 3 * torch.randn(3, 4, dtype=torch.float64), 3 * torch.randn(3, 4, dtype=torch.float64)
    apart, together = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    (two_hot_loss(apart, one, bins) + 0.3 * two_hot_loss(apart, two, bins)).square().sum().backward()
    two_hot_loss(together, one, bins, also=(0.3, two)).square().sum().backward()
    torch.testing.assert_close(together.grad, apart.grad)
    plain = logits.clone().requires_grad_()
    (-(two_hot(one, bins) * plain.log_softmax(-1)).sum(-1) - 0.3 * (two_hot(two, bins) * plain.log_softmax(-1)).sum(-1)
     ).square().sum().backward()
    torch.testing.assert_close(together.grad, plain.grad)
