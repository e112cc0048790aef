"""DIAMOND's denoiser, sampler, and reward and end model against recorded numbers of the official code."""

import re

import pytest
import torch
from torch.nn import functional as F

from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.conditions import Condition
from worldkit.config import WorldModelConfig
from worldkit.convert.diamond import denoiser_views, fill, outcomes_views
from worldkit.factory import create_config
from worldkit.latents import Pixels
from worldkit.nn.denoiser import resized
from worldkit.nn.edm import Preconditioning, SamplingConfig, to_levels

from .diamond import (
    MISSING,
    ROOT,
    D,
    Tape,
    arrays,
    blocks,
    close,
    config_of,
    folders,
    golden,
    make_denoiser,
    noise_of,
    outcomes_of,
    pictures,
    sampling_of,
    weights,
)

DENOISERS, OUTCOMES = folders("denoiser", "samplers"), folders("rew_end_model", "seq_length")
UNITS, REAL = folders("sigmas"), folders("denoiser", "rew_end_model", "actor_critic")
CSGO = folders("upsampler", "samplers_up")
pytestmark = pytest.mark.skipif(not DENOISERS, reason=MISSING)
HEAD = {"name": "categorical", "readout": {"layers": 0, "bias": False}}


def make_model(config, size, *, outcomes=False, **options):
    """Our model of an official configuration, in float64, with its weights and those gradients asked for by name."""
    inner = config["denoiser"]["inner"]
    dynamics = {"name": "unet-diffusion", **blocks(inner), "dim": inner["cond_channels"], "before": "action-0",
                "noise": {"offset": config["denoiser"]["sigma_offset_noise"], "data": config["denoiser"]["sigma_data"]},
                **options}
    if outcomes:
        dynamics["outcomes"] = outcomes_of(config["rew_end_model"]).to_dict()
    model = build(WorldModelConfig.parse({
        "obs": {"height": size[0], "width": size[1]}, "encoder": "identity", "decoder": "identity",
        "timestep_horizon": inner["num_steps_conditioning"], "dynamics": dynamics,
        "conditioners": {"action": {"name": "raw-action", "num_actions": config["num_actions"]}},
        "heads": {"reward": HEAD, "terminated": {**HEAD, "values": [0, 1]}} if outcomes else {},
        "objective": {"name": "denoising", "cut": "end"},
    }))
    return model.to(D).eval()


@pytest.fixture(params=DENOISERS, ids=lambda f: f.name, scope="module")
def case(request):
    """(configuration, model with its weights, inputs, recorded tensors, recorded scalars)."""
    folder = request.param
    config = config_of(folder)
    model = make_model(config, config["image"], unroll=config["num_autoregressive_steps"], noise=noise_of(
        config["denoiser"], config["sigma_distribution"]).to_dict())
    fill(denoiser_views(model.dynamics.denoiser), weights(folder / "param_order.json"), where=folder.name)
    return config, model, *golden(folder)


def clip(inputs):
    """Frames ``[B, T, C, H, W]`` in [-1, 1] and one-hot actions."""
    return pictures(inputs["obs_u8"], inputs["mask_padding"]), inputs["act"].long() * inputs["mask_padding"]


def one_hot(actions, count):
    return F.one_hot(actions.long(), count).to(D)


def test_preconditioning_and_network(case):
    config, model, inputs, tensors, _ = case
    dynamics, noise = model.dynamics, model.dynamics.config.noise
    frames, actions = clip(inputs)
    past = one_hot(actions[:, : model.dynamics.window], config["num_actions"])
    given, sigma, x = frames[:, : dynamics.window].flatten(1, 2), inputs["sigma"], inputs["x_noisy"]
    at = Preconditioning.at(sigma, noise)
    for ours, name in ((at.into, "c_in"), (at.out, "c_out"), (at.skip, "c_skip"), (at.noise, "c_noise")):
        close(ours.reshape(tensors[name].shape), tensors[name], name)
    net, per = dynamics.denoiser, (slice(None), None, None, None)
    close(net.level(at.noise), tensors["tap_noise_emb"], "noise level")
    close(net.actions(past).flatten(-2), tensors["tap_act_emb"], "actions")
    answer = net(given / noise.data, at.into[per] * x, net.told(at.noise, past))
    close(answer, tensors["model_output"], "network")
    found = at.skip[per] * x + at.out[per] * answer
    close(found, tensors["denoised_before_quantisation"], "denoised")
    close(to_levels(found, "down"), tensors["denoised"], "denoised, in 256 levels")


