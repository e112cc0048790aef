"""Frozen pretrained encoders: tiny random models of every family, made here; no network."""

import json
import shutil
import sys

import pytest
import torch

import worldkit as wk
from worldkit import compat
from worldkit.assembly import build
from worldkit.config import ObsSpec
from worldkit.distributions import MEANS
from worldkit.encoders.pretrained import PretrainedEncoder, PretrainedEncoderConfig
from worldkit.errors import CheckpointError, ConfigError, MissingExtraError
from worldkit.testing import check_encoder, check_model
from worldkit.testing.examples import small_config

OBS, TWO_VIEWS = ObsSpec(height=32, width=32), ObsSpec(height=32, width=32, views=2)
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE = {**SIZES, "image_size": 32, "patch_size": 8}
TEXT = {**SIZES, "vocab_size": 10, "max_position_embeddings": 4, "bos_token_id": None, "eos_token_id": None}


def dinov2(tf):
    return tf.Dinov2Model(tf.Dinov2Config(**IMAGE))


def dinov2_with_registers(tf):
    return tf.Dinov2WithRegistersModel(tf.Dinov2WithRegistersConfig(**IMAGE, num_register_tokens=4))


def dinov3(tf):
    return tf.DINOv3ViTModel(tf.DINOv3ViTConfig(**IMAGE, num_register_tokens=4))


def siglip(tf):
    """What a SigLIP 2 of fixed resolution is stored as, text tower and all."""
    return tf.SiglipModel(tf.SiglipConfig(text_config=TEXT, vision_config=IMAGE))


def siglip2_naflex(tf):
    vision = {**SIZES, "num_patches": 16, "patch_size": 8}
    return tf.Siglip2Model(tf.Siglip2Config(text_config=TEXT, vision_config=vision))


def vjepa2(tf):
    return tf.VJEPA2Model(tf.VJEPA2Config(
        hidden_size=24, num_attention_heads=2, num_hidden_layers=2, crop_size=64, patch_size=8, frames_per_clip=4,
        pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1, pred_num_mask_tokens=2))


def autoencoder(tf):
    diffusers = pytest.importorskip("diffusers")
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, norm_num_groups=4, sample_size=32)


