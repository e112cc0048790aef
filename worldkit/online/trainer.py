"""Training by acting: act, learn from what was seen, look how well it acts; one readable loop, exactly resumable.

A run folder holds ``run.json``, ``log.jsonl``, ``data/`` (the episodes, an ordinary data set), ``checkpoints/``,
``best/`` (the agent that acted best so far) and ``figures/``. Whatever is drawn at random depends on the seed and the
number of the step, so a run that was killed goes on from its newest checkpoint to the same numbers: episodes at hand
are played again, action by action.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..agents.acting import check_fits, name_of, perceived
from ..agents.actions import ActionSpec
from ..agents.base import Agent, Policy
from ..agents.carry import tensors_of, with_tensors
from ..agents.simple import RandomPolicy
from ..collecting import EpisodeFolder, episode_seed
from ..collecting.pool import IDLE, Slot
from ..distributions import Sampler
from ..errors import ConfigError, TrainingError
from ..files import check_writable, reason
from ..latents import Latent
from ..training.checkpoint import RunLog, drop_later, random_state, set_random_state, tidy
from ..training.config import TrainConfig
from ..training.denormals import flush_denormals
from ..training.lock import locked
from ..training.processes import check_device
from ..training.stop import graceful_stop
from .checkpoint import load_weights, newest_checkpoint, open_record, save_checkpoint
from .config import LIMIT, OnlineConfig
from .looks import Looks
from .progress import OnlineBar
from .replay import Replay
from .stage import check_reward, make_stage

RECENT, MANY = 20, 30
"""Episodes whose mean return is told; updates in a row that are worth a word of their own."""
_RENAMED = {"return": "imagined_return"}  # a line of the log with "return" is an episode


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        steps: That were acted, all environments together.
        updates: That were made.
        episodes: That were begun.
        owed: Updates that are due; a part of one waits.
        pretrained: The updates behind the random actions are made.
        seconds: Of acting and learning.
        cpu: Seconds that this process computed meanwhile.
        learned_since: Step at which learning began.
        best: Highest score of an evaluation.
        looked: Step of the newest evaluation.
    """

    steps: int = 0
    updates: int = 0
    episodes: int = 0
    owed: float = 0.0
    pretrained: bool = False
    seconds: float = 0.0
    cpu: float = 0.0
    learned_since: int = 0
    best: float = -math.inf
    looked: int = -1


@dataclass(frozen=True)
class OnlineResult:
    """What a run left: its folder, where it stopped, and the log."""

    run: Path
    steps: int
    updates: int
    seconds: float
    finished: bool
    log: list[dict[str, Any]] = field(repr=False)


