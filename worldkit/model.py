"""`WorldModel`, the interface of every model, and `ComposedWorldModel`, the one assembled from components.

Data flows one way: video -> encoder -> latent -> dynamics (with conditions) -> decoder -> video. The library's only
prediction loop is `worldkit.dreaming.Loop`, which `ComposedWorldModel.rollout` runs.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .assembly import assemble
from .batch import Batch, as_table
from .component import Component, NamedModules
from .conditioners.base import Conditioner
from .conditioning import gather, refuse_unknown
from .conditions import Condition
from .config import WorldModelConfig
from .decoders.base import Decoded, Decoder
from .distributions import MEANS, Sampler
from .dynamics.base import Dynamics, Window
from .encoders.base import Encoder, Encoding
from .errors import NoDecoderError, ShapeError, WorldkitError
from .heads.base import Head
from .imagining import Imagined, Policy, imagine
from .latent_actions.base import LatentAction
from .latents import Latent, LatentDist, LatentSpec
from .objectives.base import Loss, Objective
from .operators.specification import OperatorSpec
from .perception import Seen, expected, look, perceive, refuse_borders
from .priors.base import Prior
from .registry import register_model
from .rolling import Rollout, predicted, stills
from .steering import Steering, about, steer
from .wiring import video_for


class WorldModel(Component, ABC):
    """A learned simulator of video: it perceives, predicts, can be steered, and can be taken apart."""

    Config: ClassVar[type[WorldModelConfig]] = WorldModelConfig
    config: WorldModelConfig
    operator: OperatorSpec | None = None
    """What was done to raw frames and actions in training, if that is known; see `worldkit.get_operator`."""

    @abstractmethod
    def encode(
        self, video: Tensor | Batch, *, conditions: Mapping[str, Any] | None = None,
        masks: Mapping[str, Tensor] | None = None, first: Tensor | None = None, sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> Latent:
        """Video ``[B, T, C, H, W]`` (uint8, or float in [0, 1]) -> latents; means unless ``sample``.

        A model whose dynamics filters asks for the conditions between the frames, as `Batch` has them, and heeds
        ``first``, bool ``[B, T]``, the frames that begin an episode. Others need neither.
        """

    @abstractmethod
    def decode(self, latent: Latent, *, masks: bool = False) -> Decoded:
        """Latents -> video. Raises `NoDecoderError` if the model cannot draw."""

    @abstractmethod
    def loss(
        self, batch: Batch, step: int = 0, *, sampler: Sampler | None = None, generator: torch.Generator | None = None
    ) -> Loss:
        """Training loss of a batch at a training step."""

    @abstractmethod
    def rollout(
        self,
        context: Tensor | Latent | Batch,
        horizon: int,
        *,
        conditions: Mapping[str, Any] | None = None,
        masks: Mapping[str, Tensor] | None = None,
        latent_actions: Tensor | None = None,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
        decode: bool = True,
        window: Window = "exact",
    ) -> Rollout:
        """Predict ``horizon`` frames after the context."""

    @classmethod
    def from_config(cls, config: WorldModelConfig) -> WorldModel:
        """Build the model of a configuration; families with other constructors override this."""
        return cls(config)

    def forward(self, batch: Batch, step: int = 0, *, sampler: Sampler | None = None) -> Loss:
        """`loss`, so that the hooks of distributed wrappers fire."""
        return self.loss(batch, step, sampler=sampler)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``config.json`` and ``model.safetensors``; see `worldkit.storage.hub.save_pretrained`."""
        from .storage.hub import save_pretrained

        return save_pretrained(self, folder)

    def push_to_hub(self, repo: str, **options: Any) -> str:
        """Upload the model to the hub; see `worldkit.storage.sharing.push_to_hub`."""
        from .storage.sharing import push_to_hub

        return push_to_hub(self, repo, **options)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> WorldModel:
        """Load a model from a folder or a hub id; see `worldkit.storage.hub.from_pretrained`."""
        from .storage.hub import from_pretrained

        return from_pretrained(source, revision=revision)

    def parameter_report(self) -> dict[str, int]:
        """Parameters per component, and ``"total"``."""
        report = {name: sum(p.numel() for p in part.parameters()) for name, part in self.named_children()}
        report = {name: count for name, count in report.items() if count}
        return report | {"total": sum(p.numel() for p in self.parameters())}