FAMILIES = {f.__name__: f for f in (dinov2, dinov2_with_registers, dinov3, siglip, siglip2_naflex, vjepa2, autoencoder)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Family -> a folder with a model of a few thousand random weights; made once."""
    pytest.importorskip("transformers")
    tf, root = compat.import_transformers("vision", "the test"), tmp_path_factory.mktemp("models")

    def make(family):
        if not (root / family).exists():
            torch.manual_seed(0)
            FAMILIES[family](tf).eval().save_pretrained(root / family)
        return str(root / family)

    return make


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the DINOv2 folder that a test may spoil."""
    return shutil.copytree(folder("dinov2"), tmp_path / "dinov2")


def encoder(model, obs=OBS, **options):
    return PretrainedEncoder(PretrainedEncoderConfig(model=str(model), **options), obs=obs)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, folder):
    check_encoder("pretrained", model=folder(family))
    spec = encoder(folder(family)).spec
    assert (spec.grid, spec.packed_dim) == (((8, 8), 4) if family == "autoencoder" else ((4, 4), 24))
    assert "normal" not in spec.properties and {"grid", "tracked"} <= spec.properties


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_the_library(family, folder):
    """The same numbers as the library's own class gives, tokens in the right order."""
    model, video = encoder(folder(family), normalize=False), torch.rand(1, 2, 3, 32, 32)
    tf = compat.import_transformers("vision", "the test")
    half = family in ("siglip", "siglip2_naflex", "autoencoder")
    mean, std = ((0.5,) * 3,) * 2 if half else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    x = (video[0] - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        if family == "autoencoder":
            net = sys.modules["diffusers"].AutoencoderKL.from_pretrained(folder(family)).eval()
            expected = (net.encode(x).latent_dist.mean * net.config.scaling_factor).flatten(2).transpose(1, 2)
        elif family == "vjepa2":
            net = tf.VJEPA2Model.from_pretrained(folder(family), crop_size=32).eval()
            expected = net.get_vision_features(x[:, None].expand(-1, 2, -1, -1, -1))
        elif family == "siglip2_naflex":
            net = tf.Siglip2VisionModel.from_pretrained(folder(family)).eval()
            patches = x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).reshape(2, 16, -1)
            expected = net(patches, torch.ones(2, 16), torch.tensor([[4, 4]] * 2)).last_hidden_state
        elif family == "siglip":
            expected = tf.SiglipVisionModel.from_pretrained(folder(family)).eval()(x).last_hidden_state
        else:
            expected = tf.AutoModel.from_pretrained(folder(family)).eval()(x).last_hidden_state[:, -16:]
    assert torch.allclose(model(video, sampler=MEANS).latent.features[0], expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_sizes(family, folder):
    """Frames of another size than the model's, and frames that are resized first."""
    small, large = ObsSpec(height=16, width=16), ObsSpec(height=24, width=40)
    assert encoder(folder(family), small).spec.grid == ((4, 4) if family == "autoencoder" else (2, 2))
    model = encoder(folder(family), large, input_size=32)
    z = model(torch.rand(1, 1, 3, 24, 40), sampler=MEANS).latent
    assert z.features.shape[2] == model.spec.group("patches").size == (64 if family == "autoencoder" else 16)
    assert torch.isfinite(z.features).all()


def test_views(folder):
    check_encoder("pretrained", model=folder("dinov2"), obs=TWO_VIEWS)
    model, video = encoder(folder("dinov2"), TWO_VIEWS), torch.rand(1, 2, 1, 3, 32, 32)
    single = encoder(folder("dinov2"))(video[:, 1], sampler=MEANS).latent.features
    assert torch.allclose(model(video, sampler=MEANS).latent.features[:, :, 16:], single, atol=1e-5)


@pytest.mark.parametrize("overrides", [{}, {"latent_action": None}, {"obs.views": 2}])
def test_model(overrides, folder):
    check_model(small_config(encoder={"name": "pretrained", "model": folder("dinov2")}, **overrides))


def test_autoencoder_model(folder):
    check_model(small_config(encoder={"name": "pretrained", "model": folder("autoencoder")}, latent_action=None))


def test_frozen(folder):
    model = build(small_config(encoder={"name": "pretrained", "model": folder("dinov2")}))
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    model.train()
    assert model.decoder.training and not any(m.training for m in model.encoder.backbone.modules())
    assert not any(p.requires_grad for p in model.encoder.parameters())
    optimizer = torch.optim.Adam(model.parameters(), 0.1, weight_decay=0.1)
    model.loss(wk.Batch(torch.rand(2, 5, 3, 32, 32))).total.backward()
    optimizer.step()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert any(p.grad is not None for p in model.decoder.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())


def test_normalisation(folder):
    video = torch.rand(1, 2, 3, 32, 32)
    z = encoder(folder("dinov2"))(video, sampler=MEANS).latent.features
    assert z.mean(-1).abs().max() < 1e-5 and (z.std(-1, correction=0) - 1).abs().max() < 1e-3
    plain = encoder(folder("autoencoder"))(video, sampler=MEANS).latent.features  # scaled already
    assert torch.equal(plain, encoder(folder("autoencoder"), normalize=False)(video, sampler=MEANS).latent.features)


def test_colours_are_normalised_as_the_folder_says(copy):
    assert encoder(copy).mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    (copy / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3}))
    model = encoder(copy)
    assert model.mean.flatten().tolist() == pytest.approx([0.1] * 3)
    assert model.std.flatten().tolist() == pytest.approx([0.2] * 3)


