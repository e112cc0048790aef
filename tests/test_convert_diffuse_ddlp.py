"""Official DiffuseDDLP checkpoints, made here from a prior of ours: what is taken, and what is refused."""

import pytest
import torch

from worldkit.assembly import build
from worldkit.cli import main
from worldkit.config import WorldModelConfig
from worldkit.convert import from_diffuse_ddlp
from worldkit.convert.diffuse_ddlp import schedule_buffers
from worldkit.errors import CheckpointError, IncompatibleComponentsError
from worldkit.nn.diffusion import CosineSteps
from worldkit.testing.examples import example_batch, small_config

INSIDE = {"norm1": "ln1", "norm2": "ln2", "attention.proj": "attn.proj", "feed_forward.0": "mlp.fc_1",
          "feed_forward.2": "mlp.proj", "bias.time": "attn.rel_pos_bias.rel_pos_bias",
          "bias.token": "attn.rel_pos_bias.particle_rel_pos_bias"}
OUTSIDE = {"step.project.0": "time_mlp.1", "step.project.2": "time_mlp.3", "embed": "particle_projection",
           "head": "particle_decoder", "transformer.norm": "particle_transformer.ln_f",
           "transformer.head": "particle_transformer.head"}
STEPS = 12


def official(network):
    """The state dict of the official diffusion around a denoiser with our weights."""
    found = {}
    for name, value in network.state_dict().items():
        if name.startswith("transformer.blocks."):
            _, _, number, rest = name.split(".", 3)
            stem = f"model.particle_transformer.blocks.{number}."
            if rest == "attention.qkv.weight":
                for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    found[f"{stem}attn.{part}.weight"] = rows
                continue
            ours = next(part for part in INSIDE if rest.startswith(part))
            found[stem + INSIDE[ours] + rest.removeprefix(ours)] = value
        else:
            ours = next(part for part in OUTSIDE if name.startswith(f"{part}."))
            found[f"model.{OUTSIDE[ours]}{name.removeprefix(ours)}"] = value
    for number in range(2):
        found[f"model.particle_transformer.blocks.{number}.attn.mask"] = torch.ones(1, 1, 1, 4, 1, 4).tril()
    return {name: value.float() for name, value in schedule_buffers(CosineSteps(STEPS)).items()} | found


@pytest.fixture(scope="module")
def ddlp():
    torch.manual_seed(0)
    return build(small_config(encoder="particle-tracking", latent_action=None, dynamics="pint-joint")).eval()


@pytest.fixture(scope="module")
def files(ddlp, tmp_path_factory):
    """A checkpoint, its statistics, and the prior with the weights in its moving average."""
    torch.manual_seed(1)
    options = {"name": "diffusion", "frames": 4, "dim": 16, "num_layers": 2, "num_heads": 2, "steps": STEPS}
    prior = build(WorldModelConfig.parse(ddlp.config.to_dict() | {
        "prior": options, "objective": {"name": "first-frames"}})).prior
    state, folder = official(prior.network), tmp_path_factory.mktemp("official")
    ema = {f"ema_model.{key}": value for key, value in state.items()}
    ema |= {f"online_model.{key}": value + 1 for key, value in state.items()}
    ema |= {"initted": torch.ones(1), "step": torch.tensor([5])}
    whole = {"step": 5, "model": {key: value + 1 for key, value in state.items()}, "opt": {"state": {}}, "ema": ema,
             "scaler": None}
    width = int(prior.layout.fields[0].sum())
    stats = {f"{name}{end}": torch.linspace(0.5, 1, count) + shift
             for end, count in (("", width), ("_bg", int(prior.layout.fields[1].sum())))
             for name, shift in (("mu", 0.0), ("std", 0.1), ("min_val", -3.0), ("max_val", 3.0))}
    torch.save(whole, folder / "model.pth")
    torch.save(stats, folder / "latent_stats.pth")
    return folder, prior, stats


def changed(files, tmp_path, change, name="model.pth"):
    """The files with a change made to one of them."""
    folder = files[0]
    stored = torch.load(folder / name, weights_only=True)
    stored = change(stored) or stored
    torch.save(stored, tmp_path / name)
    other = "latent_stats.pth" if name == "model.pth" else "model.pth"
    (tmp_path / other).write_bytes((folder / other).read_bytes())
    return tmp_path / "model.pth", tmp_path / "latent_stats.pth"


