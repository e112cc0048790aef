"""`ControlResults`: episodes of several policies on disk, their numbers with intervals, and how they are shown."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..files import naming, write_atomically
from ..metrics.control import bootstrap_interval, interquartile_mean, mean, success_rate
from ..metrics.report import Interval
from .protocol import ControlProtocol

PROTOCOL, EPISODES = "protocol.json", "episodes.jsonl"
RETURN, SUCCESS = "return", "success"


class ControlResults:
    """Episodes that were played under one protocol, in a folder that grows.

    Args:
        folder: Where; None: in memory only.
        protocol: What is done.
        policies: Name -> what it is (its folder, the digest of its weights, ...), plain values.
    Raises:
        ConfigError: if the folder holds episodes of another protocol, or of another policy under the same name.
        DataError: if it cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, protocol: ControlProtocol,
                 policies: Mapping[str, Any]):
        self.folder = None if folder is None else Path(folder)
        self.protocol, self.policies = protocol, dict(policies)
        self.episodes: list[dict[str, Any]] = []
        if self.folder is not None:
            self._open()

    def _open(self) -> None:
        path = self.folder / PROTOCOL
        if path.exists():
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
                before, known = stored["protocol"], stored["policies"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path} cannot be read ({error}): name another folder, --out") from error
            ours = json.loads(json.dumps(self.protocol.to_dict()))
            for name in sorted({*before, *ours}):
                if before.get(name) != ours.get(name):
                    raise ConfigError(f"{self.folder} holds episodes with {name} {before.get(name)!r}, not "
                                      f"{ours.get(name)!r}: scores of two protocols do not go together, name another "
                                      "folder, --out")
            for name, what in self.policies.items():
                if name in known and known[name] != json.loads(json.dumps(what)):
                    raise ConfigError(f"{self.folder} holds episodes of another '{name}' ({known[name]}): give this "
                                      "one another name, NAME=FOLDER, or name another folder, --out")
            self.policies = {**known, **self.policies}
            self.episodes = self._stored()
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise ConfigError(f"{self.folder} holds other things: name a new folder, --out")
        text = json.dumps({"protocol": self.protocol.to_dict(), "policies": self.policies}, indent=2) + "\n"
        write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))

    def _stored(self) -> list[dict[str, Any]]:
        """Episodes in the file; a line that an interruption cut off is left out, and taken off the file."""
        path, found = self.folder / EPISODES, []
        if not path.exists():
            return found
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            try:
                if not line.endswith("\n"):  # the next one would be written behind it
                    raise ValueError("it has no end")
                found.append(json.loads(line))
            except ValueError as error:
                if number < len(lines):
                    raise DataError(f"{path}, line {number}, is damaged: {error}") from error
                write_atomically(path, lambda file: file.write_text("".join(lines[:-1]), encoding="utf-8"))
        return found

    def add(self, policy: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Add episodes that a policy played; they are on disk when this returns."""
        new = [{"policy": policy, **record} for record in records]
        if self.folder is not None:
            with naming(self.folder / EPISODES), open(self.folder / EPISODES, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(record) + "\n" for record in new))
                file.flush()
                os.fsync(file.fileno())
        self.episodes += new

    def missing(self, policy: str, seed: int) -> list[int]:
        """Episodes of a seed that a policy has not played yet."""
        have = {e["episode"] for e in self.episodes if e["policy"] == policy and e["seed"] == seed}
        return [number for number in range(self.protocol.episodes) if number not in have]

    # -- numbers

    def of(self, policy: str, score: str, when: str = "end") -> dict[int, dict[int, float]]:
        """A score by seed and episode; those that do not have it are left out.

        Args:
            policy: Whose.
            score: ``"return"``, ``"success"``, ``"steps"``, or a measure.
            when: Of a measure: at the ``"start"`` or the ``"end"``.
        """
        found: dict[int, dict[int, float]] = {}
        for episode in self.episodes:
            value = episode[score] if score in (RETURN, SUCCESS, "steps") else episode[when].get(score)
            if episode["policy"] == policy and value is not None:
                found.setdefault(episode["seed"], {})[episode["episode"]] = float(value)
        return found

    @property
    def names(self) -> list[str]:
        """Policies that have played, in the order in which they were given."""
        played = {episode["policy"] for episode in self.episodes}
        return [name for name in self.policies if name in played]

    @property
    def scores(self) -> list[str]:
        """What is known of the episodes: success, return, measures."""
        found = [SUCCESS] if any(e[SUCCESS] is not None for e in self.episodes) else []
        found += [RETURN] if self.protocol.goals == "own" else []
        for episode in self.episodes:
            found += [name for name in episode["end"] if name not in found]
        return found

    def interval(self, policy: str, score: str, when: str = "end") -> Interval | None:
        """A policy's score: the rate of success with Wilson's interval, otherwise the interquartile mean with that of
        a bootstrap within each seed; None if it has none."""
        seeds = self.of(policy, score, when)
        if not seeds:
            return None
        if score == SUCCESS:
            values = [value for episodes in seeds.values() for value in episodes.values()]
            return success_rate(int(sum(values)), len(values))
        return bootstrap_interval([np.array(list(e.values())) for e in seeds.values()], interquartile_mean)

    def difference(self, policy: str, other: str, score: str) -> Interval | None:
        """Mean difference of two policies on the same episodes, with the interval of a bootstrap within each seed."""
        one, two = self.of(policy, score), self.of(other, score)
        strata = [np.array([one[seed][n] - two[seed][n] for n in one[seed] if n in two[seed]])
                  for seed in one if seed in two]
        strata = [scores for scores in strata if len(scores)]
        return bootstrap_interval(strata, mean) if strata else None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single episodes, for JSON."""
        def told(interval: Interval | None) -> Any:
            return None if interval is None else interval.to_dict()

        results = {}
        for name in self.names:
            results[name] = {score: told(self.interval(name, score)) for score in self.scores}
            results[name]["start"] = {score: told(self.interval(name, score, "start")) for score in self.scores
                                      if score not in (RETURN, SUCCESS)}
            results[name]["differences"] = {
                other: {score: told(self.difference(name, other, score)) for score in self.scores}
                for other in self.names if other != name}
        return {"protocol": self.protocol.to_dict(), "policies": self.policies, "results": results}