def test_a_saved_model_keeps_the_weights_it_was_trained_with(copy, folder, tmp_path):
    """Even if the folder has other weights by now; only its architecture is read."""
    model = build(small_config(encoder={"name": "pretrained", "model": str(copy)})).eval()
    model.save_pretrained(tmp_path / "saved")
    tf = compat.import_transformers("vision", "the test")
    tf.Dinov2Model(tf.Dinov2Config(**IMAGE)).save_pretrained(copy)
    (copy / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3}))
    video = torch.rand(1, 2, 3, 32, 32)
    same = wk.WorldModel.from_pretrained(tmp_path / "saved").encode(video).features
    assert torch.equal(same, model.encode(video).features)
    shutil.rmtree(copy)
    with pytest.raises(CheckpointError, match=r"there is no folder '.*dinov2'.*-o encoder.model=/path/to/dinov2-small"):
        wk.WorldModel.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("model", ["/no/such/folder", "./dinov2", "dinov2-small", "a/b/c"])
def test_a_folder_that_is_missing(model):
    with pytest.raises(CheckpointError, match="no folder '.*Give a folder that holds config.json and model"):
        encoder(model)


def test_a_hub_id_that_cannot_be_reached(monkeypatch, tmp_path):
    import huggingface_hub

    def offline(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot connect")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"cannot get 'facebook/dinov2-small' from the hub \(LocalEntryNotFound"
                                              r"(.|\n)*Offline\? .*-o encoder.model=/path/to/dinov2-small"):
        encoder("facebook/dinov2-small")


def test_a_hub_id_is_downloaded_with_its_revision(monkeypatch, folder):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download",
                        lambda name, **options: asked.append((name, options["revision"])) or folder("dinov2"))
    encoder("facebook/dinov2-small")
    encoder("facebook/dinov2-small@abc")
    assert asked == [("facebook/dinov2-small", None), ("facebook/dinov2-small", "abc")]


def test_refused_files(copy, folder):
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be loaded as Dinov2Model from safetensors"):
        encoder(copy)
    weights.unlink()
    torch.save({}, copy / "pytorch_model.bin")  # a pickle is never read
    with pytest.raises(CheckpointError, match="cannot be loaded as Dinov2Model from safetensors"):
        encoder(copy)
    shutil.copy(folder("vjepa2") + "/model.safetensors", weights)
    with pytest.raises(CheckpointError, match="lack [0-9]+ weights of Dinov2Model"):
        encoder(copy)
    (copy / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="holds a model of type 'bert'; types that can be used: dinov2, "):
        encoder(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot read .*config.json"):
        encoder(copy)
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match="has no config.json"):
        encoder(copy)


@pytest.mark.parametrize("obs, options, message", [
    (ObsSpec(height=32, width=32, channels=1), {}, "needs images of 3 channels, got obs.channels 1"),
    (ObsSpec(height=28, width=28), {}, "patches of 8 pixels, which do not divide 28 x 28; .*for example 32"),
    (OBS, {"input_size": 30}, "do not divide 30 x 30; give encoder.input_size, for example 32"),
])
def test_refused_sizes(obs, options, message, folder):
    with pytest.raises(ConfigError, match=message):
        encoder(folder("dinov2"), obs, **options)


def test_vjepa2_refuses_oblong_images(folder):
    with pytest.raises(ConfigError, match="V-JEPA 2 takes square images, got 32 x 16"):
        encoder(folder("vjepa2"), ObsSpec(height=32, width=16))


@pytest.mark.parametrize("family, module", [("dinov2", "transformers"), ("autoencoder", "diffusers")])
def test_without_the_extra(family, module, folder, monkeypatch):
    path = folder(family)
    for name in [n for n in sys.modules if n.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)

    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == module:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(sys, "meta_path", [Blocked(), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=rf"{module}, which is not installed\. .* -e \"\.\[vision\]\""):
        encoder(path)


def test_the_model_must_be_named():
    with pytest.raises(ConfigError, match="encoder.model: it must be said; on the command line -o encoder.model="):
        wk.create_config("lpwm-balls-mini", encoder="pretrained")
