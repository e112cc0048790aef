"""Official checkpoints of G-SWM: every key has a place or a name, other files are told apart.

Upstream's names are written down here, with widths as the tests of ours have them; the numbers are random.
"""

import json

import pytest
import torch

import worldkit as wk
from worldkit.cli import main
from worldkit.convert import from_gswm
from worldkit.convert.gswm import left_out, model_of
from worldkit.errors import CheckpointError, ConfigError

ARCH = {"G": 4, "MAX": 5, "T": [2, 3], "T_MILESTONES": [10], "BG_ON": True, "Z_DYNA_DIM": 6, "Z_WHAT_DIM": 5,
        "Z_CTX_DIM": 3, "IMG_ENC_DIM": 7, "PROPOSAL_ENC_DIM": 9, "RNN_INPUT_DIM": 10, "RNN_HIDDEN_DIM": 11,
        "RNN_CTX_HIDDEN_DIM": 12, "PROP_MAP_MLP_LAYERS": [8, 8], "PROP_MAP_DIM": 13, "PROP_COND_MLP_LAYERS": [8, 8],
        "PROP_COND_DIM": 14, "BG_PROPOSAL_DIM": 15, "IMG_SIZE": 64}
Z, H = 6 + 5 + 6, 128


def dense(name, *shape, bias=True):
    return {f"{name}.weight": shape, **({f"{name}.bias": shape[:1]} if bias else {})}


def norm(name, n):
    return {**dense(name, n), f"{name}.running_mean": (n,), f"{name}.running_var": (n,),
            f"{name}.num_batches_tracked": ()}


def mlp(name, *widths):
    layers = (dense(f"{name}.layers.{i}", *widths[i : i + 2][::-1]) for i in range(len(widths) - 1))
    return {key: shape for layer in layers for key, shape in layer.items()}


def convs(name, widths, kernel=3, *, factor=1, step=3):
    """Convolutions, each before a norm, as entries of a sequence."""
    found = {}
    for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
        side = kernel if i == 0 else 3
        found |= dense(f"{name}.{step * i}", factor * after, before, side, side)
        found |= dense(f"{name}.{step * i + step - 1}", after)
    return found


def lstm(name, inputs, states):
    return {f"{name}.weight_ih": (4 * states, inputs), f"{name}.weight_hh": (4 * states, states),
            f"{name}.bias_ih": (4 * states,), f"{name}.bias_hh": (4 * states,)}


def resnet(name):
    found = {**dense(f"{name}.last", 7, 256, 3, 3), f"{name}.conv1.weight": (64, 6, 7, 7),
             f"{name}.enc.0.weight": (64, 6, 7, 7), **norm(f"{name}.enc.1", 64)}
    for stage, (before, after) in enumerate(((64, 64), (64, 128), (128, 256)), 3):
        for block in (0, 1):
            at, inputs = f"{name}.enc.{stage}.{block}", before if block == 0 else after
            found |= {**dense(f"{at}.conv1", after, inputs, 3, 3, bias=False), **norm(f"{at}.bn1", after),
                      **dense(f"{at}.conv2", after, after, 3, 3, bias=False), **norm(f"{at}.bn2", after)}
            if inputs != after:
                found |= {**dense(f"{at}.downsample.0", after, inputs, 1, 1, bias=False),
                          **norm(f"{at}.downsample.1", after)}
    return found


def head(name, outputs):
    return {**dense(f"{name}.enc.0", H, 20, 1, 1), **dense(f"{name}.enc.2", H), **dense(f"{name}.enc.3", H, H, 1, 1),
            **dense(f"{name}.enc.5", H), **dense(f"{name}.enc.6", outputs, H, 1, 1)}


