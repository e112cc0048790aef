"""How well an agent acts while it learns: evaluations, the best agent, films of what it imagines, the curve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from ..agents.base import Policy
from ..agents.folder import save_agent
from ..agents.simple import RandomPolicy
from ..control import ControlProtocol, ControlResults, evaluate_control
from ..errors import WorldkitError
from ..metrics.report import Interval
from ..storage.folders import tidy_folders
from ..training.checkpoint import writing
from ..viz import HtmlReport, save_gif
from .config import LIMIT
from .films import imagined

if TYPE_CHECKING:
    from .trainer import OnlineTrainer

CONTEXT = 5
"""Frames that a model sees of a real episode before it imagines the rest."""
LONG = 1000
"""Steps of an episode after which it is asked whether it ends."""
HELD_OUT = 1_000_000
"""Seeds of evaluations lie so far from those of training."""


class Looks:
    """Evaluations of a run; they leave what is trained as it was.

    Args:
        trainer: Whose run.
    Attributes:
        scores: Step, interquartile mean of the returns, its interval, and the number of updates, of every evaluation.
        random: The same score of random actions.
    """

    def __init__(self, trainer: OnlineTrainer):
        self._of = trainer
        self.scores: list[dict[str, float]] = []
        self.random: dict[str, float] | None = None
        self._what, self._warned = "", False

    def at_random(self) -> None:
        """What random actions bring, as a line to compare with."""
        with self._looking("random actions, to compare with"):
            self.random = _told(self._score(RandomPolicy(self._of.agent.action)))
        self._of.log.write(self._of._head() | {f"random_{name}": x for name, x in self.random.items() if x == x})

    def evaluate(self) -> None:
        """Let the agent act, keep it if it is the best so far, and draw."""
        of = self._of
        of.progress.looked = of.progress.steps
        with self._looking("looking how it acts"), torch.random.fork_rng(devices=_devices(of.device)):
            found = _told(self._score(of.agent))
            self.scores.append({"step": of.progress.steps, "updates": of.progress.updates, **found})
            of.log.write(of._head() | {f"eval_{name}": x for name, x in found.items() if x == x})
            if found["return"] > of.progress.best:
                of.progress.best = found["return"]
                tidy_folders(of.run, "best")
                with writing(of.run / "best", of.run, of.progress.steps):
                    save_agent(of.agent, of.run / "best", facts=of.card() | {"score": found})
            self._film()
            self.curve()
        more = "" if self.random is None else f" (random {self.random['return']:.4g})"
        interval = f"[{found['low']:.4g}, {found['high']:.4g}] of {found['n']} episodes"
        of.bar.say(f"step {of.progress.steps}: return {found['return']:.4g} "
                   f"{'of one episode' if found['n'] == 1 else interval}{more}")

    def _looking(self, what: str) -> AbstractContextManager[None]:
        """Say so on the bar."""
        self._what = what
        return self._of.bar.paused(what)

    def _score(self, policy: Policy) -> Interval:
        """Interquartile mean of the returns, under one protocol for the whole run."""
        of = self._of
        _, height, width = of.agent.frame_shape
        protocol = ControlProtocol(
            env=of.environment["environment"], size=(height, width), budget=of._max_steps, seeds=(HELD_OUT,),
            episodes=of.config.eval_episodes, together=of.config.eval_episodes, deterministic=policy.eval_by_mode)
        of.agent.eval()
        of.agent.model.eval()
        results: ControlResults = evaluate_control({"agent": policy}, protocol, make=of.make_eval,
                                                   on_step=self._watch)
        return results.interval("agent", "return")

    def _watch(self, step: int) -> None:
        """Say how far the episodes of an evaluation are; and once that they are long, if nobody said how long."""
        config = self._of.config
        self._of.bar.meter.what = f"{self._what}, step {step}"
        if step == LONG and config.max_steps is None and not self._warned:
            self._warned = True
            self._of.bar.say(f"{config.eval_episodes} episodes are played to see how it acts, and after {LONG:,} steps "
                             f"some go on; they are cut off after {LIMIT:,}. If the environment never ends, say where: "
                             "-o online.max_steps=...")

    def _film(self) -> None:
        """A real episode beside what the model makes of its first frames and its actions."""
        of = self._of
        whole = [track for stream in of.replay.streams.values() for track in stream.tracks
                 if track.over and len(track) > CONTEXT + 1]
        if not of.config.film_steps or not whole or of.agent.model.decoder is None:
            return
        if not of.agent.model.config.obs.height:  # it sees vectors alone
            return
        track = max(whole, key=lambda one: one.number)
        entries = {name: torch.from_numpy(track[name][: CONTEXT + of.config.film_steps]) for name in track.columns}
        try:
            film = imagined(of.agent.model, entries, of.replay.conditions, context=CONTEXT, vectors=of.replay.vectors)
        except WorldkitError as error:  # a model that cannot be asked so is no reason to stop
            of.bar.say(f"no film of what it imagines: {error}")
            return
        place = of.run / "figures" / f"step-{of.progress.steps:08d}.gif"
        with writing(place, of.run, of.progress.steps):
            save_gif(film, place, fps=8)

    def curve(self) -> None:
        """Write ``curve.html``: returns of episodes and evaluations, losses."""
        of = self._of
        page = HtmlReport(f"{of.agent.config.name} in {of.environment['environment']}")
        log = of.log.read()
        episodes = [(line["step"], line["return"]) for line in log if "episode" in line]
        if not episodes and not self.scores:
            return
        lines: dict[str, Any] = {}
        if episodes:
            lines["training episodes"] = tuple(map(list, zip(*episodes, strict=True)))
        if self.scores:
            lines["evaluations"] = tuple([score[name] for score in self.scores]
                                         for name in ("step", "return", "low", "high"))
        ends = [min(line["step"] for line in log), max(1, of.progress.steps)]
        if self.random is not None:
            lines["random actions"] = (ends, [self.random["return"]] * 2)
        page.curve(lines, x_label="steps", y_label="return",
                   caption="Evaluations: interquartile mean of their episodes, 95% interval of a bootstrap.")
        learned = [line for line in log if "ratio" in line]
        clocks = {"step", "updates", "seconds", "cpu", "ratio"}
        for name in sorted({name for line in learned for name in line} - clocks):
            points = [(line["step"], line[name]) for line in learned if name in line and math.isfinite(line[name])]
            if len(points) > 1:
                page.curve({name: tuple(map(list, zip(*points, strict=True)))}, x_label="steps", y_label=name)
        films = sorted((of.run / "figures").glob("step-*.gif"))
        if films:
            page.heading("Imagined").text("Left what happened, right what the model makes of the first frames and the "
                                          "actions; below, rewards.").gif(films[-1].read_bytes())
        with writing(of.run / "curve.html", of.run, of.progress.steps):
            page.write(of.run / "curve.html")

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"scores": self.scores, "random": self.random}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.scores, self.random = list(state["scores"]), state["random"]


def _told(interval: Interval) -> dict[str, float]:
    return {"return": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}


def _devices(device: torch.device) -> list[int]:
    return [] if device.type != "cuda" else list(range(torch.cuda.device_count()))