@register_model("composed")
class ComposedWorldModel(WorldModel):
    """Encoder, decoder, dynamics, latent action, conditioners, prior and objective behind the `WorldModel` interface.

    Build it with `worldkit.create_model`; the parts are attributes.
    """

    def __init__(
        self,
        config: WorldModelConfig,
        *,
        encoder: Encoder,
        decoder: Decoder | None,
        dynamics: Dynamics | None,
        latent_action: LatentAction | None,
        conditioners: Mapping[str, Conditioner],
        receivers: Mapping[str, str],
        prior: Prior | None = None,
        heads: Mapping[str, Head] | None = None,
        objective: Objective,
    ):
        super().__init__()
        self.config = config
        self.encoder, self.decoder, self.dynamics, self.latent_action = encoder, decoder, dynamics, latent_action
        self.conditioners = NamedModules(conditioners)
        self.receivers = dict(receivers)  # condition name -> "latent_action" | "dynamics" | "both"
        self.prior, self.heads, self.objective = prior, NamedModules(heads or {}), objective
        self._perceptual: list[nn.Module] = []  # in a list, so that it is no submodule
        objective.prepare(self)
        self.freeze()

    @classmethod
    def from_config(cls, config: WorldModelConfig) -> ComposedWorldModel:
        """Assemble the model of a configuration; see `worldkit.assembly.assemble`."""
        return cls(config, **assemble(config))

    @property
    def clip_length(self) -> int:
        """Frames of a training clip; see `WorldModelConfig.clip_length`."""
        return self.config.clip_length

    # -- parts that are not trained

    def _frozen(self) -> list[nn.Module]:
        parts = (getattr(self, name) for name in sorted(self.objective.frozen | self.objective.idle))
        return [part for part in parts if part is not None]

    def freeze(self) -> None:
        """No gradients for the parts that the objective does not train (`Objective.frozen`, `Objective.idle`)."""
        for part in self._frozen():
            part.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ComposedWorldModel:
        """Training or evaluation mode; parts that the objective does not train stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    # -- perception

    @property
    def spec(self) -> LatentSpec:
        """Description of the model's latents: of the dynamics' states if it filters, else of the encoder's latents."""
        return self.dynamics.spec if self.dynamics is not None and self.dynamics.filtering else self.encoder.spec

    def encode(
        self, video: Tensor | Batch, *, conditions: Mapping[str, Any] | None = None,
        masks: Mapping[str, Tensor] | None = None, first: Tensor | None = None, sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> Latent:
        sampler = Sampler(deterministic=not sample, generator=generator)
        return self.perceive(video, sampler, conditions=conditions, masks=masks, first=first).latent

    def perceive(
        self, video: Tensor | Batch, sampler: Sampler = MEANS, *, conditions: Mapping[str, Any] | None = None,
        masks: Mapping[str, Tensor] | None = None, first: Tensor | None = None, last: Latent | None = None,
        last_action: Mapping[str, Any] | None = None, encoding: Encoding | None = None,
    ) -> Seen:
        """Everything found in a clip: latents, their posterior, the encoder's by-products; of states their prior.

        Args:
            video: ``[B, T, C, H, W]`` (``[B, V, T, ...]``), uint8 or float in [0, 1]; or a batch, whose conditions,
                masks and ``first`` are then used where they are not given here.
            sampler: Source of randomness.
            conditions: Condition name -> value, as in a batch (index t leads from frame t to t + 1). Only a dynamics
                that filters asks for them, the T - 1 between the frames.
            masks: Condition name -> where it is given.
            first: bool ``[B, T]``: frames that begin an episode.
            last: State ``[B, 1]`` of the frame before these, of a dynamics that filters; frame 0 then begins no
                episode, unless ``first`` says so.
            last_action: With ``last``: condition name -> value ``[B, 1, ...]`` that led from there to frame 0.
            encoding: What the encoder found in these frames, if it looked before.
        Raises:
            ConditionError: a condition is missing, unknown or too short.
            ShapeError: something has another shape, or episodes begin where a part cannot let go of what was before.
        """
        return perceive(self, video, sampler, conditions=conditions, masks=masks, first=first, last=last,
                        last_action=last_action, encoding=encoding)

    def decode(self, latent: Latent, *, masks: bool = False, before: Latent | None = None) -> Decoded:
        """Latents -> video.

        Args:
            latent: ``[B, T]``.
            masks: Ask for masks of the tokens, too.
            before: Latents of the frames before these, for a decoder that looks back on them (`Decoder.history`).
        Raises:
            NoDecoderError: the model cannot draw.
        """
        if self.decoder is None:
            raise NoDecoderError(
                f"this model (objective '{self.config.objective.name}') has no decoder and cannot draw; "
                "create it with decoder=... and train that"
            )
        if not isinstance(latent, Latent):
            raise ShapeError(f"decode takes a latent, as encode(video) gives it, got {type(latent).__name__}")
        past = 0 if before is None else min(self.decoder.history, before.shape[1])
        if past:
            latent = type(latent).cat([before[:, -past:], latent])
        shown = latent if latent.spec == self.decoder.spec else self.encoder.look_up(latent)
        drawn, obs = self.decoder(shown, masks=masks).after(past), self.config.obs
        if drawn.video.shape[-3:] != (obs.channels, obs.height, obs.width):
            raise ShapeError(
                f"{type(self.decoder).__name__}.forward must draw [..., {obs.channels}, {obs.height}, {obs.width}], "
                f"got {list(drawn.video.shape)}"
            )
        return drawn

    # -- training

    def loss(
        self, batch: Batch, step: int = 0, *, sampler: Sampler | None = None, generator: torch.Generator | None = None
    ) -> Loss:
        if not isinstance(batch, Batch):
            raise ShapeError(f"loss takes a batch, worldkit.Batch(video, conditions=...), got {type(batch).__name__}")
        refuse_unknown(self, batch.conditions, batch.masks)
        if batch.first is not None:
            refuse_borders(self, batch.first)
        batch = batch.as_float()
        return self.objective(self, batch, step, sampler=sampler or Sampler(generator=generator))

    def condition(self, z: Latent | None, batch: Batch, *, sampler: Sampler, factors: Latent | None = None) -> Steering:
        """What the dynamics is told about the transitions inside a clip, and what latent actions make of them.

        Args:
            z: Latents of T frames; None will do for latent actions that read video.
            batch: Where they come from, with its conditions.
            sampler: Source of randomness.
            factors: What `Dynamics.factors` makes of ``z``, where it is known.
        """
        return steer(self, z, batch, sampler=sampler, factors=factors)

    def predict_next(self, z: Latent, cond: Condition, *, factors: Latent | None = None) -> LatentDist:
        """Teacher-forced predictions for a clip, of a dynamics with an explicit prior.

        Args:
            z: Latents of T frames.
            cond: Of the transitions between them, as `condition` gives it.
            factors: What `Dynamics.factors` makes of ``z``, where it is known; of a dynamics that ``factorizes``.
        Returns:
            Priors of frames 1..T-1: index t predicts frame t + 1.
        """
        assert self.dynamics is not None
        known = {} if factors is None or not self.dynamics.factorizes else {"factors": factors[:, :-1]}
        predicted, wanted = self.dynamics.prior(z[:, :-1], cond, **known), (z.shape[0], z.shape[1] - 1)
        if not isinstance(predicted, LatentDist) or predicted.shape != wanted:
            found = f"{type(predicted).__name__} {list(getattr(predicted, 'shape', ()))}".removesuffix(" []")
            raise ShapeError(f"{type(self.dynamics).__name__}.prior must give LatentDist {list(wanted)}, got {found}")
        return predicted

    def head_losses(self, z: Latent, cond: Condition, batch: Batch, *, detach: bool = True) -> dict[str, Tensor]:
        """How wrong the heads are about the transitions of a clip, in nats: ``[B, T - 1]`` each, not yet weighted.

        Args:
            z: Latents of T frames.
            cond: Of the transitions between them, as `condition` gives it.
            batch: Has the targets.
            detach: The heads alone are trained, not what gives latents and conditions.
        Raises:
            ShapeError: the batch lacks a target, or it has another shape than its head gives.
        """
        if not self.heads:
            return {}
        features = self.dynamics.features(z.detach(), cond.detach()) if detach else self.dynamics.features(z, cond)
        losses = {}
        for name, head in self.heads.items():
            if name not in batch.targets:
                has = ", ".join(batch.targets) or "none"
                raise ShapeError(
                    f"this model has a head for the target '{name}', which the batch lacks (its targets: {has}): pass "
                    f'Batch(video, targets={{"{name}": ...}}), or clips of ClipDataset(..., '
                    "targets=model.config.targets)"
                )
            loss, wanted = head.loss(features, batch.targets[name][:, :-1]), (z.shape[0], z.shape[1] - 1)
            if tuple(loss.shape) != wanted:
                raise ShapeError(f"{type(head).__name__}.loss must give {list(wanted)}, got {list(loss.shape)}")
            losses[name] = loss
        return losses

    def perceptual(self) -> nn.Module:
        """The frozen VGG distance of perceptual losses; its weights come from torch's cache or the hub on first use.

        `use_perceptual` gives it other weights.
        """
        if not self._perceptual:
            from .metrics import load_lpips

            self.use_perceptual(load_lpips())
        return self._perceptual[0]

    def use_perceptual(self, network: nn.Module) -> None:
        """Use this perceptual network: ``model.use_perceptual(worldkit.metrics.load_lpips(backbone, heads))``."""
        self._perceptual = [network.to(next(self.parameters()).device)]

    @property
    def has_perceptual(self) -> bool:
        """Whether the network of perceptual losses has been loaded."""
        return bool(self._perceptual)

    # -- prediction

    def infer_latent_actions(
        self, video: Tensor | Latent, *, conditions: Mapping[str, Any] | None = None,
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Latent actions behind a clip, real or dreamed, ``[B, T - 1, N or 1, A]`` (means).

        Index t explains frame t -> t + 1. ``video``: as `rollout`'s context, frames or a latent; those that read video
        (`LatentAction.reads`) need frames.
        """
        module = self.require_latent_action("infer_latent_actions")
        conditions, masks = as_table(conditions, "conditions"), as_table(masks, "masks")
        with self._evaluating(video):
            z = look(self, video, conditions, masks)
            given = self._gather_conditions(conditions, masks, z.shape[1], MEANS, strict=True)
            seen = video_for(module, video, z.shape[1])
            acted = about(self, z)
            return module.start(acted, given["latent_action"], **seen)[0].sample(MEANS, "latent_action.posterior")

    def rollout(
        self,
        context: Tensor | Latent | Batch,
        horizon: int,
        *,
        conditions: Mapping[str, Any] | None = None,
        masks: Mapping[str, Tensor] | None = None,
        latent_actions: Tensor | None = None,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
        decode: bool = True,
        window: Window = "exact",
    ) -> Rollout:
        """Predict ``horizon`` frames after the context.

        The context is encoded by its means. Latent actions inside the context are inferred; afterwards they are given,
        or drawn from the policy (its mean if ``deterministic``). Latents themselves are means, except in stochastic
        rollouts of models without latent actions; a dynamics without explicit distributions (diffusion) draws them
        unless ``deterministic``. Gradients flow if an input requires them; dropout is off.

        Args:
            context: ``[B, C0, C, H, W]`` (``[B, V, C0, ...]``), uint8 or float in [0, 1], or a latent ``[B, C0]``;
                of models that read vectors a batch with them, `Batch.context`.
            horizon: Frames to predict.
            conditions: Batch field -> value; values with a time axis cover ``C0 + horizon`` frames.
            masks: Batch field -> where the condition is given.
            latent_actions: ``[B, C0 + horizon - 1, N or 1, A]``, index t for frame t -> t + 1.
            deterministic: Follow the policy's mean.
            generator: Source of randomness.
            decode: Draw context and prediction.
            window: Beyond ``timestep_horizon`` frames: ``"exact"`` or ``"streaming"`` (approximate, faster).
        Raises:
            ConditionError: a condition is missing, unknown or too short.
        """
        self.require_dynamics()
        if not hasattr(horizon, "__index__") or horizon < 1:
            raise ShapeError(f"horizon must be at least 1, got {horizon!r}")
        if window not in ("exact", "streaming"):
            raise WorldkitError(f"window must be 'exact' or 'streaming', got {window!r}")
        conditions, masks = as_table(conditions, "conditions"), as_table(masks, "masks")
        sampler = Sampler(deterministic=deterministic, generator=generator)
        with self._evaluating(context, latent_actions, *conditions.values()):
            z = look(self, context, conditions, masks)
            given = self._gather_conditions(conditions, masks, z.shape[1] + horizon, sampler, strict=True)
            latents, actions, told = predicted(self, z, horizon, given, latent_actions, sampler, window, video=context)
            drawn = self.decode(latents, before=z) if decode else None
            given_back = self.decode(z) if decode else None
            return Rollout(
                latents=latents,
                context_latents=z,
                video=None if drawn is None else drawn.video,
                context_video=None if given_back is None else given_back.video,
                latent_actions=actions,
                predictions=told,
                vectors={} if drawn is None else drawn.vectors,
                context_vectors={} if given_back is None else given_back.vectors,
            )

    def imagine(
        self, start: Latent, policy: Policy, horizon: int, *, conditions: Mapping[str, Any] | None = None,
        sampler: Sampler | None = None, action: str = "action", grad: bool = False, decode: bool = False,
        predictions: bool = True, drawn: bool = False,
    ) -> Imagined:
        """What follows when a policy acts in the model; see `worldkit.imagining.imagine`."""
        return imagine(self, start, policy, horizon, conditions=conditions, sampler=sampler, action=action, grad=grad,
                       decode=decode, predictions=predictions, drawn=drawn)

    def as_env(self, data: Any, **options: Any) -> Any:
        """This model as a `gymnasium.Env`, or a batch of them; see `worldkit.envs.imagination.as_env`."""
        from .envs.imagination import as_env

        return as_env(self, data, **options)

    def sample(
        self, batch_size: int, horizon: int = 0, *, generator: torch.Generator | None = None, **rollout_options: Any
    ) -> Rollout:
        """Videos out of nothing: first frames from the model's prior, then a rollout.

        Without a prior one frame comes from the encoder's static prior, if it has one; of a dynamics that filters from
        what it expects of a first frame.

        Args:
            batch_size: Videos to draw.
            horizon: Frames to predict after the first ones, which are the rollout's context; 0: these alone.
            generator: Source of randomness, of the first frames and of the rollout.
            **rollout_options: As for `rollout`; conditions cover first frames and horizon. ``deterministic`` concerns
                what follows the first frames.
        Raises:
            WorldkitError: neither the model nor its encoder has a prior over first frames.
        Example:
            >>> from worldkit.testing.examples import small_config
            >>> from worldkit.assembly import build
            >>> build(small_config()).sample(2, horizon=3).latents.shape
            torch.Size([2, 3])
        """
        told = {name: rollout_options[name] for name in ("conditions", "masks") if name in rollout_options}
        start = self.sample_first_frames(batch_size, generator=generator, **told)
        if not horizon:
            with self._evaluating():
                return stills(self, start, decode=rollout_options.get("decode", True))
        return self.rollout(start, horizon, generator=generator, **rollout_options)

    def sample_first_frames(
        self, batch_size: int, *, generator: torch.Generator | None = None, conditions: Mapping[str, Any] | None = None,
        masks: Mapping[str, Tensor] | None = None,
    ) -> Latent:
        """Latents of the first frames of videos nobody has seen, ``[batch_size, frames]``; errors as `sample`.

        Conditions without a time axis matter to a dynamics that filters.
        """
        if not hasattr(batch_size, "__index__") or batch_size < 1:
            raise ShapeError(f"batch_size must be at least 1, got {batch_size!r}")
        sampler = Sampler(generator=generator)
        with self._evaluating():
            if self.dynamics is not None and self.dynamics.filtering:
                return expected(self, batch_size, sampler, as_table(conditions, "conditions"),
                                as_table(masks, "masks")).sample(sampler)
            if self.prior is not None:
                return self.prior.sample(batch_size, sampler)
            static = self.encoder.first_frame_prior(batch_size)
            if static is not None:
                return static.sample(sampler)
        raise WorldkitError(
            f"this model has no prior over first frames, and neither has its encoder '{self.config.encoder.name}', so "
            "nothing can be sampled from it. Give rollout() a context, or train a prior for this model: worldkit train "
            "PRESET --data ... -o prior=diffusion -o objective=first-frames -o train.init_from=FOLDER_OF_THIS_MODEL"
        )

    # -- helpers

    def require_dynamics(self) -> Dynamics:
        """The dynamics.

        Raises:
            WorldkitError: the model has none.
        """
        if self.dynamics is None:
            does = "encodes pictures" if self.decoder is None else "encodes and decodes pictures"
            raise WorldkitError(f"this model has no dynamics and predicts nothing; it {does}")
        return self.dynamics

    def require_latent_action(self, what: str) -> LatentAction:
        """The part that infers and guesses latent actions.

        Raises:
            WorldkitError: the model has none, and ``what`` needs it.
        """
        if self.latent_action is None:
            raise WorldkitError(f"{what} needs latent actions: create_model(..., latent_action='gaussian')")
        return self.latent_action

    @contextlib.contextmanager
    def _evaluating(self, *inputs: Any, grad: bool | None = None) -> Iterator[None]:
        """Evaluation mode; no graph unless an input asks for gradients, or as ``grad`` says."""
        def wants(x: Any) -> bool:
            tensors = x.values.values() if isinstance(x, Latent) else [x.video if isinstance(x, Batch) else x]
            return any(torch.is_tensor(t) and t.requires_grad for t in tensors)

        learning = [module for module in self.modules() if module.training]
        for module in learning:  # not by eval(), which asks every module for its children: as much as a small step
            module.__dict__["training"] = False
        graph = any(map(wants, inputs)) if grad is None else grad
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled() and graph):
                yield
        finally:
            for module in learning:
                module.__dict__["training"] = True

    def _gather_conditions(
        self, conditions: Mapping[str, Any], masks: Mapping[str, Tensor], frames: int, sampler: Sampler, *,
        strict: bool = False, only: Collection[str] | None = None,
    ) -> dict[str, Condition]:
        return gather(self, conditions, masks, frames, sampler, strict=strict, only=only)


register_model("g-swm", "worldkit.gswm:GSWM")
