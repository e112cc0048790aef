"""Encoders: video -> described latent. Importing this package registers the built-in ones.

A module loads when its component is used. Your own may register with a decorator,
``@register_encoder(NAME)``.
"""

from ..lazy import lazy_exports
from ..registry import register_encoder

register_encoder("adapted", "worldkit.encoders.adapted:AdaptedEncoder")
register_encoder("conv", "worldkit.encoders.conv:ConvEncoder")
register_encoder("conv-vae", "worldkit.encoders.conv_vae:ConvVAE")
register_encoder("fsq", "worldkit.encoders.fsq:FSQEncoder")
register_encoder("identity", "worldkit.encoders.identity:IdentityEncoder", aliases=("pixels",))
register_encoder("impala", "worldkit.encoders.impala:Impala", aliases=("pldm-wall",))
register_encoder("jepa-vit", "worldkit.encoders.jepa_vit:JEPAViT", aliases=("ijepa", "vjepa", "vjepa2"))
register_encoder("menet", "worldkit.encoders.menet:MeNet", aliases=("pldm-maze",))
register_encoder("mlp", "worldkit.encoders.mlp:MLPEncoder")
register_encoder("multi", "worldkit.encoders.multi:MultiEncoder")
register_encoder("particle", "worldkit.encoders.particle:ParticleEncoder", aliases=("dlp", "dlpv3"))
register_encoder("particle-tracking", "worldkit.encoders.particle_tracking:ParticleTrackingEncoder",
                 aliases=("dlpv2", "ddlp"))
register_encoder("patch", "worldkit.encoders.patch:PatchEncoder", aliases=("dvae",))
register_encoder("pretrained", "worldkit.encoders.pretrained:PretrainedEncoder", extra="vision")
register_encoder("simnorm", "worldkit.encoders.simnorm:SimNormEncoder", aliases=("tdmpc2",))
register_encoder("simnorm-conv", "worldkit.encoders.simnorm:SimNormConv")
register_encoder("slot", "worldkit.encoders.slot:SlotEncoder", aliases=("savi",))
register_encoder("space-time-vq", "worldkit.encoders.space_time_vq:SpaceTimeVQ", aliases=("st-vivit", "genie"))
register_encoder("vit", "worldkit.encoders.vit:ViTEncoder")
register_encoder("vit-cls", "worldkit.encoders.vit_cls:ViTCLS", aliases=("lewm",))
register_encoder("vq", "worldkit.encoders.vq:VQEncoder", aliases=("vqgan", "iris"))
register_encoder("with-vectors", "worldkit.encoders.with_vectors:WithVectors")

for _name, _class in {"vae": "VAE", "rae": "RAE", "scale-rae-siglip": "SigLIP", "scale-rae-webssl": "WebSSL",
                      "qwen": "Qwen", "cosmos": "Cosmos", "vavae": "VAVAE"}.items():
    register_encoder(_name, f"worldkit.encoders.published:{_class}", extra="vision")

_BASE = ("Encoder", "Encoding")
__getattr__ = lazy_exports(__name__, {"base": _BASE})
__all__ = [*_BASE]