def test_taps(case):
    """Maps inside of the network: first sample, every eighth channel."""
    config, model, inputs, tensors, _ = case
    net, seen = model.dynamics.denoiser.net, {}
    modules = {"conv_in": net.conv_in, "mid0": net.middle[0], "mid0_attn": net.middle[0].attention,
               "mid1": net.middle[1], "d0_res0": net.down[0].blocks[0]}
    for i, level in enumerate(net.down):
        modules |= {f"d{i}": level.blocks[-1]} | ({f"down{i}": level.resample} if i else {})
    for i, level in enumerate(net.up):
        modules |= {f"u{i}": level.blocks[-1]} | ({f"up{i}": level.resample} if i else {})
    hooks = [module.register_forward_hook(lambda m, a, out, name=name: seen.__setitem__(name, out))
             for name, module in modules.items()]
    test_preconditioning_and_network(case)
    for hook in hooks:
        hook.remove()
    for name, value in seen.items():
        close(value[:1, ::8], tensors[f"tap_{name}"], name)


def test_loss_and_gradients(case):
    config, model, inputs, tensors, scalars = case
    frames, actions = clip(inputs)
    batch = Batch((frames + 1) / 2, {"action": actions}, done_mask=inputs["mask_padding"])
    model.zero_grad()
    loss = model.loss(batch, sampler=Tape(inputs, "loss_"))
    close(loss.total, scalars["loss"], "loss")
    loss.total.backward()
    grads = denoiser_views(model.dynamics.denoiser, lambda p: p.grad)
    assert grads.keys() == scalars["grad_norms"].keys()
    for name, grad in grads.items():
        close(grad.norm(), scalars["grad_norms"][name], f"gradient of {name}")


def test_frames_that_are_fed_back(case):
    config, model, inputs, tensors, _ = case
    frames, actions = clip(inputs)
    dynamics, window, tape = model.dynamics, model.dynamics.window, Tape(inputs, "loss_")
    past, frames = one_hot(actions, config["num_actions"]), list(frames.unbind(1))
    for i in range(config["num_autoregressive_steps"] + 1):
        now = slice(i, i + window)
        _, frames[i + window] = dynamics.denoiser.learn(
            torch.cat(frames[now], 1), frames[i + window], past[:, now], tape, "x")
        close(frames[i + window], tensors[f"loss_denoised{i}"], f"fed back {i}")


def test_samplers(case):
    config, model, inputs, tensors, _ = case
    frames, actions = clip(inputs)
    dynamics, window = model.dynamics, model.dynamics.window
    for i, options in enumerate(config["samplers"]):
        dynamics.sampling = sampling_of(options)
        close(torch.tensor(dynamics.sampling.levels(), dtype=D), tensors[f"sampler{i}_sigmas"], f"levels {i}")
        z = Pixels.of_maps(model.spec, frames[:, :window, None])
        state = dynamics.start(z, _told(model, actions[:, : window - 1]))
        with torch.no_grad():
            told = torch.cat([state.actions, one_hot(actions[:, window - 1 : window], config["num_actions"])], 1)
            *steps, last = dynamics.denoiser.draw(state.frames.flatten(1, 2), state.frames[:, 0], told,
                                                  dynamics.sampling, Tape(inputs, f"sampler{i}_"), "x")
            close(torch.stack([x[:1] for x in (*steps, last)]), tensors[f"sampler{i}_trajectory"], f"trajectory {i}")
            close(last, tensors[f"sampler{i}_x"], f"sample {i}")
            z = dynamics.predict(state, _told(model, actions[:, window - 1 : window]), Tape(inputs, f"sampler{i}_"),
                                 mean=False)
        close(z.maps[:, 0, 0], tensors[f"sampler{i}_x"], f"prediction {i}")
    dynamics.sampling = dynamics.config.sampling


