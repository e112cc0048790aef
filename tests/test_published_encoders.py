"""Frozen encoders of papers by name: tiny models of random weights, made here; no network."""

import re
from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch import nn

import worldkit as wk
from worldkit import compat, registry
from worldkit.assembly import build
from worldkit.config import ObsSpec
from worldkit.distributions import MEANS
from worldkit.errors import CheckpointError, ConfigError
from worldkit.nn.vqgan import DownStack, StackConfig
from worldkit.testing import check_encoder, check_model
from worldkit.testing.examples import small_config

from .test_pretrained import FAMILIES

OBS = ObsSpec(height=32, width=32)
KIND = {"vae": "autoencoder", "rae": "dinov2_with_registers", "scale-rae-siglip": "siglip",
        "scale-rae-webssl": "dinov2"}


def qwen(folder):
    tf = compat.import_transformers("vision", "the test")
    from safetensors.torch import save_file

    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4,
              "out_hidden_size": 12, "window_size": 16, "fullatt_block_indexes": [1]}
    net = tf.Qwen2_5_VisionTransformerPretrainedModel._from_config(tf.Qwen2_5_VLVisionConfig(**vision))
    with torch.no_grad():
        net.merger.ln_q.weight.uniform_(0.5, 1.5)
    folder.mkdir()
    save_file({f"visual.{key}": value for key, value in net.state_dict().items()} | {"lm_head": torch.ones(1)},
              folder / "model.safetensors")
    tf.Qwen2_5_VLConfig(vision_config=vision).save_pretrained(folder)
    return net.eval()


def cosmos(folder):
    folder.mkdir()
    net = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Tanh(), nn.Conv2d(8, 5, 2, stride=2)).eval()
    torch.jit.script(net).save(folder / "encoder.jit")
    return net


