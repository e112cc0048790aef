"""Official agents of IRIS: every key has a place, sizes are read off the weights, other files are told apart.

Upstream's names are written down here for a small agent; the numbers are random.
"""

import pytest
import torch

import worldkit as wk
from worldkit.agents import load_agent
from worldkit.cli import main
from worldkit.convert import from_iris, from_lpwm
from worldkit.errors import CheckpointError

CH, LEVELS, Z, CODES, DIM, BLOCKS, LAYERS, ACTIONS = 32, 3, 8, 12, 16, 4, 2, 5
TOKENS = 17


def conv(name, inputs, outputs, kernel=3):
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


def pair(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def block(name):
    return {**pair(f"{name}.norm1", CH), **conv(f"{name}.conv1", CH, CH), **pair(f"{name}.norm2", CH),
            **conv(f"{name}.conv2", CH, CH)}


def attention(name):
    return {**pair(f"{name}.norm", CH), **{k: v for x in ("q", "k", "v", "proj_out")
                                          for k, v in conv(f"{name}.{x}", CH, CH, 1).items()}}


def stack(side, levels, blocks, resample):
    shapes = {**block(f"{side}.mid.block_1"), **attention(f"{side}.mid.attn_1"), **block(f"{side}.mid.block_2"),
              **pair(f"{side}.norm_out", CH)}
    for i in range(LEVELS):
        for j in range(blocks):
            shapes |= block(f"{side}.{levels}.{i}.block.{j}")
            shapes |= attention(f"{side}.{levels}.{i}.attn.{j}") if i == 1 else {}
        shapes |= conv(f"{side}.{levels}.{i}.{resample}.conv", CH, CH) if i != {"down": LEVELS - 1, "up": 0}[
            levels] else {}
    return shapes


def official():
    """Names and shapes of an agent that sees 16 x 16 pixels as 4 x 4 codes."""
    t = {**conv("encoder.conv_in", 3, CH), **stack("encoder", "down", 1, "downsample"),
         **conv("encoder.conv_out", CH, Z), **conv("pre_quant_conv", Z, 6, 1), "embedding.weight": (CODES, 6),
         **conv("post_quant_conv", 6, Z, 1), **conv("decoder.conv_in", Z, CH),
         **stack("decoder", "up", 2, "upsample"), **conv("decoder.conv_out", CH, 3),
         "lpips.scaling_layer.shift": (1, 3, 1, 1), "lpips.net.slice1.0.weight": (64, 3, 3, 3),
         "lpips.lin0.model.1.weight": (1, 64, 1, 1)}
    w = {"pos_emb.weight": (BLOCKS * TOKENS, DIM), "embedder.embedding_tables.0.weight": (ACTIONS, DIM),
         "embedder.embedding_tables.1.weight": (CODES, DIM), **pair("transformer.ln_f", DIM)}
    for i in range(LAYERS):
        at = f"transformer.blocks.{i}"
        w |= {**pair(f"{at}.ln1", DIM), **pair(f"{at}.ln2", DIM), f"{at}.attn.mask": (BLOCKS * TOKENS,) * 2,
              **{k: v for x in ("key", "query", "value", "proj") for k, v in pair(f"{at}.attn.{x}", DIM, DIM).items()},
              **pair(f"{at}.mlp.0", 4 * DIM, DIM), **pair(f"{at}.mlp.2", DIM, 4 * DIM)}
    for name, count, reads in (("observations", CODES, 16), ("rewards", 3, 1), ("ends", 2, 1)):
        w |= {f"head_{name}.indices": (BLOCKS * reads,), **pair(f"head_{name}.head_module.0", DIM, DIM),
              **pair(f"head_{name}.head_module.2", count, DIM)}
    a = {**conv("conv1", 3, 4), **conv("conv2", 4, 8), "lstm.weight_ih": (24, 8 * 16), "lstm.weight_hh": (24, 6),
         "lstm.bias_ih": (24,), "lstm.bias_hh": (24,), **pair("actor_linear", ACTIONS, 6),
         **pair("critic_linear", 1, 6)}
    return {f"{part}.{key}": shape for part, shapes in (("tokenizer", t), ("world_model", w), ("actor_critic", a))
            for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    found = {}
    for key, shape in official().items():
        value = torch.randn(shape)
        if key.endswith(".mask"):
            value = torch.ones(shape).tril()
        found[key] = torch.arange(shape[0]) if key.endswith(".indices") else value
    return found


def test_every_key_has_a_place_and_sizes_are_read_off(state, tmp_path):
    torch.save(state, tmp_path / "last.pt")
    model = from_iris(tmp_path / "last.pt")
    config = model.config
    assert (config.obs.height, config.timestep_horizon, config.dynamics.num_layers) == (16, BLOCKS - 1, LAYERS)
    assert config.encoder.attention == (8,) and config.encoder.quantizer.codes == CODES
    assert (config.dynamics.refresh, config.dynamics.attention) == ("frame", "causal")
    left = {key for key in state if key.startswith("world_model.") and not key.endswith((".mask", ".indices"))}
    kept = sum(p.numel() for part in (model.dynamics, model.heads) for p in part.parameters())
    assert kept == sum(state[key].numel() for key in left)
    qkv = model.dynamics.net.layers[1].attention.qkv.weight
    assert torch.equal(qkv[DIM : 2 * DIM], state["world_model.transformer.blocks.1.attn.key.weight"])
    out = model.rollout(torch.rand(2, 1, 3, 16, 16), 5, conditions={"action": torch.zeros(2, 6).long()})
    assert out.video.shape == (2, 5, 3, 16, 16)


def test_the_command_writes_an_agent_and_its_world(state, tmp_path, capsys):
    torch.save(state, tmp_path / "last.pt")
    main(["convert", "iris", str(tmp_path / "last.pt"), "--out", str(tmp_path / "out"), "--env", "games/catch"])
    assert "every key used" in capsys.readouterr().out
    agent = load_agent(tmp_path / "out")
    assert agent.environment == "games/catch" and agent.action.num_actions == ACTIONS
    assert torch.equal(agent.network.lstm.weight_hh, state["actor_critic.lstm.weight_hh"])
    model = wk.create_model(f"dir:{tmp_path / 'out' / 'model'}")
    assert torch.equal(model.encoder.quantizer.codebook, state["tokenizer.embedding.weight"])


def test_other_files_are_told_apart(state, tmp_path, capsys):
    for wrong, message in (
        ({"encoder.conv_in.weight": torch.zeros(1)}, "no agent of IRIS.*optimizer.pt"),
        ({k: v for k, v in state.items() if "pos_emb" not in k}, "lacks .*pos_emb"),
        (state | {"world_model.strange.weight": torch.zeros(2)}, "no place.*\\n.*strange"),
        (state | {"tokenizer.embedding.weight": torch.zeros(CODES, 7)}, "pre_quant_conv"),
        ({k: v for k, v in state.items() if ".mlp.2.bias" not in k}, "does not fill(.|\\n)*narrow.bias"),
    ):
        torch.save(wrong, tmp_path / "wrong.pt")
        with pytest.raises(CheckpointError, match=message):
            from_iris(tmp_path / "wrong.pt")
    torch.save(state, tmp_path / "last.pt")
    assert main(["convert", "iris", str(tmp_path / "last.pt"), "--hparams", "h.json", "--out", str(tmp_path / "o")])
    assert "takes no --hparams" in capsys.readouterr().err
    (tmp_path / "h.json").write_text("{}")
    with pytest.raises(CheckpointError, match="worldkit convert iris"):
        from_lpwm(tmp_path / "last.pt", tmp_path / "h.json")
