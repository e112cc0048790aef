"""`Work`: the loop over cells that ablations and benchmarks share: what is finished stays, the rest is done in turn.

A `Cell` is a folder and what its ``cell.json`` says; what is done with it is a function, `train_and_score` or another.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from ..progress import Meter, duration
from .cell import CELL_FILE, RESULT_FILE, Doing, failure, read_json, run_cell, train_and_score, write_json
from .process import run_isolated
from .study import Budget


@dataclass(frozen=True)
class Cell:
    """One thing to do.

    Attributes:
        name: For people.
        folder: Where it lies.
        content: What ``cell.json`` says, without the number of threads.
        group: Cells that are alike but for the seed: what the first cannot build, the others cannot.
        budget: Training that it gets; None: none.
        error: Why it cannot be done, if that is known before.
    """

    name: str
    folder: Path
    content: Mapping[str, Any]
    group: Hashable
    budget: Budget | None = None
    error: str = ""

    @property
    def result(self) -> dict[str, Any] | None:
        """What is stored of it."""
        return read_json(self.folder / RESULT_FILE)


class Work:
    """Cells, and what became of them.

    Args:
        cells: In the order in which they are done.
        verdict: Result of a finished cell -> a few words.
        does: What is done with a cell.
        module: Module that does it in a process of its own, ``python -m MODULE FOLDER``; None: in this process, where a
            crash ends everything and no peak memory is known.
        retry: Try failed cells again.
        show: Show progress.
    Attributes:
        results: Number of a cell -> its result, of those that are done.
    """

    def __init__(self, cells: Sequence[Cell], *, verdict: Callable[[Mapping[str, Any]], str],
                 does: Doing = train_and_score, module: str | None = "worldkit.ablation", retry: bool = False,
                 show: bool = True):
        self.cells, self.verdict, self.does, self.module = list(cells), verdict, does, module
        self.retry, self.show, self.console = retry, show, Console(quiet=not show)
        self.results: dict[int, dict[str, Any]] = {}
        self._unbuilt: dict[Hashable, dict[str, Any]] = {}  # group -> why it cannot be built
        self._durations: list[float] = []

    def look_up(self) -> list[int]:
        """Read what is stored; returns the cells that are still to be done."""
        for number, cell in enumerate(self.cells):
            stored = cell.result
            if cell.error:
                self._note(number, failure(cell.error, "building"))
            elif stored is not None and stored["status"] == "failed" and self.retry:
                shutil.rmtree(cell.folder)
            elif stored is not None:
                self._note(number, stored)
            self._inherit(number)
        return [number for number in range(len(self.cells)) if number not in self.results]

    def do(self, todo: Sequence[int], lock: int | None) -> None:
        """Do cells; ``lock``: file descriptor of the folder's lock, for the processes that work in it."""
        for done, number in enumerate(todo):
            try:
                self._do_cell(number, done, len(todo), lock)
            except BaseException:
                self.console.print(f"stopped: {len(self.results)} of {len(self.cells)} cells are done; the same "
                                   "command goes on")
                raise

    def _note(self, number: int, result: dict[str, Any]) -> None:
        self.results[number] = result
        if result.get("stage") == "building":
            self._unbuilt.setdefault(self.cells[number].group, result)

    def _inherit(self, number: int) -> bool:
        """What cannot be built with one seed cannot be built with another."""
        first = self._unbuilt.get(self.cells[number].group)
        if first is not None:
            self.results[number] = first
        return number in self.results

    def _do_cell(self, number: int, done: int, count: int, lock: int | None) -> None:
        cell = self.cells[number]
        if self._inherit(number):
            return
        name, started = f"[{done + 1}/{count}] {cell.name}", time.monotonic()
        cell.folder.mkdir(parents=True, exist_ok=True)
        write_json(cell.folder / CELL_FILE, {**cell.content, "threads": torch.get_num_threads()})
        with self._meter(cell, name, count - done) as meter:
            if self.module is not None:
                result = run_isolated(cell.folder, lock=lock, watch=lambda: _show(meter, cell), module=self.module)
            elif (result := run_cell(cell.folder, isolated=False, does=self.does)) is None:
                raise KeyboardInterrupt
        self._note(number, result)
        self._durations.append(time.monotonic() - started)
        words = f"failed: {result['error']}" if result["status"] == "failed" else self.verdict(result)
        self.console.print(f"{name}: {words} ({self._durations[-1]:.0f} s)", markup=False, highlight=False,
                           soft_wrap=True)

    def _meter(self, cell: Cell, name: str, remaining: int) -> Meter:
        if cell.budget is None:
            meter = Meter(name, total=1, noun="cell", enabled=self.show, console=self.console, keep=False)
            meter.update(0)
            return meter
        unit = {"seconds": " s", "CPU seconds": " s", "steps": ""}.get(cell.budget.unit, f" {cell.budget.unit}")
        left = self._left(cell.budget, remaining)
        meter = Meter(name, total=cell.budget.amount, unit=unit, enabled=self.show, console=self.console, keep=False)
        meter.update(0, step="0" if unit else "", terms=[escape(left)] if left else [])
        return meter

    def _left(self, budget: Budget, remaining: int) -> str:
        """Estimated time of the cells that are not done."""
        if self._durations:
            seconds = sum(self._durations) / len(self._durations) * remaining
            return f"all cells: about {duration(seconds)} left"
        if budget.unit == "seconds":
            return f"all cells: at least {duration(budget.amount * remaining)} left"
        return ""


def _show(meter: Meter, cell: Cell) -> None:
    """How far the training of a cell is."""
    budget = cell.budget
    if budget is None:
        return
    try:
        last = json.loads((cell.folder / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, IndexError, json.JSONDecodeError):
        return  # nothing written yet
    spent = {"seconds": last["seconds"], "CPU seconds": last.get("cpu", 0)}.get(budget.unit, last["step"])
    if budget.unit == "samples":
        spent = last["step"] / cell.content["train"]["steps"] * budget.amount
    meter.update(spent, step=str(last["step"]) if meter.unit else "", terms=meter.terms)