def _told(model, actions):
    return Condition(frame=one_hot(actions, model.dynamics.cond_dim))


def test_three_updates(case):
    config, model, inputs, tensors, scalars = case
    options, before = config["optimizer"], {k: v.clone() for k, v in model.state_dict().items()}
    frames, actions = clip(inputs)
    batch = Batch((frames + 1) / 2, {"action": actions}, done_mask=inputs["mask_padding"])
    decayed = [p for n, p in model.dynamics.named_parameters() if p.ndim > 1 and not n.endswith("actions.weight")]
    kept = [p for p in model.dynamics.parameters() if all(p is not q for q in decayed)]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": options["weight_decay"]},
                                   {"params": kept, "weight_decay": 0.0}], lr=options["lr"], eps=1e-8)
    tape = Tape(inputs, "train_")
    for step in range(3):
        for group in optimizer.param_groups:
            group["lr"] = options["lr"] * min(1.0, step / options["warmup"])
        loss = model.loss(batch, sampler=tape).total
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.dynamics.parameters(), options["max_grad_norm"])
        close(loss, scalars["train3_losses"][step], f"loss {step}")
        close(norm, scalars["train3_grad_norms"][step], f"gradient norm {step}")
        optimizer.step()
    views = denoiser_views(model.dynamics.denoiser)
    for name, (total, length) in scalars["train3_param_sum_norm"].items():
        close(torch.stack([views[name].sum(), views[name].norm()]), torch.tensor([total, length], dtype=D), name)
    model.load_state_dict(before)


@pytest.fixture(params=OUTCOMES, ids=lambda f: f.name, scope="module")
def outcome_case(request):
    """(configuration, model, inputs, tensors, scalars)."""
    folder, config = request.param, config_of(request.param)
    inputs, tensors, scalars = golden(folder)
    size = config["rew_end_model"]["img_size"]
    model = outcome_model(config, size)
    fill(outcomes_views(model.dynamics.outcomes, model.heads), weights(folder / "param_order.json"), where=folder.name)
    return config, model, inputs, tensors, scalars


def outcome_model(config, size):
    """A model whose denoiser plays no part."""
    denoiser = {"sigma_offset_noise": 0.3, "sigma_data": 0.5, "inner": {
        "channels": [8], "depths": [1], "attn_depths": [0], "cond_channels": 8, "num_steps_conditioning": 4}}
    return make_model({**config, "denoiser": denoiser}, (size, size), outcomes=True)


