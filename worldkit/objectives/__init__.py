"""Objectives: what training minimises. Importing this package registers the built-in ones.

A module loads when its component is used. Your own may register with a decorator,
``@register_objective(NAME)``.
"""

from ..lazy import lazy_exports
from ..registry import register_objective

register_objective("adapter", "worldkit.objectives.adapter:AdapterObjective", aliases=("svae",))
register_objective("ddlp", "worldkit.objectives.ddlp:DDLP", aliases=("dlpv2",))
register_objective("decode-only", "worldkit.objectives.decode_only:DecodeOnly")
register_objective("denoising", "worldkit.objectives.denoising:Denoising", aliases=("diamond",))
register_objective("dreamer", "worldkit.objectives.dreamer:Dreamer")
register_objective("elbo", "worldkit.objectives.elbo:ELBO")
register_objective("first-frames", "worldkit.objectives.first_frames:FirstFrames")
register_objective("frozen-jepa", "worldkit.objectives.jepa:FrozenJEPA", aliases=("vjepa2-ac",))
register_objective("heads", "worldkit.objectives.heads:Heads")
register_objective("inverse-forward", "worldkit.objectives.inverse_forward:InverseForward",
                   aliases=("flam", "adaworld"))
register_objective("iris", "worldkit.objectives.iris:IRIS")
register_objective("jepa", "worldkit.objectives.jepa:JEPA", aliases=("lewm", "pldm"))
register_objective("latent-action", "worldkit.objectives.latent_action:LatentActionObjective")
register_objective("masked-jepa", "worldkit.objectives.masked_jepa:MaskedJEPA", aliases=("ijepa", "vjepa"))
register_objective("one-step", "worldkit.objectives.one_step:OneStep")
register_objective("planet", "worldkit.objectives.planet:PlaNet")
register_objective("reconstruction", "worldkit.objectives.reconstruction:Reconstruction")
register_objective("tdmpc2", "worldkit.objectives.tdmpc2:TDMPC2")
register_objective("two-stage", "worldkit.objectives.two_stage:TwoStage")
register_objective("vq", "worldkit.objectives.vq:VQ", aliases=("tokenizer",))
register_objective("world-models", "worldkit.objectives.world_models:WorldModels")

_BASE = ("Loss", "Objective")
__getattr__ = lazy_exports(__name__, {"base": _BASE})
__all__ = [*_BASE]
