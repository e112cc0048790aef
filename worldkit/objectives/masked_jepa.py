"""Training by masks: from the patches that are shown, predict what a slow copy of the encoder says of the hidden ones.

I-JEPA (pictures; blocks are asked for one by one, by a smooth L1 distance) and V-JEPA 1 and 2 (clips; the union of the
blocks, by L1). Targets are those of the whole picture, brought to mean 0 and variance 1 over their features;
predictions are not. The predictor and the slow copy belong to the objective: they are saved with checkpoints, and a
model that is shared leaves them out.

Every mask of a picture is a row of its own, so that the blocks of a picture never see one another. Clips of a batch
are shown once per kind of mask.

Source: I-JEPA (arXiv:2301.08243), V-JEPA (arXiv:2404.08471), V-JEPA 2 (arXiv:2506.09985; facebookresearch/vjepa2 @
c2963a4), written from their description. (I-JEPA's paper has an average L2 distance, its code smooth L1.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor

from ..batch import Batch
from ..config import ComponentConfig, Config
from ..distributions import Sampler
from ..errors import IncompatibleComponentsError
from ..nn.vit import MaskedPredictor, take
from .base import Loss, Objective
from .collapse import health
from .jepa import momentum
from .masks import ClipMaskConfig, ImageMaskConfig, Masks, clip_masks, image_masks, picks
from .teacher import Teacher

if TYPE_CHECKING:
    from ..encoders.jepa_vit import JEPAViT
    from ..model import ComposedWorldModel


class PredictorConfig(Config):
    """Options of the predictor; its positions and activation are the encoder's.

    Attributes:
        dim, num_layers: Of its blocks.
        num_heads: None: as many as the encoder has (I-JEPA, V-JEPA).
        mlp_ratio: Its MLPs are so many times as wide as ``dim``.
        mask_tokens: What stands for a hidden patch: so many kinds, for the kinds of masks in turn.
    """

    dim: int = Field(default=384, gt=0)
    num_layers: int = Field(default=12, gt=0)
    num_heads: int | None = Field(default=None, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    mask_tokens: int = Field(default=1, gt=0)


class MaskedJEPAConfig(ComponentConfig):
    """Options of training by masks; defaults are I-JEPA's.

    Attributes:
        num_frames: Frames of a training clip; of an encoder of pictures every one is a picture by itself.
        predictor: Its options.
        image: Masks of an encoder of pictures.
        clips: Kinds of masks of an encoder of clips.
        one_mask_token: All kinds of masks take the first mask token (V-JEPA 2, whose index counts lengths of clips).
        distance: ``"smooth-l1"`` (I-JEPA) or ``"power"``: ``|z - h| ** exponent / exponent``.
        exponent: See there; 1: L1 (V-JEPA).
        spread: Weight of a hinge on the spread of predictions over the patches of a clip (V-JEPA's option; 0 in all
            its configurations).
        momentum: Of the slow copy, at the first update and at update ``momentum_steps`` and after (linear between).
        momentum_steps: See there; 0: constant, the first of the two.
    """

    name: str = "masked-jepa"
    num_frames: int = Field(default=1, gt=0)
    predictor: PredictorConfig = PredictorConfig()
    image: ImageMaskConfig = ImageMaskConfig()
    clips: tuple[ClipMaskConfig, ...] = Field(
        default=(ClipMaskConfig(), ClipMaskConfig(num_blocks=2, spatial_scale=(0.7, 0.7))), min_length=1)
    one_mask_token: bool = False
    distance: Literal["smooth-l1", "power"] = "smooth-l1"
    exponent: float = Field(default=1.0, gt=0)
    spread: float = Field(default=0.0, ge=0)
    momentum: tuple[float, float] = (0.996, 1.0)
    momentum_steps: int = Field(default=0, ge=0)


class MaskedJEPA(Objective):
    """Prediction of hidden patches; see the module's docstring.

    Attributes:
        predictor: See `worldkit.nn.vit.MaskedPredictor`.
        teacher: The slow copy of the encoder's network.
    """

    Config = MaskedJEPAConfig
    requires = frozenset({"no-dynamics"})
    idle = frozenset({"decoder"})
    config: MaskedJEPAConfig

    def prepare(self, model: ComposedWorldModel) -> None:
        encoder = model.encoder
        if not (hasattr(encoder, "tokens") and hasattr(encoder.config, "tubelet")):  # other encoders call a layer so
            raise IncompatibleComponentsError(
                f"objective 'masked-jepa' shows an encoder some patches alone, which '{encoder.config.name}' cannot "
                "do: set encoder='jepa-vit'"
            )
        if not hasattr(self, "predictor"):
            with torch.random.fork_rng(devices=[]):
                self.predictor = self._predictor(encoder)
            self.teacher = Teacher(encoder.net)
        self.teacher.begin(encoder.net)

    def _predictor(self, encoder: JEPAViT) -> MaskedPredictor:
        config, seen = self.config.predictor, encoder.config
        heads = config.num_heads or seen.num_heads
        if config.dim % heads or config.dim % 4:
            raise IncompatibleComponentsError(
                f"objective.predictor.dim {config.dim} must be a multiple of 4 and divide into "
                f"{heads} heads (objective.predictor.num_heads, by default the encoder's)"
            )
        return MaskedPredictor(
            seen.dim, self._grid(encoder), dim=config.dim, num_layers=config.num_layers, num_heads=heads,
            hidden=int(config.dim * config.mlp_ratio), positions=seen.positions, activation=seen.activation,
            mask_tokens=config.mask_tokens, zeros=seen.tubelet > 1, rescaled=seen.rescaled,
        )

    def _grid(self, encoder: JEPAViT) -> tuple[int, int, int]:
        tubelet = encoder.config.tubelet
        if tubelet == 1:
            return (1, *encoder.grid[1:])
        if self.config.num_frames % tubelet:
            raise IncompatibleComponentsError(
                f"objective.num_frames {self.config.num_frames} is no multiple of encoder.tubelet {tubelet}"
            )
        return (self.config.num_frames // tubelet, *encoder.grid[1:])

    def after_step(self, model: ComposedWorldModel, step: int) -> None:
        self.teacher.follow(model.encoder.net,
                            momentum=momentum(self.config.momentum, self.config.momentum_steps, step))

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        encoder = model.encoder
        frames = encoder.fold_frames(batch.video)  # [(B V T), C, H, W]
        clips = frames.unflatten(0, (-1, 1 if encoder.config.tubelet == 1 else batch.video.shape[-4]))
        sets = [Masks(m.context.to(clips.device), m.targets.to(clips.device))
                for m in self._masks(encoder, clips, step, sampler)]
        return self.loss(model, clips, sets)

    def _masks(self, encoder: JEPAViT, clips: Tensor, step: int, sampler: Sampler) -> Iterator[Masks]:
        if encoder.config.tubelet == 1:
            yield image_masks(self.config.image, encoder.grid[1:], step, picks(sampler, clips))
            return
        for kind in self.config.clips:
            yield clip_masks(kind, self._grid(encoder), step, picks(sampler, clips))

    def targets(self, encoder: JEPAViT, clips: Tensor) -> Tensor:
        """What the slow copy says of whole clips, ``[M, N, D]``, normed."""
        pixels = rearrange((clips - encoder.mean) / encoder.std, "m t c h w -> m c t h w")
        found = self.teacher(pixels)
        return F.layer_norm(found, found.shape[-1:])

    def loss(self, model: ComposedWorldModel, clips: Tensor, sets: list[Masks]) -> Loss:
        """The loss of clips ``[M, T, C, H, W]`` under these masks: the mean over sets of masks."""
        whole, errors, made, seen = self.targets(model.encoder, clips), [], [], []
        for kind, masks in enumerate(sets):
            predicted, target, context = self.predict(model.encoder, clips, masks, whole, kind=kind)
            errors.append(self._distance(predicted, target))
            made.append(predicted)
            seen.append(context)
        terms = {"prediction": torch.stack(errors).mean()}
        total = terms["prediction"]
        if self.config.spread:
            stds = torch.stack([(p.var(1) + 1e-4).sqrt() for p in made]).mean(0)
            terms["spread"] = F.relu(1 - stds).mean()
            total = total + self.config.spread * terms["spread"]
        terms |= health(seen[0])
        return Loss(total, {name: value.detach() for name, value in terms.items()})

    def predict(
        self, encoder: JEPAViT, clips: Tensor, masks: Masks, whole: Tensor, *, kind: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions and targets ``[M * E * B, J, D]``, and the context ``[E * B, K, D]``.

        Rows are ordered by target block, then context, then picture.
        """
        contexts, blocks = len(masks.context), len(masks.targets)
        keep = masks.context.flatten(0, 1)  # [(E B), K]
        shown = clips if contexts == 1 else clips.repeat(contexts, 1, 1, 1, 1)
        context = encoder.tokens(shown, keep)
        hidden = torch.cat([block.repeat(contexts, 1) for block in masks.targets])  # [(M E B), J]
        token = 0 if self.config.one_mask_token else kind
        predicted = self.predictor(context.repeat(blocks, 1, 1), keep.repeat(blocks, 1), hidden, kind=token)
        target = torch.cat([take(whole, block).repeat(contexts, 1, 1) for block in masks.targets])
        return predicted, target, context

    def _distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        if self.config.distance == "smooth-l1":
            return F.smooth_l1_loss(predicted, target)
        power = self.config.exponent
        return (predicted - target).abs().pow(power).mean() / power
