"""IRIS's tokenizer and world model against golden numbers of the official code, in float64."""

import pytest
import torch
import torch.nn.functional as F

from worldkit.batch import Batch
from worldkit.conditions import Condition
from worldkit.convert.iris import perceptual_weights, target_of
from worldkit.distributions import Sampler
from worldkit.metrics.perceptual import VGGPerceptual
from worldkit.nn.memory import Memory
from worldkit.nn.token_transformer import visible
from worldkit.objectives.vq import VQConfig, tokenizer_loss
from worldkit.training.optimizers import OptimizerConfig

from .iris_files import MISSING, World, arrays, close, config_of, folders, of_official, scalars, tokenizer_of, world_of
from .iris_files import weights as stored_weights

pytestmark = pytest.mark.skipif(not folders("tokenizer"), reason=MISSING)

D = torch.float64
TOKENIZERS, WORLDS = folders("tokenizer"), folders("world_model")
BOTH = [f for f in folders("tokenizer", "world_model") if (f / "param_order_tokenizer.json").exists()]
UNITS = [f for f in folders() if "slicer" in config_of(f)]


def by_name(folder):
    return folder.name


def note(module, name, found):
    """Keep what a module gives, the first time; the handle takes that back."""
    def keep(module, args, out):
        found.setdefault(name, out)

    return module.register_forward_hook(keep)


def _taps(model, video):
    """What the stacks' modules give, by the names of the fixtures."""
    found, modules = {}, {}
    for side, stack in (("enc", model.encoder.stack), ("dec", model.decoder.stack)):
        modules[f"{side}_conv_in"] = stack.conv_in
        modules[f"{side}_out"] = stack.out
        for part, ours in (("block_1", "block1"), ("attn_1", "attention"), ("block_2", "block2")):
            modules[f"{side}_mid_{part}"] = getattr(stack.middle, ours)
        for i, level in enumerate(stack.levels):
            for j, block in enumerate(level.blocks):
                modules[f"{side}_level{i}_block{j}"] = block
            for j, attention in enumerate(level.attentions):
                modules[f"{side}_level{i}_attn{j}"] = attention
            if level.then:
                modules[f"{side}_level{i}_{level.then}"] = level.conv
    modules["post_quant"] = model.decoder.project
    hooks = [note(module, name, found) for name, module in modules.items()]
    with torch.no_grad():
        z = model.encode(video)
        drawn = model.decode(z)
    for hook in hooks:
        hook.remove()
    return found, z, drawn.video


@pytest.mark.parametrize("folder", TOKENIZERS, ids=by_name)
def test_tokenizer(folder):
    model, stored = tokenizer_of(folder)
    want, told = arrays(folder, "tensors_f64"), scalars(folder)
    video = arrays(folder, "inputs")["x_u8"].to(D) / 255
    found, z, drawn = _taps(model, video)
    close(z.values["patches", "code"][..., 0], want["tokens"].long(), "tokens", 0.0)
    side = model.encoder.spec.grid
    close(model.encoder.vectors(video).transpose(2, 3).unflatten(3, side), want["z"], "z")
    close(model.encoder.look_up(z).features.transpose(2, 3).unflatten(3, side), want["z_q"], "z_q")
    close(model.encoder.quantizer.distances(model.encoder.vectors(video))[0, 0], want["dist_first_image"], "distances")
    close(2 * drawn[0, :1] - 1, want["rec"], "rec")
    close(drawn[0, :1].clamp(0, 1), want["rec_post_clamped"], "rec_post_clamped")
    taps = [name for name in want if name.startswith("tap_")]
    assert taps
    for name in taps:
        close(found[name.removeprefix("tap_")][:1, ::4], want[name], name)

    network = VGGPerceptual(*perceptual_weights(stored_weights(folder, "tokenizer."))).to(D)
    network.mean.data, network.std.data = (torch.tensor(x, dtype=D) for x in ((0.485, 0.456, 0.406),
                                                                            (0.229, 0.224, 0.225)))
    pairs = video.flatten(0, 1), drawn.flatten(0, 1)
    close(network(*pairs), want["lpips_per_image"], "lpips")
    model.use_perceptual(network)
    for kind, config in (("without_lpips", VQConfig(perceptual=0)), ("total", VQConfig())):
        loss = tokenizer_loss(model, Batch(video), Sampler(), config)
        close(loss.total, told["loss_total" if kind == "total" else "loss_without_lpips"], kind)
        close(loss.terms["codebook"] + loss.terms["commitment"], told["commitment_loss"], "commitment")
        close(loss.terms["reconstruction"], told["reconstruction_loss"], "reconstruction")
        model.zero_grad()
        loss.total.backward()
        norms = {key: of_official(model, key, lambda p: p.grad).norm().item() for key in stored}
        compare(norms, told[f"grad_norms_{kind}"], kind, "tokenizer.")
    close(loss.terms["perceptual"], told["perceptual_loss"], "perceptual")