def vavae(path):
    """A file of latent diffusion's names, and the network whose weights it holds."""
    config = StackConfig(name="x", channels=8, multipliers=(1, 2), num_blocks=1, attention=(16,), map_channels=6,
                         groups=8)
    net = nn.Sequential(DownStack(config, 3, 32), nn.Conv2d(6, 6, 1)).eval()
    state = {}
    for key, value in net.state_dict().items():
        key = key.replace("1.", "quant_conv.", 1) if key.startswith("1.") else key
        for ours, theirs in (
            (r"^0\.levels\.(\d+)\.blocks\.(\d+)\.", r"encoder.down.\1.block.\2."), ("shortcut", "nin_shortcut"),
            (r"^0\.levels\.(\d+)\.attentions\.(\d+)\.", r"encoder.down.\1.attn.\2."),
            (r"^0\.levels\.(\d+)\.conv\.", r"encoder.down.\1.downsample.conv."), (r"\.proj\.", ".proj_out."),
            (r"^0\.middle\.block(\d)\.", r"encoder.mid.block_\1."), (r"^0\.middle\.attention\.", "encoder.mid.attn_1."),
            (r"^0\.out\.(norm|conv)\.", r"encoder.\1_out."), (r"^0\.", "encoder."),
        ):
            key = re.sub(ours, theirs, key)
        if ".qkv." in key:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                state[key.replace("qkv", part)] = third[..., None, None] if third.ndim == 2 else third
        else:
            state[key] = value[..., None, None] if "proj_out.weight" in key else value
    torch.save({"state_dict": state | {"decoder.x": torch.zeros(1)}}, path)
    return net


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name -> (what ``encoder.model`` is, the network behind it)."""
    pytest.importorskip("transformers")
    root, kept = tmp_path_factory.mktemp("published"), {}

    def make(name):
        if name not in kept:
            torch.manual_seed(0)
            place = root / name
            if name in KIND:
                tf = compat.import_transformers("vision", "the test")
                net = FAMILIES[KIND[name]](tf).eval()
                net.save_pretrained(place / "vae" if name == "vae" else place)
            elif name == "vavae":
                place = root / "vavae.pt"
                net = vavae(place)
            else:
                net = {"qwen": qwen, "cosmos": cosmos}[name](place)
            kept[name] = str(place), net
        return kept[name]

    return make


NAMES = (*KIND, "qwen", "cosmos", "vavae")


def encoder(name, model, obs=OBS, **options):
    cls = registry.encoders.get(name)
    return cls(cls.Config(model=model, **{"input_size": 32, **options}), obs=obs)


def test_they_are_registered():
    assert set(NAMES) <= set(wk.list_encoders())
    assert all(registry.encoders.get(name).Config().normalize is False for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_conformance(name, made):
    check_encoder(name, model=made(name)[0], input_size=32)


def test_features_are_those_of_the_networks(made):
    video = torch.rand(1, 2, 3, 32, 32)
    half = 2 * video[0] - 1
    found = {name: encoder(name, made(name)[0])(video, sampler=MEANS).latent.features[0] for name in NAMES}
    with torch.no_grad():
        net = made("vae")[1]
        expected = {"vae": net.encode(half).latent_dist.mean * net.config.scaling_factor,
                    "cosmos": made("cosmos")[1](half), "vavae": made("vavae")[1](half)[:, :3]}
        for name, maps in expected.items():
            torch.testing.assert_close(found[name], maps.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
        siglip = made("scale-rae-siglip")[1].vision_model
        before = siglip.encoder(siglip.embeddings(half)).last_hidden_state
        torch.testing.assert_close(found["scale-rae-siglip"], before, atol=1e-5, rtol=1e-5)
        qwen = made("qwen")[1]  # by hand: patches in the processor's order, every frame twice
        model = encoder("qwen", made("qwen")[0])
        x = (video[0] - model.mean) / model.std
        patches = rearrange(x[:, None].expand(-1, 2, -1, -1, -1),
                            "m t c (h a p) (w b q) -> m (h w a b) (c t p q)", a=2, b=2, p=4, q=4)
        for frame, rows in enumerate(patches):
            pooled = qwen(rows, grid_thw=torch.tensor([[1, 8, 8]]))
            pooled = getattr(pooled, "pooler_output", pooled)
            ours = rearrange(found["qwen"][frame], "(h a w b) d -> (h w) (a b d)", h=4, a=2, w=4, b=2)
            torch.testing.assert_close(qwen.merger.mlp(ours), pooled, atol=1e-5, rtol=1e-5)


def test_models_of_them(made):
    picture = {"name": "qwen", "model": made("qwen")[0], "input_size": 32}
    check_model(small_config(encoder={"name": "adapted", "picture": picture, "adapter": {
        "dim": 4, "num_heads": 2, "num_layers": 1, "hidden": 8}}, decoder="semantic", dynamics="causal-dit",
        latent_action=None, objective="denoising"))


def test_options_of_an_encoder_inside_are_named_as_they_are_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"encoder\.picture\.model: .*-o encoder\.picture\.model="):
        build(small_config(encoder={"name": "adapted", "picture": {"name": "rae", "model": "/no/where"}},
                           decoder="semantic", latent_action=None))
    with pytest.raises(CheckpointError, match=r"no encoder\.jit\. .*: -o encoder\.picture\.model="):
        build(small_config(encoder={"name": "adapted", "picture": {"name": "cosmos", "model": str(tmp_path)}},
                           decoder="semantic", latent_action=None))


def test_views(made):
    two = encoder("cosmos", made("cosmos")[0], ObsSpec(height=32, width=32, views=2))
    assert two(torch.rand(1, 2, 3, 3, 32, 32), sampler=MEANS).latent.features.shape == (1, 3, 32, 5)


@pytest.mark.parametrize("name, given, said", [
    ("rae", "scale-rae-webssl", "encoder 'rae' takes a model of type dinov2_with_registers, and .* of type 'dinov2': "
                                "take encoder.name=scale-rae-webssl"),
    ("scale-rae-siglip", "rae", "take encoder.name=rae, or give another folder"),
    ("vae", "qwen", "take encoder.name=qwen"),
    ("qwen", "rae", "encoder 'qwen' takes a model of type qwen2_5_vl"),
    ("cosmos", "rae", "has no encoder.jit. Give a folder that holds encoder.jit: -o encoder.model=/path/to/cosmos"),
])
def test_weights_of_another_encoder(name, given, said, made):
    with pytest.raises(CheckpointError, match=said):
        encoder(name, made(given)[0])


def test_what_is_missing_is_said(made, tmp_path, monkeypatch):
    import huggingface_hub

    def offline(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot connect")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    for name in NAMES:
        with pytest.raises(CheckpointError, match=r"cannot get '.*' from the hub(.|\n)*Offline\? Give a folder that"):
            build(small_config(encoder={"name": name}, latent_action=None))
    (tmp_path / "qwen").mkdir()
    (tmp_path / "qwen" / "config.json").write_text(Path(made("qwen")[0], "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"has no weights called visual.\* or model.visual.\* in safetensors, of"):
        encoder("qwen", str(tmp_path / "qwen"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="holds no autoencoder of latent diffusion's names.*but a"):
        encoder("vavae", str(tmp_path / "other.pt"))
    state = torch.load(made("vavae")[0], weights_only=True)["state_dict"]
    state.pop("encoder.conv_in.bias")
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(CheckpointError, match="less.pt does not fit: lacks 0.conv_in.bias"):
        encoder("vavae", str(tmp_path / "less.pt"))
    (tmp_path / "jit").mkdir()
    (tmp_path / "jit" / "encoder.jit").write_bytes(b"no program")
    with pytest.raises(CheckpointError, match="encoder.jit cannot be run on pictures of 32 x 32"):
        encoder("cosmos", str(tmp_path / "jit"))
    with pytest.raises(ConfigError, match="36 x 36 pixels are no multiple of 8; give encoder.input_size"):
        encoder("qwen", made("qwen")[0], input_size=36)


