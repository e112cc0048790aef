"""Checks of cells: rows keep apart, time runs forward, and all that is remembered is handed on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import registry as registries
from .report import prepare, score, shake

_DIM, _DRAWN, _ROWS, _STEPS = 8, 6, 3, 5


def check_cell(cell: str | type, **options: Any) -> None:
    """Check a cell on random states and actions.

    Example:
        >>> check_cell("lstm")
    """
    cls, config, report = prepare(registries.cells, cell, options)

    def make() -> nn.Module:
        return cls(config, dim=_DIM, drawn=_DRAWN)

    def run(m: Any, drawn: Tensor, told: Tensor, state: tuple[Tensor, Tensor] | None = None) -> list[Tensor]:
        """States after every step, and the memory after the last."""
        (hoist, step), rows = m.begin(), drawn.shape[1]
        deter, memory = state or (drawn.new_zeros(rows, _DIM), drawn.new_zeros(rows, m.memory_dim))
        found = []
        for x, a in zip(drawn, hoist(told), strict=True):
            deter, memory = step(deter, memory, x, a)
            found.append(deter)
        return [torch.stack(found), memory]

    module, generator = shake(make()), torch.Generator().manual_seed(0)
    drawn = torch.randn(_STEPS, _ROWS, _DRAWN, generator=generator)
    told = torch.randn(_STEPS, _ROWS, module.cond_dim, generator=generator)
    states, memory = run(module, drawn, told)
    report.shape(states, (_STEPS, _ROWS, _DIM), "deterministic state")
    report.shape(memory, (_ROWS, module.memory_dim), "memory")
    report.gradients(module, score([states]))
    with torch.no_grad():
        for what, index in (("draw", 0), ("action", 1)):
            for row in (1, _ROWS - 1):
                given = [drawn.clone(), told.clone()]
                given[index][:, row] += 1
                others = [n for n in range(_ROWS) if n != row]
                for a, b in zip(run(module, *given), (states, memory), strict=True):
                    a, b = (x.transpose(0, -2)[others] for x in (a, b))
                    report.equal(a, b, "rows keep apart", f"another row, when the {what} of row {row} changes,", 0.0)
            given = [drawn.clone(), told.clone()]
            given[index][-1] += 1
            late, _ = run(module, *given)
            report.equal(late[:-1], states[:-1], "causality", f"an earlier state, when the last {what} changes,", 0.0)
            report.require(not torch.equal(late[-1], states[-1]), "it listens",
                           f"the state does not depend on the {what}")
        early = drawn.clone()
        early[0] += 1
        report.require(not torch.equal(run(module, early, told)[0][1], states[1]), "it remembers",
                       "the state does not depend on the step before the last")
        _, kept = first = run(module, drawn[:2], told[:2])
        rest, _ = run(module, drawn[2:], told[2:], (first[0][-1], kept))
        report.equal(rest, states[2:], "the state holds everything",
                     "what comes after a state, when it is gone on from that state alone,")
        report.reload(module, make, lambda m: run(m, drawn, told))