def test_outcomes(outcome_case):
    """Logits, state and taps of the network; the loss, with the true frame after an end, and its gradients."""
    config, model, inputs, tensors, scalars = outcome_case
    frames, actions = clip(inputs)
    outcomes, told = model.dynamics.outcomes, one_hot(actions, config["num_actions"])
    said, (hidden, cell) = outcomes(frames[:, :-1], frames[:, 1:], told[:, :-1])
    for head, name in (("reward", "rew"), ("terminated", "end")):
        close(model.heads[head].logits(said[:, :, None]), tensors[f"logits_{name}"], name)
    close(hidden, tensors["hx"], "hidden state")
    close(cell, tensors["cx"], "cell state")
    end = inputs["end"].long() * inputs["mask_padding"]
    frames, real = frames.clone(), inputs["mask_padding"].clone()
    for b, t in end[:, :-1].nonzero().tolist():
        frames[b, t + 1], real[b, t + 1] = pictures(inputs["final_observation_u8"])[b], True
    model.zero_grad()
    batch = Batch((frames + 1) / 2, {"action": actions}, done_mask=real,
                  targets={"reward": inputs["rew"], "terminated": end.bool()})
    loss = model.objective.turn_loss(model, batch, "outcomes", sampler=Tape({}, ""))
    # ours counts transitions between real frames; upstream those that leave one, whose end it may not have seen
    assert torch.equal(real[:, :-1] & real[:, 1:], inputs["mask_padding"][:, :-1])
    close(loss.total, scalars["loss"], "loss")
    close(loss.terms["head/reward"], scalars["loss_rew"], "loss of rewards")
    close(loss.terms["head/terminated"], scalars["loss_end"], "loss of ends")
    loss.total.backward()
    grads, squares = outcomes_views(outcomes, model.heads, lambda p: p.grad), {}
    for name, grad in grads.items():
        key = name.partition("#")[0]
        squares[key] = squares.get(key, 0) + grad.square().sum()
    assert squares.keys() == scalars["grad_norms"].keys()
    for name, square in squares.items():
        close(square.sqrt(), scalars["grad_norms"][name], f"gradient of {name}")


def test_outcomes_step_by_step(outcome_case):
    """What a rollout's steps say equals what the whole clip says."""
    config, model, inputs, tensors, _ = outcome_case
    frames, actions = clip(inputs)
    z, dynamics = Pixels.of_maps(model.spec, frames[:, :, None]), model.dynamics
    state = dynamics.start(z[:, :2], _told(model, actions[:, :1]))
    with torch.no_grad():
        whole = dynamics.features(z, _told(model, actions[:, :-1]))
        for t in range(1, frames.shape[1] - 1):
            now = _told(model, actions[:, t : t + 1])
            state.action = dynamics._told(now, frames[:, :2])
            said = dynamics.step_features(state, z[:, t : t + 1], z[:, t + 1 : t + 2], now)
            close(said, whole[:, t : t + 1], f"transition {t}")
            dynamics.observe(state, z[:, t + 1 : t + 2])


@pytest.fixture(params=CSGO, ids=lambda f: f.name, scope="module")
def csgo(request):
    """(configuration, denoiser, upsampler, inputs, tensors, scalars)."""
    folder, config = request.param, config_of(request.param)
    law, made = config["sigma_distribution"], []
    for part, treats in (("denoiser", "learnt"), ("upsampler", "told")):
        made.append(make_denoiser(config[part], law, config["num_actions"], past_noise=treats))
        fill(denoiser_views(made[-1]), weights(folder / f"param_order_{part}.json"), where=part)
    return config, *made, *golden(folder)


def test_noised_conditions_and_several_keys_at_once(csgo):
    config, denoiser, _, inputs, tensors, _ = csgo
    past, per = config["denoiser"]["inner"]["num_steps_conditioning"], (slice(None), None, None, None)
    frames, actions, noise = pictures(inputs["obs_u8"]), inputs["act"].to(D), denoiser.noise
    at, past_noise = Preconditioning.at(inputs["sigma"], noise), inputs["sigma_cond"].log() / 4
    close(at.noise, tensors["c_noise"], "noise level")
    close(past_noise, tensors["c_noise_cond"], "noise level of the condition")
    told = denoiser.told(at.noise, actions[:, :past], past_noise)
    answer = denoiser(frames[:, :past].flatten(1, 2) / noise.data, at.into[per] * inputs["x_noisy"], told)
    close(answer, tensors["model_output"], "network")
    found = to_levels(at.skip[per] * inputs["x_noisy"] + at.out[per] * answer, "down")
    close(found, tensors["denoised"], "denoised")
    for i, options in enumerate(config["samplers_next"]):
        offsets = range(1, 1 + 2 * options["num_steps_denoising"], 2)  # drawn, times 0
        *steps, last = denoiser.draw(frames[:, :past].flatten(1, 2), frames[:, 0], actions[:, :past],
                                     sampling_of(options), Tape(inputs, f"next{i}_", skip=offsets), "x")
        close(last, tensors[f"next{i}_x"], f"sample {i}")
        close(torch.stack([x[:1] for x in (*steps, last)]), tensors[f"next{i}_trajectory"], f"trajectory {i}")


