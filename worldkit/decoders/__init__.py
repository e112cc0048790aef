"""Decoders: latent -> video. Importing this package registers the built-in ones.

A module loads when its component is used. Your own may register with a decorator,
``@register_decoder(NAME)``.
"""

from ..lazy import lazy_exports
from ..registry import register_decoder

register_decoder("conv", "worldkit.decoders.conv:ConvDecoder")
register_decoder("conv-transposed", "worldkit.decoders.conv:TransposedDecoder")
register_decoder("identity", "worldkit.decoders.identity:IdentityDecoder", aliases=("pixels",))
register_decoder("mlp", "worldkit.decoders.mlp:MLPDecoder")
register_decoder("multi", "worldkit.decoders.multi:MultiDecoder")
register_decoder("particle", "worldkit.decoders.particle:ParticleDecoder", aliases=("dlp", "dlpv3"))
register_decoder("particle-tracking", "worldkit.decoders.particle_tracking:ParticleTrackingDecoder",
                 aliases=("dlpv2", "ddlp"))
register_decoder("patch", "worldkit.decoders.patch:PatchDecoder", aliases=("dvae",))
register_decoder("semantic", "worldkit.decoders.semantic:SemanticDecoder", aliases=("semantic-wm",))
register_decoder("slot", "worldkit.decoders.slot:SlotDecoder", aliases=("spatial-broadcast",))
register_decoder("space-time", "worldkit.decoders.space_time:SpaceTimeDecoder", aliases=("st-vivit", "genie"))
register_decoder("upsampling", "worldkit.decoders.upsampling:UpsamplingDecoder", aliases=("dino-wm",))
register_decoder("vq", "worldkit.decoders.vq:VQDecoder", aliases=("vqgan", "iris"))

_BASE = ("Decoded", "Decoder")
__getattr__ = lazy_exports(__name__, {"base": _BASE})
__all__ = [*_BASE]
