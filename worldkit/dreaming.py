"""The prediction loop, one transition at a time: `Loop` runs a model's parts, `Dream` is what users step.

There is no other loop: `ComposedWorldModel.rollout` takes the steps of a `Loop` one after the other, and so does
`worldkit.imagining.imagine`, which asks a policy what to do at each. A dream keeps the
caches of the dynamics, so a step costs one frame, and is copied to branch off another future::

    dream = Dream(model, video[:, :5])
    z = dream.step({"action": action})            # [B, 1]; index t of actions leads from frame t to t + 1
    other = dream.copy()                          # goes its own way from here
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .batch import Batch, as_table, check_shape
from .conditions import EMPTY, Condition
from .distributions import MEANS, Sampler
from .errors import ConditionError, ShapeError
from .latents import Latent
from .perception import look
from .wiring import told_by, video_for

if TYPE_CHECKING:
    from .decoders.base import Decoded
    from .dynamics.base import Window
    from .model import ComposedWorldModel

Told = Mapping[str, Condition]
"""Receiver (``"latent_action"``, ``"dynamics"``) -> condition."""


class Loop:
    """State of a prediction: `step` makes a transition, and the next one starts where it led.

    Args:
        model: Model with a dynamics.
        z: Latents of the context, ``[B, C0]``.
        past: Conditions of the ``C0 - 1`` transitions inside the context; None: none of them has any.
        latent_actions: Of these transitions, ``[B, C0 - 1, N or 1, A]``; then every step is given its latent action,
            too. None: inferred.
        video: The frames behind ``z``, or a batch of them, for latent actions that read video.
        sampler: Source of randomness.
        window: As for `worldkit.WorldModel.rollout`.
        heads: Ask the model's heads after every step.
        drawn: They answer with a draw (`Head.sample`), not with what they expect.

    Attributes:
        latent: The newest frame, ``[B, 1]``: the last one of the context, then what was predicted.
        before: Frames before it, as many as the decoder looks back on; None if it does not.
        told: Whether the latent actions of the context were given.
        latent_actions: Of the context, ``[B, C0 - 1, N or 1, A]``, once the first step is made; None without any.
        latent_action: Of the last step, ``[B, 1, N or 1, A]``; None without latent actions.
        cond: What the dynamics was told about the last step.
        predictions: What the model's heads say of the last step, by target, ``[B, 1]`` or ``[B, 1, S]``.
        nbytes: What this copy holds of its own; 0 if it is none.
    """

    def __init__(self, model: ComposedWorldModel, z: Latent, past: Told | None, *, sampler: Sampler,
                 latent_actions: Tensor | None = None, window: Window = "exact", heads: bool = True,
                 drawn: bool = False, video: Any = None):
        self._model, self._past, self.sampler, self._window = model, past, sampler, window
        self._video = video
        self._history = 0 if model.decoder is None else model.decoder.history
        self._heads, self._drawn = dict(model.heads.items()) if heads else {}, drawn
        self._context: Latent | None = z
        self._noted = False  # whether the dynamics has been told of the newest frame
        self._state: Any = None  # of the dynamics
        self._carry: Any = None  # of the latent actions, where they are inferred or drawn
        self.told = latent_actions is not None
        self.latent, self.latent_actions = z[:, -1:], latent_actions
        self.before = z[:, :-1][:, -self._history :] if self._history else None
        self.latent_action: Tensor | None = None
        self.cond = EMPTY
        self.predictions: dict[str, Tensor] = {}
        self.nbytes = 0

    def step(self, now: Told, latent_action: Tensor | None = None) -> Latent:
        """The frame after the newest one, ``[B, 1]``.

        Args:
            now: Conditions of the transition that leads to it, one entry each.
            latent_action: ``[B, 1, N or 1, A]``; None: drawn from the policy, where the model has latent actions.
        """
        dynamics: Any = self._model.dynamics
        module: Any = self._model.latent_action
        if self._context is not None:
            self._begin(self._context, now)
            self._context = self._past = self._video = None
        else:
            if not self._noted:
                dynamics.observe(self._state, self.latent)
            if self._carry is not None:
                module.observe(self._carry, dynamics.newest_factors(self._state, self.latent), now["latent_action"])
        if latent_action is None and self._carry is not None:
            latent_action = module.next(self._carry).sample(self.sampler, "latent_action.prior")
        cond = now["dynamics"]
        if latent_action is not None:
            cond = cond + told_by(module, dynamics, latent_action)
        left, self.latent_action, self.cond, self._noted = self.latent, latent_action, cond, False
        if self.before is not None:
            self.before = type(left).cat([self.before, left])[:, -self._history :]
        predicted = dynamics.predict(self._state, cond, self.sampler, mean=module is not None)
        self.latent = self._model.encoder.settle(predicted)
        if self._heads:
            features = dynamics.step_features(self._state, left, self.latent, cond)
            self.predictions = {name: head.sample(features, self.sampler, name) if self._drawn else head(features)
                                for name, head in self._heads.items()}
        return self.latent

    def _begin(self, z: Latent, now: Told) -> None:
        """Start what steps go on from; the newest frame of the context waits for what leaves it, so not earlier."""
        dynamics: Any = self._model.dynamics
        module: Any = self._model.latent_action
        past = self._past or {receiver: cond.at(slice(0, 0)) for receiver, cond in now.items()}
        cond = past["dynamics"]
        if module is not None and self.latent_actions is None:
            given = past["latent_action"].then(now["latent_action"])
            seen = video_for(module, self._video, z.shape[1])
            acted = dynamics.factors(z)
            posterior, self._carry = module.start(acted, given, streaming=self._window == "streaming", **seen)
            self.latent_actions = posterior.sample(MEANS, "latent_action.posterior")
        if self.latent_actions is not None and z.shape[1] > 1:
            cond = cond + told_by(module, dynamics, self.latent_actions)
        self._state = dynamics.start(z, cond, window=self._window)

    def replace(self, z: Latent) -> None:
        """Take ``z`` ``[B, 1]`` for the newest frame."""
        if self._noted:
            raise ShapeError("the dynamics was told of the newest frame already: step first, or put other rows")
        if self._context is not None:
            self._context = type(z).cat([self._context[:, :-1], z])
        self.latent = z

    def settle(self) -> Any:
        """Tell the dynamics of the newest frame now, not when the next step is made; gives its state."""
        dynamics: Any = self._model.dynamics
        if self._model.latent_action is not None or self._history:
            what = "a decoder that looks back" if self._history else "latent actions"
            raise ShapeError(f"a dream of a model with {what} is told of its newest frame when it steps, not before")
        if self._context is not None:
            past = EMPTY if self._past is None else self._past["dynamics"]
            self._state = dynamics.start(self._context, past, window=self._window)
            self._context = self._past = None
        elif not self._noted:
            dynamics.observe(self._state, self.latent)
        self._noted = True
        return self._state

    def put(self, rows: Tensor, z: Latent, past: Told | None) -> None:
        """Begin anew in some rows; the others go on.

        Args:
            rows: int64 ``[R]``.
            z: Latents that they begin with, ``[R, C0]``.
            past: Conditions of their ``C0 - 1`` transitions.
        """
        state, anew = self.settle(), Loop(self._model, z, past, sampler=self.sampler, window=self._window)
        self._model.dynamics.put(state, rows, anew.settle())
        self.latent = self.latent.put(rows, anew.latent)

    def resume(self, state: Any, z: Latent) -> None:
        """Go on from what `settle` and ``latent`` were."""
        self._context = self._past = None
        self._state, self.latent, self._noted = state, z, True

    def copy(self) -> Loop:
        """Another one that goes on from here; the two share the model, and nothing that a step writes into."""
        model = self._model
        shared = [model, *model.modules(), *model.parameters(), *model.buffers(), self.latent.spec]
        with _Cloned() as cloned:
            twin = copy.deepcopy(self, {id(x): x for x in shared})
        twin.nbytes = cloned.nbytes
        return twin


class _Cloned(TorchFunctionMode):
    """Inside, deep copies clone tensors, and are counted; torch itself refuses those that carry a graph."""

    nbytes = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        x, memo = args
        memo[id(x)] = twin = x.clone()
        self.nbytes += twin.nbytes
        return twin


class Dream:
    """A model's prediction, step by step.

    Stepping through the same conditions equals ``model.rollout``: latents are means, latent actions follow the policy
    unless they are given, diffusion draws. No more is kept than the model looks back on, so a dream may go on for ever.

    Args:
        model: A model with a dynamics.
        context: As for `worldkit.WorldModel.rollout`.
        conditions: Batch field -> value. With a time axis (actions): of the transitions inside the context, ``C0 - 1``
            entries or more; not needed for one frame. Others (language, goals) hold for all steps.
        masks: Batch field -> where the condition is given.
        latent_actions: Inside the context, ``[B, C0 - 1, N or 1, A]``; then every step needs one, too. None: inferred.
        sampler: Source of randomness, as ``Sampler(generator=...)``; ``Sampler(deterministic=True)`` follows means.
        window: As for `worldkit.WorldModel.rollout`.
        drawn: The model's heads answer with a draw, not with what they expect.
        video: The frames behind a context of latents, for latent actions that read video.

    Attributes:
        model, window: As given.
        standing: Conditions without a time axis, as given.
        steps: How many were made.

    Raises:
        WorldkitError: the model has no dynamics, or no latent actions and some are given.
        ConditionError: a condition is missing, unknown or too short.
    Example:
        >>> from worldkit.testing.examples import small_config
        >>> from worldkit.assembly import build
        >>> dream = Dream(build(small_config()), torch.rand(2, 3, 3, 32, 32))
        >>> dream.step().shape, dream.step().shape, dream.steps
        (torch.Size([2, 1]), torch.Size([2, 1]), 2)
    """

    def __init__(
        self,
        model: ComposedWorldModel,
        context: Tensor | Latent | Batch,
        *,
        conditions: Mapping[str, Any] | None = None,
        masks: Mapping[str, Tensor] | None = None,
        latent_actions: Tensor | None = None,
        sampler: Sampler | None = None,
        window: Window = "exact",
        drawn: bool = False,
        video: Tensor | None = None,
    ):
        model.require_dynamics()
        conditions, masks = as_table(conditions, "conditions"), as_table(masks, "masks")
        self.model, self.steps = model, 0
        self._moving = {name for name, conditioner in model.conditioners.items() if conditioner.per_frame}
        with model._evaluating(context, latent_actions, *conditions.values()):
            z = look(model, context, conditions, masks)
            past = z.shape[1] - 1
            if latent_actions is not None:
                model.require_latent_action("latent_actions=...")
                check_shape(latent_actions, "b t n a", name="latent_actions", b=z.shape[0], t=past)
            told = model._gather_conditions(conditions, masks, past, MEANS, strict=True) if past else None
            self._standing = {name: model._gather_conditions(conditions, masks, 1, MEANS, strict=True, only={name})
                              for name in model.conditioners if name not in self._moving}
        self.window, self.standing = window, {name: x for name, x in conditions.items() if name not in self._moving}
        self._loop = Loop(model, z, told, latent_actions=latent_actions, sampler=sampler or Sampler(), window=window,
                          drawn=drawn, video=context if video is None else video)

    @property
    def latent(self) -> Latent:
        """The newest frame, ``[B, 1]``: the last one of the context, then what `step` gave.

        Another one may be put in its place (an edited one, say); the next step goes on from that.
        """
        return self._loop.latent

    @latent.setter
    def latent(self, z: Latent) -> None:
        if not isinstance(z, Latent) or z.spec != self._loop.latent.spec or z.shape != self._loop.latent.shape:
            raise ShapeError(f"the newest frame is {self._loop.latent}; what takes its place must be alike, got {z}")
        self._loop.replace(z)

    @property
    def before(self) -> Latent | None:
        """Frames before the newest one, as many as the model's decoder looks back on; None if it does not."""
        return self._loop.before

    def picture(self, *, masks: bool = False) -> Decoded:
        """The newest frame as the model draws it, ``[B, 1]``; see `worldkit.WorldModel.decode`."""
        return self.model.decode(self.latent, masks=masks, before=self._loop.before)

    @property
    def sampler(self) -> Sampler:
        """Its source of randomness; a copy has its own."""
        return self._loop.sampler

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        self._loop.sampler = sampler

    @property
    def nbytes(self) -> int:
        """Bytes of tensors that a copied dream holds of its own; 0 if it is no copy."""
        return self._loop.nbytes

    @property
    def latent_action(self) -> Tensor | None:
        """Latent action of the last step, ``[B, 1, N or 1, A]``; None without any."""
        return self._loop.latent_action

    @property
    def predictions(self) -> Mapping[str, Tensor]:
        """What the model's heads say of the last step, by target, ``[B, 1]`` or ``[B, 1, S]``; empty before it."""
        return self._loop.predictions

    def step(
        self,
        conditions: Mapping[str, Any] | None = None,
        *,
        masks: Mapping[str, Tensor] | None = None,
        latent_action: Tensor | None = None,
    ) -> Latent:
        """Predict one more frame.

        Args:
            conditions: Batch field -> value with one entry, ``[B, 1, ...]``: of the transition that leads to it.
            masks: Batch field -> where it is given.
            latent_action: ``[B, 1, N or 1, A]``; None: drawn from the model's policy, if it has latent actions.
        Returns:
            Its latent, ``[B, 1]``; `latent` afterwards.
        Raises:
            ConditionError: a condition is missing or unknown, or a latent action is needed.
        """
        conditions, masks = as_table(conditions, "conditions"), as_table(masks, "masks")
        loop, model = self._loop, self.model
        if latent_action is not None:
            model.require_latent_action("latent_action=...")
            check_shape(latent_action, "b t n a", name="latent_action", b=loop.latent.shape[0], t=1)
        elif loop.told:
            raise ConditionError("this dream was given the latent actions of its context, so it does not guess: give "
                                 "every step its latent_action=, or leave latent_actions= out at the start")
        with model._evaluating(loop.latent, latent_action, *conditions.values()):
            now = model._gather_conditions(conditions, masks, 1, MEANS, strict=True,
                                           only=self._moving | conditions.keys())
            for standing in (told for name, told in self._standing.items() if name not in conditions):
                now = {receiver: cond + standing[receiver] for receiver, cond in now.items()}
            z = loop.step(now, latent_action)
        self.steps += 1
        return z

    def put(self, rows: Tensor, context: Tensor | Latent | Batch, conditions: Mapping[str, Any] | None = None) -> None:
        """Begin anew in some rows, while the others go on: for models without latent actions.

        Args:
            rows: Which, int64 ``[R]``.
            context: What they begin with, of R clips, as long as that of the others or as the model's window.
            conditions: Of the transitions inside it.
        Raises:
            ConditionError: a condition is missing.
            ShapeError: the dynamics keeps histories of other lengths.
        """
        conditions = as_table(conditions, "conditions")
        with self.model._evaluating(context, *conditions.values()):
            z = look(self.model, context, conditions, {})
            past = z.shape[1] - 1
            told = self.model._gather_conditions(conditions, {}, past, MEANS, strict=True) if past else None
            self._loop.put(rows, z, told)

    def settled(self) -> tuple[Any, Latent]:
        """What it goes on from: the state of the dynamics, and the newest frame; for `resume`."""
        with self.model._evaluating(self.latent):
            return self._loop.settle(), self.latent

    def resume(self, state: Any, z: Latent) -> None:
        """Go on from what `settled` gave."""
        self._loop.resume(state, z)

    def copy(self) -> Dream:
        """Another dream that goes on from here by itself; its randomness is the same, so it differs as it is told."""
        twin = copy.copy(self)
        twin._loop = self._loop.copy()
        return twin

    def __repr__(self) -> str:
        return f"Dream of {self.latent.shape[0]} clip(s), {self.steps} step(s) made"