def test_upsampler(csgo):
    config, _, upsampler, inputs, tensors, _ = csgo
    past, count = config["upsampler"]["inner"]["num_steps_conditioning"], len(tensors["bicubic"])
    small, full, noise = pictures(inputs["obs_u8"]), pictures(inputs["full_u8"]), upsampler.noise
    t = config["denoiser"]["inner"]["num_steps_conditioning"]
    large = resized(small[:, t], full.shape[-2:])
    close(large[:count], tensors["bicubic"], "bicubic")
    given = torch.cat([full[:, t - past : t].flatten(1, 2), large], 1)
    at, per = Preconditioning.at(inputs["sigma"], noise), (slice(None), None, None, None)
    answer = upsampler(given / noise.data, at.into[per] * inputs["x_noisy_up"], upsampler.told(at.noise, None))
    close(answer[:count], tensors["upsampler_model_output"], "network")
    for i, options in enumerate(config["samplers_up"]):
        *_, last = upsampler.draw(given[:1], full[:1, 0], None, sampling_of(options), Tape(inputs, f"up{i}_"), "x")
        close(last, tensors[f"up{i}_x"], f"sample {i}")


@pytest.mark.parametrize("part", ["denoiser", "upsampler"])
def test_losses_of_csgo(csgo, part):
    """The last frames are predicted; small pictures are the recorded ones, not made of the large ones."""
    config, denoiser, upsampler, inputs, _, scalars = csgo
    small, full = pictures(inputs["obs_u8"]), pictures(inputs["full_u8"])
    net, losses, tape = {"denoiser": denoiser, "upsampler": upsampler}[part], [], Tape(inputs, f"{part}_loss_")
    past = config[part]["inner"]["num_steps_conditioning"]
    frames = list((small if part == "denoiser" else full).unbind(1))
    predictions = len(tape.normals) // (6 if part == "denoiser" else 3)
    for t in range(len(frames) - predictions, len(frames)):
        given, actions = torch.cat(frames[t - past : t], 1), inputs["act"].to(D)[:, t - past : t]
        if part == "upsampler":
            given, actions = torch.cat([given, resized(small[:, t], full.shape[-2:])], 1), None
        loss, frames[t] = net.learn(given, frames[t], actions, tape, "x")
        losses.append(loss.mean())
    total = torch.stack(losses).mean()
    close(total, scalars[f"{part}_loss"], "loss")
    net.zero_grad()
    total.backward()
    grads = denoiser_views(net, lambda p: p.grad)
    assert grads.keys() == scalars[f"{part}_grad_norms"].keys()
    for name, grad in grads.items():
        close(grad.norm(), scalars[f"{part}_grad_norms"][name], f"gradient of {name}")


@pytest.mark.parametrize("folder", UNITS, ids=lambda f: f.name)
def test_units(folder):
    config, (inputs, tensors, _) = config_of(folder), golden(folder)
    for i, (steps, low, high, rho) in enumerate(config["sigmas"]):
        levels = SamplingConfig(steps=steps, low=low, high=high, rho=rho).levels()
        close(torch.tensor(levels, dtype=D), tensors[f"sigmas{i}"], f"levels {i}")
    close(to_levels(inputs["quant_in"], "down"), tensors["quant_out"], "256 levels")
    close(to_levels(to_levels(inputs["quant_in"], "down"), "down"), tensors["quant_out_twice"], "256 levels, twice")
    u8 = torch.arange(256, dtype=torch.uint8)
    for dtype, recorded in ((D, tensors), (torch.float32, arrays(folder / "tensors.npz"))):
        x = u8.to(dtype) / 255 * 2 - 1
        back = ((to_levels(x, "down") + 1) / 2 * 255).round()
        close(back, recorded["u8_roundtrip"], f"levels come back in {dtype}")
        close(((to_levels(x, "nearest") + 1) / 2 * 255).round(), u8, "nearest levels come back")