def compare(ours, theirs, what, prefix, rtol=1e-9):
    """Numbers by official name; those that are 0 but for rounding are told by the largest."""
    assert {prefix + key for key in theirs} == set(ours), what
    largest = max(abs(x) for x in theirs.values())
    for key, value in theirs.items():
        assert abs(ours[prefix + key] - value) <= rtol * max(abs(value), 1e-3 * largest), f"{what}: {key}"


@pytest.mark.parametrize("folder", WORLDS, ids=by_name)
def test_transformer(folder):
    model, stored = world_of(folder)
    config, want, told, given = config_of(folder), arrays(folder, "tensors_f64"), scalars(folder), arrays(
        folder, "inputs")
    dynamics, z = model.dynamics, model.latent(given["obs_tokens"])
    cond = Condition(frame=F.one_hot(given["actions"].long(), config["act_vocab"]).to(D))
    valid = given["mask_padding"].bool()
    placed = dynamics._placed(dynamics._sequence(dynamics.codes(z), cond, z.shape[1]), 0)
    close(placed, want["embedded"], "embedded")
    found = {}
    note(dynamics.net.layers[0].attention, "tap_attn0", found)
    for i, layer in enumerate(dynamics.net.layers):
        note(layer, f"tap_block{i}", found)
    hidden = dynamics.hidden(z, cond)
    for name in (name for name in want if name.startswith("tap_")):
        close(found[name], want[name], name)
    close(hidden, want["hidden"], "hidden")
    logits = dynamics.logits(hidden)
    close(logits, want["logits_observations"][:, :-1], "logits_observations")
    close(dynamics.head(hidden[:, -1]), want["logits_observations"][:, -1], "logits behind the last action")
    features = dynamics.behind_actions(hidden)
    close(model.heads["reward"].logits(features), want["logits_rewards"], "logits_rewards")
    close(model.heads["terminated"].logits(features), want["logits_ends"], "logits_ends")
    close(dynamics.labels(z, valid).flatten(), want["labels_observations"].long(), "labels", 0.0)
    losses = world_losses(model, given, config)
    for name in ("obs", "rewards", "ends", "total"):
        close(losses[name], told[f"loss_{name}"], name)
    losses["total"].backward()
    norms = {key: of_official(model, key, lambda p: p.grad).norm().item() for key in stored}
    compare(norms, told["grad_norms"], "gradients", "world_model.")

    with torch.no_grad():
        memory, parts = Memory(), []
        for part in placed.split(config["incremental_sizes"], 1):
            parts.append(dynamics.net(part, memory))
        close(torch.cat(parts, 1), want["incremental_hidden"], "incremental")
        close(dynamics.logits(torch.cat(parts, 1)), want["incremental_logits_observations"][:, :-1], "its logits")
        for name, kept in (("k", memory.keys), ("v", memory.values)):
            close(kept[0][:, :, : memory.length], want[f"cache_{name}_layer0"], f"cache {name}")


def world_losses(model, given, config):
    """As the objective puts them together (`worldkit.objectives.iris.dynamics_loss`), of clips with all actions."""
    z, valid = model.latent(given["obs_tokens"]), given["mask_padding"].bool()
    cond = Condition(frame=F.one_hot(given["actions"].long(), config["act_vocab"]).to(D))
    hidden = model.dynamics.hidden(z, cond)
    tokens = model.dynamics.token_losses(z, hidden, valid)
    losses = {"obs": tokens.sum() / (valid.sum() * tokens.shape[2] - valid[:, 0].sum())}
    features = model.dynamics.behind_actions(hidden)
    for name, head, target in (("rewards", "reward", given["rewards"]), ("ends", "terminated", given["ends"])):
        losses[name] = model.heads[head].loss(features, target)[valid].mean()
    losses["total"] = sum(losses.values())
    return losses


