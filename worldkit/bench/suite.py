"""What a benchmark compares: models, tasks, seeds and budgets, as data; what comes along is in ``suites/*.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ..config import Config
from ..errors import ConfigError, UnknownComponentError
from ..registry import suggestion

SCORES = {"prediction": ("over copying", "psnr", "ssim"), "control": ("normalised return", "return", "success")}
"""What the aggregates of a suite may be of; the first one if nothing is said."""


class Stage(Config):
    """A training that comes before, whose weights the next one begins with.

    Attributes:
        preset: What is trained; ``presets``: task -> what is trained there instead.
        share: Its part of the cell's budget.
        overrides: Options, as for ``worldkit ablate -o``: ``train`` is a table in it.
    """

    preset: str = ""
    presets: dict[str, str] = {}
    share: float = Field(gt=0, lt=1)
    overrides: dict[str, Any] = {}


class Entry(Config):
    """A model, or who acts.

    Attributes:
        name: What it is called in the tables.
        preset: Preset that is trained, or whose weights come along. In a control suite: a preset with an agent.
        presets: Task -> preset there instead: a paper's presets are one for each data set.
        policy: In a control suite instead: ``"random"``, ``"scripted"``, or the folder of an agent.
        weights: ``"train"``: trained by every cell. ``"shipped"``: the weights in the package are scored as they are;
            the seed changes nothing then, and one cell stands for all.
        overrides: Options of the preset; ``train`` (and of agents ``online`` and ``agent``) are tables in it.
            ``"none"`` removes a part.
        on: Task -> more overrides there.
        stages: Trainings that come before.
        tasks: Tasks that it is measured on; None: all.
        note: What is to be said about it.
    """

    name: str
    preset: str | None = None
    presets: dict[str, str] = {}
    policy: str | None = None
    weights: Literal["train", "shipped"] = "train"
    overrides: dict[str, Any] = {}
    on: dict[str, dict[str, Any]] = {}
    stages: tuple[Stage, ...] = ()
    tasks: tuple[str, ...] | None = None
    note: str = ""

    @model_validator(mode="after")
    def _one(self) -> Entry:
        if (self.preset is None and not self.presets) == (self.policy is None):
            raise ValueError(f"model '{self.name}' needs a preset, or else a policy")
        if self.preset is None and self.presets and self.tasks is None:
            raise ValueError(f"model '{self.name}' has presets for some tasks: name these as its tasks, too")
        if sum(stage.share for stage in self.stages) >= 1:
            raise ValueError(f"the stages of model '{self.name}' leave nothing of the budget: shares are parts of 1")
        return self


class Task(Config):
    """Data to predict, or an environment to act in.

    Attributes:
        name: What it is called.
        data: Data source; ``""``: whoever runs the suite says where it lies, ``--data NAME=PATH``.
        env: Environment, of a control suite.
        options: Of the data or the environment.
        protocol: Name of a protocol of `worldkit.metrics.PROTOCOLS`; None: the suite's frames.
        size: Height and width of frames that policies without a model see.
        low, high: Returns that are 0 and 1 of the normalised return: numbers, or names of models of the suite.
        note: Where the data come from.
    """

    name: str
    data: str | None = None
    env: str | None = None
    options: dict[str, Any] = {}
    protocol: str | None = None
    size: int = 64
    low: float | str | None = None
    high: float | str | None = None
    note: str = ""


class Paper(Config):
    """A published number, and how it came about as far as that is known.

    Attributes:
        model, task: Whose, and where; a task of the suite.
        metric: ``"psnr"``, ``"ssim"``, ``"return"``, ``"success"``.
        value: The number.
        source: Paper and table.
        protocol: Entries that must be equal to the task's for the number to stand beside ours; ``"unknown"`` equals
            nothing.
    """

    model: str
    task: str
    metric: str
    value: float
    source: str
    protocol: dict[str, Any]


class Suite(Config):
    """A benchmark.

    Attributes:
        name, summary: What it is called, and one line.
        kind: ``"prediction"`` of frames, or ``"control"``.
        score: What the aggregates are of; not said: the first of `SCORES`.
        tasks, models, papers: See there.
        seeds: Runs of every model on every task.
        budget: Training of each cell, as for ``worldkit ablate``; of agents steps or seconds.
        context_frames, horizon, split, clips: Of predictions.
        episodes, steps, deterministic: Of control: episodes of a cell, steps of an episode at most, whether policies
            take means.
    """

    name: str
    summary: str = ""
    kind: Literal["prediction", "control"]
    score: str = ""
    tasks: tuple[Task, ...]
    models: tuple[Entry, ...]
    papers: tuple[Paper, ...] = ()
    seeds: int = Field(default=3, gt=0)
    budget: str = "60cpu"
    context_frames: int = Field(default=5, gt=0)
    horizon: int = Field(default=10, gt=0)
    split: str = "test"
    clips: int = Field(default=100, gt=0)
    episodes: int = Field(default=10, gt=0)
    steps: int = Field(default=200, gt=0)
    deterministic: bool = False

    @model_validator(mode="before")
    @classmethod
    def _scored(cls, data: Any) -> Any:
        kind = data.get("kind") if isinstance(data, Mapping) else None
        return {**data, "score": SCORES[kind][0]} if kind in SCORES and data.get("score") is None else data

    @model_validator(mode="after")
    def _check(self) -> Suite:
        if self.score not in SCORES[self.kind]:
            raise ValueError(f"score is one of {', '.join(SCORES[self.kind])} in a {self.kind} suite, got "
                             f"{self.score!r}")
        for what, entries in (("tasks", self.tasks), ("models", self.models)):
            names = [entry.name for entry in entries]
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{what} need different names, at least one; got {names}")
            if odd := [name for name in names if not name.strip() or set(name) & set(",=/")]:
                raise ValueError(f"the name {odd[0]!r} of {what} may not be empty or hold a comma, = or /: commands "
                                 "list names")
        tasks = {task.name for task in self.tasks}
        for task in self.tasks:
            if (task.env is None) == (self.kind == "control") or (task.data is None) == (self.kind == "prediction"):
                raise ValueError(f"task '{task.name}' of a {self.kind} suite needs "
                                 f"{'an env and no data' if self.kind == 'control' else 'data and no env'}")
        for entry in self.models:
            if entry.policy is not None and self.kind == "prediction":
                raise ValueError(f"model '{entry.name}': a policy predicts nothing; it belongs to a control suite")
            if unknown := [name for name in (*entry.on, *entry.presets, *(entry.tasks or ())) if name not in tasks]:
                raise ValueError(f"model '{entry.name}' names task '{unknown[0]}', which the suite has not")
        return self

    def task(self, name: str) -> Task:
        """A task by its name."""
        return next(task for task in self.tasks if task.name == name)

    def only(self, *, models: list[str] | None = None, tasks: list[str] | None = None) -> Suite:
        """The suite with some of its models and tasks.

        Raises:
            ConfigError: a name that is not there.
        """
        kept = {}
        for what, wanted in (("models", models), ("tasks", tasks)):
            entries = getattr(self, what)
            known = [entry.name for entry in entries]
            wanted = known if wanted is None else wanted
            if unknown := [name for name in wanted if name not in known]:
                raise ConfigError(f"suite '{self.name}' has no {what[:-1]} '{unknown[0]}'."
                                  f"{suggestion(unknown[0], known)} It has: {', '.join(known)}")
            kept[what] = tuple(entry for entry in entries if entry.name in wanted)
            if not kept[what]:
                raise ConfigError(f"no {what} are named; suite '{self.name}' has: {', '.join(known)}")
        names = {task.name for task in kept["tasks"]}
        return self.model_copy(update={**kept, "papers": tuple(p for p in self.papers if p.task in names)})


def list_suites() -> list[str]:
    """Names of the suites that come along.

    Example:
        >>> "small-worlds" in list_suites()
        True
    """
    folder = resources.files(__package__).joinpath("suites")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_suite(source: str | Path | Mapping[str, Any] | Suite) -> Suite:
    """A suite by its name, or from a TOML file, or a dict of the same shape.

    Raises:
        UnknownComponentError: neither a suite nor a file; with the nearest name.
        ConfigError: a file that cannot be read, or says what it may not; with the file's name.
    Example:
        >>> load_suite("small-worlds").kind
        'prediction'
    """
    if isinstance(source, Suite):
        return source
    if isinstance(source, Mapping):
        return Suite.parse(_with_none(source))
    name = str(source)
    if name in list_suites():
        text, where = resources.files(__package__).joinpath("suites", f"{name}.toml").read_text("utf-8"), name
    elif Path(name).is_file():
        text, where = Path(name).read_text("utf-8"), name
    else:
        raise UnknownComponentError(f"no suite '{name}'.{suggestion(name, list_suites())} Suites: "
                                    f"{', '.join(list_suites())}; or a TOML file of your own, see docs/bench.md")
    try:
        return Suite.parse(_with_none({"name": Path(name).stem, **tomllib.loads(text)}))
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"suite {where}: {error}") from error


def _with_none(value: Any) -> Any:
    """``"none"`` in overrides removes a part, as on the command line: TOML has no null."""
    if isinstance(value, Mapping):
        return {key: _removed(entry) if key in ("overrides", "on") else _with_none(entry)
                for key, entry in value.items()}
    return [_with_none(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _removed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _removed(entry) for key, entry in value.items()}
    return None if value == "none" else value