@pytest.mark.parametrize("folder", REAL, ids=lambda f: f.name)
def test_real_sizes(folder):
    """Published sizes: every other row and column of what the denoiser gives, rewards and ends, one sample."""
    config, (inputs, tensors, _) = config_of(folder), golden(folder)
    size = config["rew_end_model"]["img_size"]
    model = make_model(config, (size, size), outcomes=True, sampling=SamplingConfig().to_dict())
    parts = {"denoiser": denoiser_views(model.dynamics.denoiser),
             "rew_end_model": outcomes_views(model.dynamics.outcomes, model.heads)}
    for part, views in parts.items():
        fill(views, weights(folder / f"param_order_{part}.json"), where=part)
    frames, actions = pictures(inputs["obs_u8"]), inputs["act"]
    dynamics, window = model.dynamics, model.dynamics.window
    past, noise = one_hot(actions[:, :window], config["num_actions"]), dynamics.config.noise
    with torch.no_grad():
        at = Preconditioning.at(inputs["sigma"], noise)
        net = dynamics.denoiser
        given = frames[:, :window].flatten(1, 2) / noise.data
        answer = net(given, at.into * inputs["x_noisy"], net.told(at.noise, past))
        close(answer[..., ::2, ::2], tensors["model_output"], "network")
        *steps, last = net.draw(frames[:, :window].flatten(1, 2), frames[:, 0], past, SamplingConfig(),
                                Tape(inputs, ""), "x")
        close(last[..., ::2, ::2], tensors["sample_x"], "sample")
        found = torch.stack([torch.stack([x.mean(), x.std()]) for x in (*steps, last)])
        close(found, tensors["sample_trajectory_mean_std"], "trajectory")
        told = one_hot(actions, config["num_actions"])
        said, (hidden, _) = dynamics.outcomes(frames[:, :-1], frames[:, 1:], told[:, :-1])
        close(model.heads["reward"].logits(said[:, :, None]), tensors["logits_rew"], "rewards")
        close(model.heads["terminated"].logits(said[:, :, None]), tensors["logits_end"], "ends")
        close(hidden[..., ::8], tensors["hx"], "state")


KEYS = ROOT.parent / "reference" / "diamond-keys.md"


@pytest.mark.skipif(not KEYS.exists(), reason="names of the official weights not found beside the golden files")
def test_names_are_the_official_ones():
    """All names and shapes of Atari with 4 actions, and of csgo, but those of the actor-critic."""
    text = KEYS.read_text().split("```")
    for listed, preset, options in ((text[1], "diamond-atari", {"conditioners__action__num_actions": 4}),
                                    (text[3], "diamond-csgo", {})):
        wanted = {name: shape for name, shape in re.findall(r"^(\S+) (\(.*?\))", listed, re.M)
                  if not name.startswith("actor_critic.")}
        with torch.device("meta"):
            model = build(create_config(preset, **options))
        dynamics = model.dynamics
        parts = {"denoiser": denoiser_views(dynamics.denoiser)}
        if dynamics.upsampler is not None:
            parts["upsampler"] = denoiser_views(dynamics.upsampler)
        if dynamics.outcomes is not None:
            views = outcomes_views(dynamics.outcomes, model.heads)
            rows = [views.pop(name) for name in sorted(views) if "#" in name]
            parts["rew_end_model"] = views | {"head.2.weight": torch.cat(rows)}
        found = {f"{part}.{name}": str(tuple(x.shape)) for part, views in parts.items() for name, x in views.items()}
        assert found == wanted