@pytest.mark.parametrize("folder", [f for f in WORLDS if "optimizer" in config_of(f)], ids=by_name)
def test_three_updates(folder):
    model, stored = world_of(folder)
    config, told, given = config_of(folder), scalars(folder), arrays(folder, "inputs")
    options = config["optimizer"]
    optimizer = OptimizerConfig(name="adamw", lr=options["lr"], weight_decay=options["weight_decay"],
                                decay="weights").make(model.parameters(), module=model)
    decays = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    keys = {key for key in stored if id(model.get_parameter(_name(model, key))) in decays}
    assert keys == {"world_model." + key for key in told["optimizer_decay_keys"]}
    for step, (loss, norm) in enumerate(zip(told["train3_losses"], told["train3_grad_norms"], strict=True)):
        losses = world_losses(model, given, config)
        close(losses["total"], loss, f"loss {step}")
        optimizer.zero_grad()
        losses["total"].backward()
        found = torch.nn.utils.clip_grad_norm_(model.parameters(), options["max_grad_norm"])
        close(found, norm, f"norm {step}")
        optimizer.step()
    close(world_losses(model, given, config)["total"], told["train3_final_loss"], "final loss")
    for at, what in enumerate(("sum", "norm")):
        read = (torch.sum, torch.linalg.vector_norm)[at]
        ours = {key: read(of_official(model, key, lambda p: p.detach())).item() for key in stored}
        compare(ours, {key: pair[at] for key, pair in told["train3_param_sum_norm"].items()}, what, "world_model.")


def _name(model, key):
    return target_of(key, model, {name for name, _ in model.named_parameters()}).name


@pytest.mark.parametrize("folder", BOTH, ids=by_name)
def test_the_whole_default_model(folder):
    """Outputs of the full size, thinned out."""
    want, given, config = arrays(folder, "tensors_f64"), arrays(folder, "inputs"), config_of(folder)
    tokenizer, _ = tokenizer_of(folder)
    video = given["x_u8"].to(D) / 255
    with torch.no_grad():
        vectors, z = tokenizer.encoder.vectors(video), tokenizer.encode(video)
        assert torch.equal(z.values["patches", "code"][..., 0], want["tokens"].long())
        first = vectors[0, 0].T.unflatten(1, tokenizer.encoder.spec.grid)
        close(thinned(first, want["z"]), want["z"], "z")
        drawn = tokenizer.decode(z).video[0, 0]
        close(thinned(drawn, want["rec"]), want["rec"], "rec")
        world, _ = world_of(folder)
        cond = Condition(frame=F.one_hot(given["actions"].long(), config["act_vocab"]).to(D))
        codes = world.latent(want["tokens"])
        hidden = world.dynamics.hidden(codes, cond)
        close(thinned(hidden, want["hidden"]), want["hidden"], "hidden")
        features = world.dynamics.behind_actions(hidden)
        close(world.heads["reward"].logits(features), want["logits_rewards"], "logits_rewards")
        close(world.heads["terminated"].logits(features), want["logits_ends"], "logits_ends")
        logits = torch.cat([world.dynamics.logits(hidden), world.dynamics.head(hidden[:, -1:])], 1)
        close(thinned(logits, want["logits_observations"]), want["logits_observations"], "logits_observations")


def thinned(x, like):
    """Every n-th entry of every axis, so many as there are in ``like``."""
    for axis, size in enumerate(like.shape):
        step = -(-x.shape[axis] // size)
        x = x.narrow(axis, 0, x.shape[axis])[(slice(None),) * axis + (slice(None, None, step),)]
    return x


@pytest.mark.parametrize("folder", UNITS, ids=by_name)
def test_units(folder):
    config, want = config_of(folder), arrays(folder, "tensors_f64")
    for attention in ("causal", "block-causal"):
        mask = want[f"mask_{attention.replace('-', '_')}"]
        assert torch.equal(visible(len(mask), 3, attention).to(mask.dtype), mask)
    for n, (block, blocks) in enumerate(config["slicer"]):
        world = World({"act_vocab": 2, "obs_vocab": 4, "world_model": {
            "tokens_per_block": block, "max_blocks": blocks, "num_layers": 1, "num_heads": 1, "embed_dim": 1,
            "attn_pdrop": 0.0, "attention": "causal"}})
        place = torch.arange(block * blocks, dtype=torch.float)[None, :, None]
        read = []
        world.dynamics.head = torch.nn.Sequential(torch.nn.Identity())
        read = world.dynamics.logits(place)[0, :, 0].long().tolist() + [block * blocks - 1]
        assert read == want[f"slicer{n}_obs_indices"].tolist()
        assert world.dynamics.behind_actions(place)[0, :, 0, 0].long().tolist() == (
            want[f"slicer{n}_act_indices"].tolist())
