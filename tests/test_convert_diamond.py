"""Official agents of DIAMOND: every key has a place, sizes are read off weights, repositories are looked through."""

import pytest
import torch

import worldkit as wk
from worldkit.agents import load_agent
from worldkit.agents.pixel_actor_critic import NetworkConfig, PixelNetwork
from worldkit.agents.pixel_actor_critic.official import our_name
from worldkit.assembly import build
from worldkit.cli import main
from worldkit.convert import from_diamond, from_iris
from worldkit.convert.diamond import denoiser_views, outcomes_views
from worldkit.errors import CheckpointError

LEVELS = {"channels": [8, 16, 16], "depths": [1, 2, 1], "attention": [False, True, False]}
OUTCOMES = {"channels": [8, 16], "depths": [1, 1], "attention": [False, False], "dim": 6, "width": 12}


def small(name, **changes):
    torch.manual_seed(0)
    return build(wk.create_config(name, dynamics={**LEVELS, "dim": 16, **changes.pop("dynamics", {})}, **changes))


def flat(model):
    """The official state dict of one of our models, with an actor-critic where rewards are."""
    dynamics, state = model.dynamics, {}
    parts = {"denoiser": denoiser_views(dynamics.denoiser)}
    if dynamics.upsampler is not None:
        parts["upsampler"] = denoiser_views(dynamics.upsampler)
    if dynamics.outcomes is not None:
        views = outcomes_views(dynamics.outcomes, model.heads)
        rows = [views.pop(name) for name in sorted(views) if "#" in name]
        parts["rew_end_model"] = views | {"head.2.weight": torch.cat(rows)}
        network = PixelNetwork(NetworkConfig(kind="residual", channels=(8, 16), down=(True, True), memory=12),
                               frame_shape=(3, 16, 16), num_actions=5)
        ours = dict(network.named_parameters())
        names = ["encoder.encoder.0.weight", "encoder.encoder.0.bias", "lstm.weight_ih", "lstm.weight_hh",
                 "lstm.bias_ih", "lstm.bias_hh", "critic_linear.weight", "critic_linear.bias", "actor_linear.weight",
                 "actor_linear.bias"]
        for i in (1, 3):
            names += [f"encoder.encoder.{i}.{part}.{key}" for part in ("f.0.norm", "f.2", "skip_projection")
                      for key in ("weight", "bias")]
        parts["actor_critic"] = {name: ours[our_name(name)].detach() for name in names if our_name(name) in ours}
        assert len(parts["actor_critic"]) == len(ours)
    for part, views in parts.items():
        state |= {f"{part}.{name}": x.detach().clone() for name, x in views.items()}
    return state


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A folder laid out as the official repository, of small models with random weights."""
    root = tmp_path_factory.mktemp("diamond")
    for folder in ("atari_100k/models", "atari_100k/config/agent", "csgo/model", "csgo/config/agent"):
        (root / folder).mkdir(parents=True)
    told = {"obs.height": 16, "obs.width": 16, "timestep_horizon": 4}
    atari = small("diamond", dynamics={"outcomes": OUTCOMES, "noise": {"offset": 0.2}},
                  conditioners={"action": {"num_actions": 5}}, **told)
    for game in ("Breakout", "Pong"):
        torch.save(flat(atari), root / f"atari_100k/models/{game}.pt")
    settings = "denoiser:\n  sigma_data: 0.5\n  sigma_offset_noise: 0.2\n"
    (root / "atari_100k/config/agent/default.yaml").write_text(settings)
    csgo = small("diamond-csgo", conditioners={"action": {"dim": 7}}, dynamics={"upsampler": {**LEVELS, "dim": 16}})
    torch.save(flat(csgo), root / "csgo/model/csgo.pt")
    return root, atari.eval(), csgo.eval()


def test_every_key_has_a_place_and_sizes_are_read_off(repository):
    root, atari, _ = repository
    model = from_diamond(root, game="ALE/Breakout-v5")
    assert model.config == atari.config
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), atari.state_dict().values(), strict=True))
    alone = from_diamond(root / "atari_100k/models/Pong.pt")
    assert alone.config.dynamics.noise.offset == 0.3  # as published, where nothing says otherwise


def test_csgo_with_its_upsampler(repository):
    root, _, csgo = repository
    model = from_diamond(root, game="csgo")
    assert model.config == csgo.config and model.config.obs.width == 280
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), csgo.state_dict().values(), strict=True))
    assert from_diamond(root / "csgo/model/csgo.pt", size=(30, 40)).config.obs.height == 30


def test_from_the_hub(repository, monkeypatch):
    root, atari, _ = repository
    import huggingface_hub

    files = [f.relative_to(root).as_posix() for f in root.rglob("*") if f.is_file()]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, repo, revision=None: files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file, revision=None: str(root / file))
    assert from_diamond("hub:eloialonso/diamond", game="breakout").config == atari.config
    with pytest.raises(CheckpointError, match="no checkpoint of 'Brekout'. Did you mean 'Breakout'"):
        from_diamond("hub:eloialonso/diamond@main", game="Brekout")


def test_the_command_writes_agent_and_world(repository, tmp_path, capsys):
    root, atari, _ = repository
    out = str(tmp_path / "agent")
    assert main(["convert", "diamond", str(root), "--game", "Breakout", "--env", "ALE/Breakout-v5", "--out", out]) == 0
    assert "every key used" in capsys.readouterr().out
    agent = load_agent(out)
    assert agent.model.config == atari.config and agent.environment == "ALE/Breakout-v5"
    assert main(["convert", "diamond", str(root), "--game", "csgo", "--out", str(tmp_path / "csgo")]) == 0
    assert wk.WorldModel.from_pretrained(tmp_path / "csgo").config.dynamics.upsampler is not None


@pytest.mark.parametrize("change, said", [
    (lambda s: s | {"denoiser.inner_model.extra": torch.zeros(1)}, r"no place in this model:\s+inner_model.extra"),
    (lambda s: {k: v for k, v in s.items() if not k.endswith("mid_blocks.resblocks.1.conv1.bias")}, "are missing"),
    (lambda s: s | {"rew_end_model.lstm.bias_ih_l0": torch.zeros(3)}, "lstm.bias_ih_l0 is .3., but this model needs"),
    (lambda s: {k: v for k, v in s.items() if not k.startswith("denoiser")}, "this file has no denoiser"),
    (lambda s: s | {"optimizer.step": torch.zeros(1)}, "not state.pt"),
    (lambda s: s | {"world_model.transformer.x": torch.zeros(1)}, "worldkit convert iris"),
])
def test_other_files_are_told_apart(repository, tmp_path, change, said):
    torch.save(change(flat(repository[1])), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=said):
        from_diamond(tmp_path / "x.pt")


def test_repositories_that_are_not(repository, tmp_path):
    with pytest.raises(CheckpointError, match="checkpoints of 3 games, say which: --game"):
        from_diamond(repository[0])
    with pytest.raises(CheckpointError, match="is not laid out as the official repository of diamond"):
        from_diamond(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        from_diamond(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="a checkpoint of DIAMOND, not of IRIS: use worldkit convert diamond"):
        from_iris(repository[0] / "atari_100k/models/Pong.pt")
