"""Dynamics: latents so far -> distribution of the next. Importing this package registers the built-in ones.

A module loads when its component is used. Your own may register with a decorator,
``@register_dynamics(NAME)``.
"""

from ..lazy import lazy_exports
from ..registry import register_dynamics

register_dynamics("adaln-causal", "worldkit.dynamics.adaln_causal:AdaLNCausal", aliases=("lewm",))
register_dynamics("causal-dit", "worldkit.dynamics.causal_dit:CausalDiffusion", aliases=("semantic-wm",))
register_dynamics("causal-patches", "worldkit.dynamics.causal_patches:CausalPatches", aliases=("dino-wm",))
register_dynamics("diffusion", "worldkit.dynamics.diffusion:Diffusion", aliases=("flow",))
register_dynamics("factored", "worldkit.dynamics.factored:Factored")
register_dynamics("flam", "worldkit.dynamics.flam:FLAM")
register_dynamics("gru", "worldkit.dynamics.gru:GRU", aliases=("recurrent",))
register_dynamics("latent-mlp", "worldkit.dynamics.latent_mlp:LatentMLP", aliases=("tdmpc2",))
register_dynamics("maskgit", "worldkit.dynamics.maskgit:MaskGIT", aliases=("genie", "masked-tokens"))
register_dynamics("mdn-rnn", "worldkit.dynamics.mdn_rnn:MDNRNN")
register_dynamics("pint", "worldkit.dynamics.pint:PINT", aliases=("particle-transformer",))
register_dynamics("pint-joint", "worldkit.dynamics.pint_joint:PINTJoint", aliases=("ddlp-pint",))
register_dynamics("rssm", "worldkit.dynamics.rssm:RSSM")
register_dynamics("slotformer", "worldkit.dynamics.slotformer:SlotFormer", aliases=("joint-transformer",))
register_dynamics("state-gru", "worldkit.dynamics.state_gru:StateGRU", aliases=("pldm",))
register_dynamics("token-transformer", "worldkit.dynamics.token_transformer:TokenTransformer", aliases=("iris",))
register_dynamics("unet-diffusion", "worldkit.dynamics.unet_diffusion:UNetDiffusion", aliases=("diamond",))
register_dynamics("vjepa2-ac", "worldkit.dynamics.vjepa2_ac:VJEPA2AC")

_BASE = ("Dynamics", "Window")
_FILTERING = ("Filtered", "FilteringDynamics")
__getattr__ = lazy_exports(__name__, {"base": _BASE, "filtering": _FILTERING})
__all__ = [*_BASE, *_FILTERING]