def official():
    """Names and shapes of a checkpoint with a background."""
    fg = {**{f"{x}_init_{y}": (1, 1, 11) for x in "hc" for y in ("post", "prior")},
          **{f"prop_cond_init_{y}": (1, 1, 14) for y in ("post", "prior")}, **resnet("img_encoder")}
    for name, outputs in (("proposal_encoder", 9), ("bg_attention_encoder", 15)):
        fg |= {**convs(f"{name}.enc", (3, 16, 32, 64, 128)), **dense(f"{name}.enc_what", outputs, 128)}
    fg |= {**mlp("pred_proposal.net.mod", 11, H, H, 2), **dense("glimpse_decoder.fc", 128, 5),
           **convs("glimpse_decoder.net", (128, 64, 32, 16), factor=4, step=4),
           **dense("glimpse_decoder.net.12", 16, 16, 3, 3), **head("latent_post_disc", 12),
           **head("pres_depth_where_what_latent_post_disc", 1 + 2 * (1 + 4 + 5 + 6)),
           **mlp("latent_post_prop.enc", 20, H, H, 12), **mlp("latent_prior_prop.enc", 11, H, H, 12),
           **mlp("pres_depth_where_what_prior.enc", 6, H, H, 1 + 3 * 10), **mlp("prop_map_mlp", Z, 8, 8, 13)}
    for chain in ("post", "prior"):
        fg |= {**mlp(f"prop_cond_self_{chain}", Z + 11, 8, 8, 14),
               **mlp(f"prop_cond_relational_{chain}", 2 * (Z + 11), 8, 8, 14),
               **mlp(f"prop_cond_weights_{chain}", 2 * (Z + 11), 8, 8, 1),
               **dense(f"temporal_rnn_{chain}_input.mod", 10, Z + 14 + 15), **lstm(f"temporal_rnn_{chain}.mod", 10, 11)}
    bg = {**{f"{x}_init_{y}": (1, 12) for x in "hc" for y in ("post", "prior")},
          **convs("enc", (3, 64, 128, 256, 512), 7), **dense("enc_fc", 7, 8192), **dense("dec_fc", 2048, 3),
          **convs("dec", (128, 64, 32, 16), factor=4, step=4), **dense("dec.12", 12, 16, 3, 3),
          **lstm("rnn_post", 3, 12), **lstm("rnn_prior", 3, 12), **mlp("prior_net", 12, H, H, 6),
          **mlp("post_net", 19, H, H, 6)}
    return {**{f"fg_module.{k}": v for k, v in fg.items()}, **{f"bg_module.{k}": v for k, v in bg.items()}}


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    found = {k: torch.rand(v) if v else torch.tensor(3) for k, v in official().items()}
    found["fg_module.img_encoder.enc.0.weight"] = found["fg_module.img_encoder.conv1.weight"]
    return found


def test_every_key_is_used_or_named(state):
    assert len(state) == 307
    model = model_of(state, ARCH)
    named = left_out(state, model)
    assert sum(map(len, named.values())) == 15 + 1 + 2  # counters, the tensor that is there twice, initial interactions
    unread = 2 * 6 * (H + 1)  # the last rows of a head
    taken = sum(x.numel() for k, x in state.items() if not any(k in keys for keys in named.values())) - unread
    statistics = sum(x.numel() for k, x in state.items() if "running" in k)
    assert sum(p.numel() for p in model.parameters()) == taken - statistics
    assert torch.equal(model.dynamics.memory.initial_c, state["fg_module.c_init_prior"][0, 0])
    assert torch.equal(model.encoder.cells.image.stages[1][0].shortcut[1].running_var,
                       state["fg_module.img_encoder.enc.4.0.downsample.1.running_var"])


def test_what_has_no_place_is_listed(state):
    with pytest.raises(CheckpointError, match="keys with no place in this model:\n *fg_module.strange.weight"):
        model_of(state | {"fg_module.strange.weight": torch.ones(1)}, ARCH)
    with pytest.raises(CheckpointError, match="parameters the checkpoint does not fill"):
        model_of({k: v for k, v in state.items() if "prop_map_mlp" not in k}, ARCH)
    with pytest.raises(CheckpointError, match="that do not fit(.|\n)*trained with this configuration"):
        model_of(state, "g-swm-maze")
    with pytest.raises(CheckpointError, match="options of ARCH are unknown.*: GG"):
        model_of(state, ARCH | {"GG": 4})
    with pytest.raises(CheckpointError, match="checkpoint of G-SWM, not of LPWM"):
        wk.convert.lpwm.refuse_other_projects(state, "lpwm")
    with pytest.raises(CheckpointError, match="this is no checkpoint of G-SWM"):
        model_of({"weight": torch.ones(1)}, ARCH)
    with pytest.raises(ConfigError, match="preset 'lpwm-mini' is no G-SWM, whose checkpoint this is; those are: g-swm"):
        model_of(state, "lpwm-mini")


def test_the_command(state, tmp_path, capsys):
    file, arch = tmp_path / "model.pth", tmp_path / "arch.json"
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}, "epoch": 1, "global_step": 2}, file)
    arch.write_text(json.dumps({"ARCH": ARCH}), encoding="utf-8")
    assert main(["convert", "gswm", str(file), "--hparams", str(arch), "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "every other key used" in said and "2 key(s) that nothing depends on, initial interactions" in said
    loaded, made = wk.create_model(f"dir:{tmp_path / 'out'}"), from_gswm(file, ARCH)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), made.state_dict().values(), strict=True))
    both = ["convert", "gswm", str(file), "--preset", "g-swm-balls", "--hparams", str(arch), "--out", "x"]
    assert main(both) == 2 and "--preset and --hparams say the same" in capsys.readouterr().err
