"""The dynamics contract: latents so far -> distribution of the next latent."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from ..component import Component
from ..conditions import FORMS, Condition
from ..config import ComponentConfig
from ..distributions import Sampler
from ..errors import IncompatibleComponentsError, ShapeError
from ..latents import Latent, LatentDist, LatentSpec
from .features import token_dim, transition_tokens

if TYPE_CHECKING:
    from ..encoders.base import Encoding
    from .filtering import Filtered

Window = Literal["exact", "streaming"]
"""What happens when a rollout outgrows the window. ``exact``: slide by one frame and recompute, as in training.
``streaming``: APPROXIMATE; drop the oldest half, recompute once, go on with cached keys and values."""


EMBED = (
    "To send it goals, give it a method embed(self, z) -> tokens [B, T, N, D] as it sees latents, usually: return "
    "self.embed_latent(z, mark_views=False) of its LatentEmbed"
)
"""What to do about a dynamics that embeds no goals."""


class Carry:
    """State of a rollout. ``history`` and ``cond`` hold the newest frames and conditions, as many as the window has."""

    def __init__(self, history: Latent, cond: Condition):
        self.history, self.cond = history, cond

    def seen(self, cond: Condition, window: int) -> tuple[Latent, Condition]:
        """What a window shows, with the condition of the transition to come; older frames are let go."""
        keep = slice(max(0, self.history.shape[1] - window), None)
        self.history, self.cond = self.history[:, keep], self.cond.then(cond).at(keep)
        return self.history, self.cond


class Dynamics(Component, ABC):
    """Latents and conditions up to t -> distribution of the latent at t + 1.

    Implement `prior` (explicit distributions), or set ``explicit_prior = False`` and implement `loss` and `predict`
    (implicit models such as diffusion). `start` and `step` work by running `prior` on a sliding window; override them
    to cache.

    Attributes:
        Config: The component's config class.
        explicit_prior: True if `prior` is implemented.
        filtering: True if its latents are states, which depend on the frames and actions before: then ``spec``
            describes the state, and `filter` is implemented (see `worldkit.dynamics.filtering`).
        borders: True if nothing is carried over frames that begin an episode inside a clip (``Batch.first``).
        factorizes: True if it takes latents apart into factors of its own, which latent actions are then about:
            `factors`, `factor_spec` and `newest_factors` are implemented, and `prior` takes ``factors=`` where they
            are known.
        unrolls: True if `loss` feeds predictions back, so that clips may be longer than the window and one frame more.
        requires: Properties of the latent it cannot do without: ``"grid"``, ``"tracked"``, ``"normal"``, ``"codes"``
            (numbers of classes), ``"continuous"`` (no such numbers).
        takes: Forms of conditions it reads: ``"frame"`` (actions), ``"token"`` (latent actions, goals), ``"memory"``
            (language). A model that would give it another is refused. None: a dynamics that does not say so is tried
            out when a model with conditions is built.
        cond_dim: Width of the conditions it receives.
        window: Most frames it sees at once.
    """

    WORDS = {"requires": ("grid", "tracked", "normal", "codes", "continuous"), "takes": frozenset(FORMS)}
    Config: ClassVar[type[ComponentConfig]]
    explicit_prior: ClassVar[bool] = True
    filtering: ClassVar[bool] = False
    borders: ClassVar[bool] = False
    factorizes: ClassVar[bool] = False
    unrolls: ClassVar[bool] = False
    requires: ClassVar[frozenset[str]] = frozenset()
    takes: frozenset[str] | None = None
    config: ComponentConfig
    spec: LatentSpec
    window: int
    memory_length: int
    cond_dim: int

    def __init__(
        self, config: ComponentConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
        memory_length: int = 0,
    ):
        super().__init__()
        self.config, self.spec, self.window, self.memory_length = config, spec, window, memory_length

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        """Index t is p(z_{t+1} | z_{<=t}, cond_{<=t}); same length as ``z``."""
        raise NotImplementedError(f"{type(self).__name__} has no explicit prior")

    def loss(self, z: Latent, cond: Condition, sampler: Sampler) -> dict[str, Tensor]:
        """Training terms of an implicit model, ``[B, T - 1]`` each: entry t concerns the transition t -> t + 1.

        Args:
            z: Latents of T frames, detached: a denoising loss must not shape the encoder.
            cond: Conditions of the T - 1 transitions.
            sampler: Source of randomness. If it is deterministic, draw the same noise every time.
        """
        raise NotImplementedError(f"{type(self).__name__} trains by its prior")

    def filter(
        self, seen: Encoding, cond: Condition, sampler: Sampler, *, first: Tensor, last: Latent | None = None
    ) -> Filtered:
        """States of the frames of a clip, of a dynamics that filters.

        Args:
            seen: What the encoder found in T frames, each by itself.
            cond: Of T transitions: index t is the one that LEADS TO frame t. Where ``first``, what the conditioners
                give for an action that was not given.
            sampler: Source of randomness.
            first: bool ``[B, T]``: where the state before the frame is reset, to zeros. All of ``first[:, 0]`` without
                ``last``.
            last: State ``[B, 1]`` of the frame before these; frame by frame gives what the whole clip gives.
        """
        raise NotImplementedError(f"{type(self).__name__} does not filter")

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> Any:
        """Begin a rollout after the frames of ``z``; ``cond`` covers the transitions between them (one fewer)."""
        return Carry(z, cond)

    def step(self, carry: Any, cond: Condition) -> LatentDist:
        """Distribution of the next frame, ``[B, 1]``, given the condition of the transition that leads to it."""
        return self.prior(*carry.seen(cond, self.window))[:, -1:]

    def predict(self, carry: Any, cond: Condition, sampler: Sampler, *, mean: bool) -> Latent:
        """The next frame ``[B, 1]``: a sample of `step`'s answer, or its mean. Implicit models override this.

        Args:
            carry: State of the rollout.
            cond: Condition of the transition that leads to the next frame.
            sampler: Source of randomness; a deterministic one asks for the mean.
            mean: Ask for the mean all the same (the model's randomness lies in its latent actions).
        """
        dist = self.step(carry, cond)
        return dist.mode() if mean else dist.sample(sampler)

    def observe(self, carry: Any, z: Latent) -> None:
        """Tell the rollout which frame ``[B, 1]`` came next (what `predict` answered)."""
        carry.history = type(z).cat([carry.history, z])

    def put(self, carry: Any, rows: Tensor, other: Any) -> None:
        """Let another rollout's rows take the place of some of this one: they begin anew, the others go on.

        Args:
            carry: State of this rollout, which was told of its newest frame (`observe`).
            rows: int64 ``[R]``.
            other: State of a rollout of R clips, likewise.
        Raises:
            ShapeError: their histories are not equally long, or the state is one that a dynamics has to put by itself.
        """
        if type(carry) is not Carry:
            raise ShapeError(f"{type(self).__name__} keeps a state of its own and has no method put(carry, rows, "
                             "other), so single rows of its rollouts cannot begin anew")
        for one in (carry, other):
            keep = slice(max(0, one.history.shape[1] - self.window), None)
            one.history, one.cond = one.history[:, keep], one.cond.at(keep)
        lengths = carry.history.shape[1], other.history.shape[1]
        if lengths[0] != lengths[1]:
            raise ShapeError(f"rows that begin anew have seen {lengths[1]} frames, and the others {lengths[0]}: begin "
                             f"with as many frames as the window has, {self.window}")
        carry.history, carry.cond = carry.history.put(rows, other.history), carry.cond.put(rows, other.cond)

    @property
    def factor_spec(self) -> LatentSpec:
        """Description of what latent actions are about: the latent itself, unless the dynamics takes it apart."""
        return self.spec

    def factors(self, z: Latent) -> Latent:
        """What latent actions are about, of any number of frames; index t knows frames up to t. By default ``z``."""
        return z

    def newest_factors(self, carry: Any, z: Latent) -> Latent:
        """The same of the newest frame ``z`` ``[B, 1]`` of a rollout, which `observe` was just told of."""
        return z

    def feature_dim(self) -> int:
        """Width of the tokens of `features`."""
        return token_dim(self.spec, getattr(self, "cond_dim", 0))

    def features(self, z: Latent, cond: Condition) -> Tensor:
        """What heads read of the transitions inside a clip: tokens ``[B, T - 1, K, feature_dim]``, without an order.

        By default every token of the latents left and reached, and the condition. Override it, with `feature_dim` and
        `step_features`, where the dynamics knows more of a transition than that.

        Args:
            z: Latents of T frames.
            cond: Conditions of the T - 1 transitions.
        """
        return transition_tokens(z[:, :-1], z[:, 1:], cond, getattr(self, "cond_dim", 0))

    def step_features(self, carry: Any, left: Latent, reached: Latent, cond: Condition) -> Tensor:
        """The same of the transition that `predict` just made, before `observe`: ``[B, 1, K, feature_dim]``.

        Args:
            carry: State of the rollout.
            left, reached: Latents ``[B, 1]``: the newest frame, and what `predict` answered.
            cond: Condition of the transition.
        """
        return self.features(type(left).cat([left, reached]), cond)

    def embed(self, z: Latent) -> Tensor:
        """Tokens ``[B, T, N, D]`` of a goal as this dynamics sees latents, without view embeddings (as upstream).

        Only needed for goals; a model that sends some to a dynamics without this method is refused.
        """
        raise IncompatibleComponentsError(f"{type(self).__name__} embeds no goals. {EMBED}")