class OnlineTrainer:
    """Trains an agent, and the world model that it acts through, by acting.

    Args:
        agent: The agent; trained in place.
        make: Makes an environment of `worldkit.make_env`.
        config: How much is acted and learned.
        train: Batch size, learning rate, seed, device, and when the log is written.
        run: Run folder. If it holds checkpoints of the same agent and environment, training goes on from the newest.
        facts: Stored with the run (preset, command, ...).
        show_progress: Show a progress bar.
        make_eval: Makes an environment to be scored in; None: as ``make``.
    Raises:
        ConfigError: the agent does not fit the environment.
    Example::

        make = partial(make_env, "games/catch", size=32)
        OnlineTrainer(create_agent("dreamer-v3-mini", env=make()), make, run="runs/catch").fit()
    """

    def __init__(self, agent: Agent, make: Callable[[], Any], config: OnlineConfig | None = None,
                 train: TrainConfig | None = None, *, run: str | Path, facts: Mapping[str, Any] | None = None,
                 show_progress: bool = True, make_eval: Callable[[], Any] | None = None):
        self.agent, self.make, self.run, self.make_eval = agent, make, Path(run), make_eval or make
        self.config, self.train = config or OnlineConfig(), train or TrainConfig(batch_size=16)
        check_device(self.train.device)
        self.device = torch.device(self.train.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        agent.to(self.device)
        agent.model.to(self.device)
        with make() as env:
            check_fits(agent, env)
            self.environment = {"environment": name_of(env), "action_space": str(env.action_space),
                                "options": {} if env.spec is None else _plain(env.spec.kwargs)}
        self.facts, self.show_progress = dict(facts or {}), show_progress
        self.learner = agent.learner(self.train)
        model = agent.model.config
        self.replay = Replay(self.config.length + 1, capacity=self.config.capacity, cross=self.config.cross,
                             queue=self.config.queue, channels=model.obs.channels, conditions=model.columns,
                             vectors=model.vectors, pictures=model.obs.height > 0, by=self.config.draw)
        self._spec = agent.model.spec
        if self.config.context and not agent.model.require_dynamics().filtering:
            raise ConfigError("online.context begins clips with states, and this model's dynamics "
                              f"'{agent.model.config.dynamics.name}' has none: -o online.context=false")
        self.progress = Progress()
        self.looks = Looks(self)
        self._recent: deque[float] = deque(maxlen=RECENT)  # returns
        self._sums: dict[str, Tensor] = {}  # of terms since the last line of the log
        self._summed: dict[str, int] = {}
        self._stop, self._saved = False, -1
        self._random: Policy = RandomPolicy(agent.action)

    # -- the loop

    def fit(self) -> OnlineResult:
        """Act and learn until the configured steps or seconds are over.

        Raises:
            TrainingError: a loss is not finite, a file cannot be written, the run folder belongs to another agent or
                environment, or another training is at work in it.
            EnvError: a reward is not finite, or a process of an environment died.
        """
        try:
            check_writable(self.run)
            self.run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"run folder {self.run} cannot be written: {reason(error)}. Name another") from error
        with ExitStack() as stack:
            stack.enter_context(locked(self.run, command="worldkit train-agent", instead="--run", patience=10.0))
            tidy(self.run)
            self.stage = stack.enter_context(make_stage(self.make, self.config.num_envs, max_steps=self._max_steps,
                                                        processes=self.config.processes))
            self.bar = stack.enter_context(OnlineBar(self.config, self.progress, enabled=self.show_progress))
            stack.enter_context(graceful_stop(self.stop))
            stack.enter_context(flush_denormals())
            self._open_run()
            self._loop()
            log = self.log.read()
        return OnlineResult(self.run, self.progress.steps, self.progress.updates, self.progress.seconds,
                            not self._stop, log)

    @property
    def _max_steps(self) -> int:
        return self.config.max_steps or LIMIT

    def stop(self) -> None:
        """Finish the step at hand, write a checkpoint and leave `fit`."""
        self._stop = True

    def _loop(self) -> None:
        if self.looks.random is None and not self._done():
            self.looks.at_random()
        while not self._done():
            started, computed = time.perf_counter(), time.process_time()
            self._act()
            self._catch_up()
            self.progress.seconds += time.perf_counter() - started
            self.progress.cpu += time.process_time() - computed
            self._after_step()
        if not self._stop and self.progress.looked < self.progress.steps:
            self.looks.evaluate()
        if self._saved != self.progress.steps:
            self._save()
        self.looks.curve()

    def _done(self) -> bool:
        limit = self.config.seconds
        over = self.progress.steps >= self.config.steps or (limit is not None and self.progress.seconds >= limit)
        return self._stop or over

    # -- acting

    def _act(self) -> None:
        """An action in every environment."""
        begun = [slot for slot in self.slots if slot.number == IDLE]
        for slot in begun:
            slot.number = self.progress.episodes
            slot.seed = episode_seed(self.train.seed, slot.number)
            self.progress.episodes += 1
        if begun:
            self.stage.begin(begun)
        filling = self.progress.steps < self.config.prefill and self.config.prefill_by == "random"
        if filling or self._explorer is None:
            self._explorer = self._random if filling else self.agent.explorer()
            self._carry = self._explorer.start(len(self.slots))
            begun = list(self.slots)
        first = torch.tensor([slot in begun for slot in self.slots])
        generator = torch.Generator().manual_seed(_seed(self.train.seed, "act", self.progress.steps))
        frames, beside = perceived(self._explorer, [slot.observation for slot in self.slots])
        sampler = Sampler(generator=generator)
        actions, self._carry = self._explorer.act(frames, self._carry, first=first, sampler=sampler, **beside)
        if filling and self.progress.steps + len(self.slots) >= self.config.prefill:
            self._explorer = None
        for slot, action in zip(self.slots, actions, strict=True):
            slot.action = self.agent.action.for_env(action, slot.action_space)
        over = self.stage.step()
        self.progress.steps += len(self.slots)
        states = self._states()
        for number, slot in enumerate(self.slots):
            check_reward(slot)
            self._remember(number, slot, over=slot in over)
            if states is not None:
                self.replay.note_state(number, len(slot.episode) - 1, states[number])
        for slot in over:
            self._end(slot)
        self._earn()

    def _states(self) -> Tensor | None:
        """What the newest frames are taken for, ``[B, N, D]``, if clips are to begin with that."""
        state = getattr(self._carry, "state", None) if self.config.context else None
        return None if state is None else state.pack()[:, 0].cpu()

    @property
    def slots(self) -> list[Slot]:
        """The environments."""
        return self.stage.slots

    def _remember(self, number: int, slot: Slot, *, over: bool) -> None:
        known = self.replay.rows_of(number, slot.number)
        self.replay.add(number, slot.number, slot.episode.entries(max(0, known - 1)), over=over)

    def _end(self, slot: Slot) -> None:
        """An episode is over: it goes into the data set."""
        self.folder.add(slot.episode.entries(), slot.number, replace=True)
        self._recent.append(slot.episode.total)
        if self._explorer is not None:
            self._explorer.ended(self.slots.index(slot), slot.episode.total, self._carry)
        self.log.write(self._head() | {"episode": slot.number, "return": slot.episode.total,
                                       "length": len(slot.episode)})
        if len(slot.episode) >= LIMIT and self.config.max_steps is None:
            self.bar.say(f"episode {slot.number} did not end within {LIMIT:,} steps and was cut off there; if that is "
                         "no mistake of the environment, say where: -o online.max_steps=...")
        slot.number = IDLE

    # -- learning

    def _due(self) -> bool:
        """Whether an update is due now."""
        config, progress = self.config, self.progress
        return progress.owed >= 1 and progress.steps % config.every < config.num_envs

    def _earn(self) -> None:
        """Count what the newest steps are worth."""
        config, progress = self.config, self.progress
        if progress.steps < config.prefill or not (config.train_ratio or config.pretrain > progress.updates):
            return
        if not self.replay.windows:
            if self._recent and not config.cross:
                self.replay.draw(1, np.random.default_rng(0))  # says what to do
            return
        if not progress.pretrained:
            progress.pretrained, progress.learned_since = True, progress.steps - len(self.slots)
            progress.owed += config.pretrain
        progress.owed += len(self.slots) * config.train_ratio / (self.train.batch_size * config.length)

    def _catch_up(self) -> None:
        """All updates that are due; of many in a row it is told how many are left, and their time enters no ETA."""
        many = self.progress.owed >= MANY
        with self.bar.paused("learning") if many else nullcontext():
            while self._due() and not self._stop:
                self._learn()
                if many:
                    self.bar.learned(self.progress)

    def _learn(self) -> None:
        """One update of all that learns."""
        progress = self.progress
        random = np.random.default_rng([self.train.seed, progress.updates])
        seed = _seed(self.train.seed, "learn", progress.updates)
        sampler = Sampler(generator=torch.Generator(self.device).manual_seed(seed))
        learn = self.learner.learn if self.learner.draws else self._learn_clips
        terms = learn(self.replay, random, sampler)
        progress.updates += 1
        progress.owed -= 1
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
            self._summed[name] = self._summed.get(name, 0) + 1
        if progress.updates % self.train.log_every == 0 or progress.updates == 1:
            self._write_terms()

    def _learn_clips(self, replay: Replay, random: np.random.Generator, sampler: Sampler) -> dict[str, Tensor]:
        """An update on a batch of clips."""
        batch = replay.draw(self.train.batch_size, random)
        if self.config.reward == "tanh":
            batch.targets["reward"].tanh_()
        carry = None
        if self.config.context:
            shape = (self._spec.num_tokens, self._spec.packed_dim)
            carry = Latent.unpack(self._spec, replay.states(shape).to(self.device))
        terms = self.learner.update(batch.to(self.device), sampler, carry=carry)
        if self.config.context and self.learner.latent is not None:
            replay.note_states(self.learner.latent.pack())
        return terms

    def _write_terms(self) -> None:
        if self._summed:
            terms = {name: float(value) / self._summed[name] for name, value in self._sums.items()}
            self._sums, self._summed = {}, {}
            terms = {_RENAMED.get(name, name): value for name, value in terms.items()}
            self.log.write(self._head() | {"ratio": round(self.ratio, 3)} | terms)
            self.bar.terms = terms

    @property
    def ratio(self) -> float:
        """Steps that were learned from for each step that was acted since learning began."""
        acted = self.progress.steps - self.progress.learned_since
        learned = self.progress.updates * self.train.batch_size * self.config.length
        return learned / acted if self.progress.pretrained and acted else 0.0

    def _head(self) -> dict[str, Any]:
        return {"step": self.progress.steps, "updates": self.progress.updates,
                "seconds": round(self.progress.seconds, 3), "cpu": round(self.progress.cpu, 3)}

    # -- looking and going on

    def _after_step(self) -> None:
        progress, config = self.progress, self.config
        self.bar.update(progress, self._recent, self.ratio)
        new = len(self.slots)

        def due(every: int) -> bool:
            return bool(every) and progress.steps // every > (progress.steps - new) // every

        looking = due(config.eval_every)
        if looking:
            self.looks.evaluate()
        if due(config.save_every) or (looking and not config.save_every):
            self._save()

    def describe(self) -> dict[str, Any]:
        """What a run is: agent, model, environment, options."""
        return {"agent": self.agent.config.to_dict(), "action": self.agent.action.to_dict(),
                "model": self.agent.model.config.to_dict(), **self.environment, "online": self.config.to_dict(),
                "train": self.train.to_dict(), "facts": self.facts}

    def _open_run(self) -> None:
        newest = newest_checkpoint(self.run)
        open_record(self.run, self.describe(), newest)
        self.folder = EpisodeFolder(self.run / "data", about=self.environment, append=True)
        self._explorer: Policy | None = None
        self._carry: Any = None
        if newest is None:
            torch.manual_seed(self.train.seed)
        else:
            self._resume(newest)
        drop_later(self.run, self.progress.steps)
        self.log = RunLog(self.run / "log.jsonl", step=-1 if newest is None else self.progress.steps)

    def _save(self) -> None:
        """Write a checkpoint: whatever decides the next step."""
        playing = [slot for slot in self.slots if slot.number != IDLE]
        state = {
            "progress": asdict(self.progress), "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict(), "rng": random_state(), "recent": list(self._recent),
            "sums": (self._sums, self._summed), "looks": self.looks.state_dict(),
            "slots": [_played(slot) for slot in self.slots],
            "carry": None if self._explorer is None or not playing else tensors_of(self._carry),
        }
        save_checkpoint(self.run, self.agent, state, keep=self.train.keep, facts=self.card())
        self._saved = self.progress.steps

    def card(self) -> dict[str, Any]:
        """What is told of an agent of this run."""
        return self.facts | {"step": self.progress.steps, "updates": self.progress.updates, "seed": self.train.seed,
                             "training seconds": round(self.progress.seconds, 1),
                             "training cpu seconds": round(self.progress.cpu, 1)}

    def _resume(self, folder: Path) -> None:
        state = load_weights(folder, self.agent)
        self.learner.load_state_dict(state["learner"])
        self.progress = Progress(**state["progress"])
        self.bar.progress = self.progress
        self.replay.load_state_dict(state["replay"], self.folder.path)
        self._recent.extend(state["recent"])
        self._sums, self._summed = state["sums"]
        self.looks.load_state_dict(state["looks"])
        same = self._play_again(state["slots"])
        self.replay.load_states(state["replay"]["states"])
        if state["carry"] is not None:
            filling = self.progress.steps < self.config.prefill and self.config.prefill_by == "random"
            self._explorer = self._random if filling else self.agent.explorer()
            self._carry = self._explorer.start(len(self.slots))
            frames, beside = perceived(self._explorer, [slot.observation for slot in self.slots])
            if same:
                first, means = torch.ones(len(self.slots), dtype=torch.bool), Sampler(deterministic=True)
                shape = self._explorer.act(frames, self._carry, first=first, sampler=means, **beside)[1]
                self._carry = with_tensors(shape, state["carry"])
            else:
                self._explorer = None  # the next action looks anew
        set_random_state(state["rng"])
        self._saved = self.progress.steps

    def _play_again(self, slots: list[dict[str, Any]]) -> bool:
        """Play the episodes at hand once more, so that all of them end where they were; whether they look the same."""
        if len(slots) != len(self.slots):
            raise TrainingError(f"the run acted in {len(slots)} environments, not in {len(self.slots)}: give the same "
                                "-o online.num_envs, or another run folder (--run)")
        told = dict(zip(self.slots, slots, strict=True))
        histories = {slot: entry["actions"].numpy() for slot, entry in told.items() if entry["number"] != IDLE}
        if histories:
            self.stage.begin(self.slots)  # environments in processes step together, so none may be unbegun
        for left in range(max(map(len, histories.values()), default=0), 0, -1):
            if begins := [slot for slot, actions in histories.items() if len(actions) == left]:
                for slot in begins:
                    slot.number, slot.seed = told[slot]["number"], told[slot]["seed"]
                self.stage.begin(begins)
            for slot, actions in histories.items():
                if slot.number != IDLE:
                    slot.action = _as_done(actions[len(actions) - left], slot)
            self.stage.step()
        for number, slot in enumerate(self.slots):
            if slot.number != IDLE:
                self._remember(number, slot, over=False)
        same = all(_played(slot)["looks"] == entry["looks"] for slot, entry in told.items())
        if not same:
            self.bar.say("the environment does not play an episode again as it was, so this run goes on from another "
                         "state of it than it stopped in")
        return same


def _played(slot: Slot) -> dict[str, Any]:
    """What has to be known of a slot to play its episode again, and to see that it is the same."""
    if slot.number == IDLE:
        return {"number": IDLE, "seed": 0, "actions": torch.zeros(0), "looks": ""}
    looks = hashlib.sha256(slot.episode.newest.tobytes() + repr(slot.episode.total).encode()).hexdigest()
    return {"number": slot.number, "seed": slot.seed, "actions": torch.from_numpy(slot.episode.actions), "looks": looks}


def _as_done(action: np.ndarray, slot: Slot) -> Any:
    """A recorded action as the environment was given it."""
    space = slot.action_space
    return space.dtype.type(action) if action.ndim == 0 else action.reshape(space.shape).astype(space.dtype)


def _seed(seed: int, what: str, number: int) -> int:
    digest = hashlib.sha256(f"{seed}:{what}:{number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items() if name != "env_id"}
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


__all__ = ["ActionSpec", "OnlineResult", "OnlineTrainer", "Progress"]