def test_weights_of_the_moving_average_and_statistics(ddlp, files, tmp_path):
    folder, prior, stats = files
    model = from_diffuse_ddlp(folder / "model.pth", folder / "latent_stats.pth", ddlp)
    for name, value in prior.network.state_dict().items():
        assert torch.equal(model.prior.network.state_dict()[name], value), name
    for name, value in ddlp.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    config = model.config.prior
    assert (config.frames, config.dim, config.num_layers, config.num_heads, config.steps) == (4, 16, 2, 2, STEPS)
    assert config.causal and config.noisy_padding and config.sampling_dropout and config.target == "x0"
    z = model.sample(2, horizon=3, generator=torch.Generator().manual_seed(0)).context_latents
    scaled = model.prior.scale(model.prior.layout.pack(z))
    assert scaled.min() >= -1.001 and scaled.max() <= 1.001
    low, high = stats["min_val"], stats["max_val"]
    torch.testing.assert_close(scaled[0, 0, 0, :2], 2 * (z.position[0, 0, 0] - low[:2]) / (high - low + 1e-5)[:2] - 1)
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    assert torch.equal(again.prior.scale.low, model.prior.scale.low) and again.prior.scale.settled
    assert model.loss(example_batch(model.config)).total.isfinite()


def test_standard_normalisation(ddlp, files):
    folder, prior, stats = files
    model = from_diffuse_ddlp(folder / "model.pth", folder / "latent_stats.pth", ddlp, normalize="standard")
    scale = model.prior.scale
    x = torch.zeros(1, 4, *model.prior.used.shape)
    torch.testing.assert_close(scale(x)[0, 0, 0], -stats["mu"] / (stats["std"] + 1e-5))
    assert model.config.prior.clamp == 1


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.update(best=1), "keys with no place in a checkpoint of DiffuseDDLP: best"),
    (lambda s: s["ema"].update(extra=torch.ones(1)), "no place in a checkpoint of DiffuseDDLP: extra"),
    (lambda s: s["model"].update({"model.extra.weight": torch.ones(1)}), "no place.*model.extra.weight"),
    (lambda s: s["model"], "has the entries step, model, opt, ema and scaler; this one has betas"),
    (lambda s: {"fg_module.x": torch.ones(1)}, "worldkit convert ddlp, or worldkit convert lpwm"),
    (lambda s: both(s, "model.new.weight", torch.ones(2)), "keys with no place in this model:\n    new.weight"),
    (lambda s: both(s, "model.particle_decoder.2.bias", torch.ones(3)), "2.bias is .3., but head.2.bias"),
    (lambda s: both(s, "model.time_mlp.1.bias", None), "does not fill:\n    step.project.0.bias"),
    (lambda s: both(s, "betas", torch.linspace(0, 0.1, STEPS)), "'betas' is not that of the cosine schedule"),
    (lambda s: both(s, "gammas", torch.ones(STEPS)), "no place in DiffuseDDLP's diffusion: gammas"),
    (lambda s: both(s, "model.particle_projection.0.bias", None), "weights lack .*is this a checkpoint of DiffuseDDLP"),
])
def test_checkpoints_that_are_refused(ddlp, files, tmp_path, change, message):
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        from_diffuse_ddlp(*changed(files, tmp_path, change), ddlp)


def both(stored, key, value):
    """The checkpoint with another value, or none, in its model and its moving average."""
    for table, prefix in ((stored["model"], ""), (stored["ema"], "ema_model.")):
        if value is None:
            del table[prefix + key]
        else:
            table[prefix + key] = value
    return stored


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("mu_bg"), "latent statistics must be max_val, "),
    (lambda s: s.update(mu=torch.ones(2)), r"mu is \[2\], but must be \[9\]"),
])
def test_statistics_that_are_refused(ddlp, files, tmp_path, change, message):
    def keep(stored):
        change(stored)

    with pytest.raises(CheckpointError, match=message):
        from_diffuse_ddlp(*changed(files, tmp_path, keep, "latent_stats.pth"), ddlp)


def test_models_that_are_refused(files):
    folder = files[0]
    slots = build(small_config(encoder="slot", latent_action=None))
    with pytest.raises(IncompatibleComponentsError, match="begins the videos of a DDLP"):
        from_diffuse_ddlp(folder / "model.pth", folder / "latent_stats.pth", slots)


def test_command(ddlp, files, tmp_path, capsys):
    folder, out = files[0], tmp_path / "out"
    ddlp.save_pretrained(tmp_path / "ddlp")
    words = ["convert", "diffuse-ddlp", str(folder / "model.pth"), "--out", str(out)]
    assert main([*words, "--stats", str(folder / "latent_stats.pth"), "--ddlp", str(tmp_path / "ddlp")]) == 0
    assert "every key used" in capsys.readouterr().out and (out / "model.safetensors").exists()
    assert main([*words, "--ddlp", str(tmp_path / "ddlp")]) == 2
    assert "worldkit convert diffuse-ddlp needs --stats" in capsys.readouterr().err
    assert main([*words, "--stats", "a", "--ddlp", "b", "--hparams", "c"]) == 2
    assert "takes no --hparams" in capsys.readouterr().err
    assert main(["convert", "lpwm", "a.pth", "--out", str(tmp_path / "x")]) == 2
    assert "worldkit convert lpwm needs --hparams" in capsys.readouterr().err
