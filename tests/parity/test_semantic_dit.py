"""semantic-wm's causal DiT against recorded outputs of the authors' code: forward, losses, gradients, samplers."""

import json
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from einops import rearrange

from worldkit.conditions import Condition
from worldkit.convert.semantic_wm import names_of
from worldkit.distributions import Sampler
from worldkit.dynamics.causal_dit import CausalDiffusion, CausalDiTConfig, _Carry
from worldkit.latents import Field, LatentSpec, TokenGroup
from worldkit.metrics.action_search import cem_search, gradient_search, grid_search
from worldkit.nn.causal_dit import CausalDiT, LevelTokens
from worldkit.nn.frame_noise import FlowNoise, StepNoise, logit_normal, shift_of, shifted, sigmoid_schedule
from worldkit.nn.positions import axis_rotation, pixel_places, pixel_rates, view_widths, views_by_mistake
from worldkit.nn.vit import frames_mask

from .jepa_files import read
from .semantic_files import ROOT, Fixture, close, close_grads, folders, load

CASES, needs = folders("dit*")
pytestmark = needs
name_of = partial(names_of, "dit")


class Drawn(Sampler):
    """Recorded draws, by name."""

    def __init__(self, **draws):
        super().__init__()
        self.draws = {f"diffusion.{name}": value for name, value in draws.items()}

    def normal(self, name, mean, logvar):
        return mean + self.draws[name].reshape(mean.shape)

    def uniform(self, name, like):
        return self.draws[name].reshape(like.shape)


@pytest.fixture(params=CASES, ids=lambda path: path.name)
def case(request):
    fixture = Fixture(request.param)
    c = fixture.config

    def make(**options):
        views, height = c["views"], c["grid"]
        group = TokenGroup("patches", views * height**2, (Field("features", c["cin"]),))
        config = CausalDiTConfig(**{
            "dim": c["dim"], "num_layers": c["layers"], "num_heads": c["heads"], "patch_size": c["patch"],
            "head": "wide" if c["wide"] else "narrow", "head_dim": c["ddim"] or 1, "temporal": c["mode"],
            "cond_dim": c["adim"], "actions": "left", "null_action": "last-entry", "time_shift": c["shift"],
            "steps": c["S"], "mixed_views": views > 1, **options})
        spec = LatentSpec((group,), grid=(height, height), views=views, kind="patches")
        made = CausalDiffusion(config, spec=spec, anchors={}, window=c["max_frames"] - 1).double().eval()
        load(made.network, fixture.weights("dit"), name_of)
        return made

    def tokens(maps):
        """Their maps, views side by side, as our tokens, view-major."""
        return rearrange(maps, "... h (v w) c -> ... (v h w) c", v=c["views"])

    return fixture, make, tokens


def test_forward_and_gradients(case):
    fixture, make, tokens = case
    said, given = fixture.tensors, fixture.inputs
    net, level = make().network, given["t"]
    close(LevelTokens.waves(level), said["time_embedding"], "waves")
    close(net.levels(level), said["time_cond"], "levels")
    close(net.told(given["actions"]), said["action_cond"], "actions")
    none = torch.zeros_like(level, dtype=torch.bool)
    close(net.told(given["actions"], none), net.actions(said["null_action"]), "no action")
    x = net.embed(tokens(given["x"]))
    close(x, tokens(said["patchified"]), "patches")
    steer = torch.nn.functional.silu(said["time_cond"] + said["action_cond"])[:, :, None]
    x = net.spatial[0](x, steer, net._spatial_rotation(x))
    close(x, tokens(said["block0_spatial"]), "spatial block")
    mask = frames_mask(x.shape[1], x.shape[2] if fixture.config["mode"] == "joint" else 1, 0, x.device)
    x = net.temporal_blocks[0](x, steer, net._temporal_rotation(0, x.shape[1], x), mask, 0, None, 9)
    close(x, tokens(said["block0_temporal"]), "temporal block")
    out = net(tokens(given["x"]), level, given["actions"])
    close(out, tokens(said["output"]), "output")
    (out * tokens(given["dy"])).sum().backward()
    close_grads(net, fixture.scalars["grad_norms"], name_of)


def test_what_a_frame_reaches(case):
    fixture, make, tokens = case
    net, given, said = make().network, fixture.inputs, fixture.tensors["effect_kxta"]
    parts = [tokens(given["x"]), given["t"], given["actions"]]
    with torch.no_grad():
        base = net(*parts)
        for frame in range(said.shape[0]):
            for kind, by in enumerate((1.0, 50.0, 1.0)):
                moved = [x.clone() for x in parts]
                moved[kind][:, frame] += by
                effect = (net(*moved) - base).abs().amax((0, 2, 3))
                assert not effect[:frame].any()
                close(effect, said[frame, kind], f"what frame {frame} does")


def test_losses(case):
    fixture, make, tokens = case
    c, given, scalars = fixture.config, fixture.inputs, fixture.scalars
    data = tokens(given["x"])
    for history in c["hist"]:
        flow = make(history=history)
        draws = Drawn(time=given["flow_u"][:, : c["T"] - history], noise=tokens(given["flow_noise"])[:, history:],
                      history_size=given["hist_sigma"][:, :history],
                      history_noise=tokens(given["hist_noise"])[:, :history], action_dropout=given["drop_u"])
        for mode in ("eval", "train"):
            flow.train(mode == "train").zero_grad()
            noisy = flow.noise.noisy(data, draws, training=flow.training)
            loss = flow.errors(noisy, given["actions"], None, draws).mean()
            close(loss, scalars[f"flow_loss_H{history}_{mode}"], f"flow, history {history}, {mode}")
    loss.backward()
    close_grads(flow.network, scalars["flow_grad_norms"], name_of)
    close(flow.noise.times(given["flow_u"]), fixture.tensors["flow_t_logit_normal"], "times")
    steps = make(noise="ddpm")
    number = steps.noise.number(given["flow_u"]) if c["shift"] != 1 else given["ddpm_t"]
    assert torch.equal(number, fixture.tensors["ddpm_t"])
    draws = Drawn(noise=tokens(given["flow_noise"]), time=given["flow_u"])
    with torch.no_grad():
        noisy = steps.noise.at(data, number, draws)
        close(steps.errors(noisy, given["actions"], None, draws).mean(), scalars["ddpm_loss"], "DDPM")


def sampled(dynamics, tokens, fixture, guidance, horizon=1, frames=None):
    """Frames after the context, chunk by chunk, as upstream's sampler has them."""
    c, given = fixture.config, fixture.inputs
    dynamics.sampling = replace(dynamics.sampling, guidance=guidance)
    x, told = tokens(given["x"])[:, : c["ctx"]], given["gen_actions"]
    noise = tokens(given["sample_noise"])
    carry = None
    while x.shape[1] < (frames or c["nf"]):
        ahead = min(horizon, c["nf"] - x.shape[1])
        begin = max(0, x.shape[1] + ahead - c["max_frames"])
        if carry is None or begin or horizon > 1:  # inside the window keys and values are kept
            carry = _Carry(x[:, begin:], None, False)
        carry.frames = x[:, begin:]
        done = x.shape[1] - c["ctx"]
        new = dynamics.draw_told(carry, noise[:, done : done + ahead], told[:, begin : x.shape[1] + ahead], None)
        x = torch.cat([x, new], 1)
    return x[:, c["ctx"] :]


@torch.no_grad()
def test_flow_sampler(case):
    fixture, make, tokens = case
    said, flow = fixture.tensors, make()
    close(flow.noise.stops(fixture.config["S"]), said["flow_schedule"], "times of the sampler")
    for name in said:
        if match := re.fullmatch(r"flow_sample_(?:default_)?cfg([\d.]+)", name):
            guidance = min(1.0, float(match[1]))  # upstream takes more for 1
            close(sampled(flow, tokens, fixture, guidance), tokens(said[name]), name)
    # the first frame after every step
    c, path = fixture.config, []
    carry = _Carry(tokens(fixture.inputs["x"])[:, : c["ctx"]], None, False)
    told = fixture.inputs["gen_actions"][:, : c["ctx"] + 1]
    flow.sampling = replace(flow.sampling, guidance=1.0)
    original = flow.noise.drawn

    def watched(answer, noise, steps):
        stops, x = flow.noise.stops(steps).tolist(), noise
        for now, then in zip(stops, stops[1:], strict=False):
            x = x + (then - now) * answer(x, x.new_full(x.shape[:2], 1000 * now))
            path.append(x)
        assert torch.equal(x, original(answer, noise, steps))
        return x

    class Watched(FlowNoise):
        drawn = staticmethod(watched)

    flow.noise = Watched(shift=c["shift"])
    flow.draw_told(carry, tokens(fixture.inputs["sample_noise"])[:, :1], told, None)
    close(torch.cat(path, 1), tokens(said["flow_trajectory_frame"]), "path")


@torch.no_grad()
def test_step_sampler(case):
    fixture, make, tokens = case
    said, steps = fixture.tensors, make(noise="ddpm")
    for name in said:
        if match := re.fullmatch(r"ddim_sample_h(\d+)_cfg([\d.]+)", name):
            found = sampled(steps, tokens, fixture, float(match[2]), horizon=int(match[1]))
            close(found, tokens(said[name]), name)


@torch.no_grad()
def test_a_rollout_is_that_sampler(case):
    """`predict` and `observe` frame by frame, where actions of frames that are drawn are none, give the same."""
    fixture, make, tokens = case
    c, flow = fixture.config, make()
    given, noise = fixture.inputs, tokens(fixture.inputs["sample_noise"])
    z = flow._latent(tokens(given["x"])[:, : c["ctx"]])
    told = given["gen_actions"]
    carry = flow.start(z, Condition(frame=told[:, : c["ctx"] - 1]))
    frames = tokens(given["x"])[:, : c["ctx"]]
    for t in range(c["ctx"] - 1, c["nf"] - 1):
        new = flow.predict(carry, Condition(frame=told[:, t : t + 1]), Drawn(noise=noise[:, t + 1 - c["ctx"]]),
                           mean=False)
        begin = max(0, t + 2 - c["max_frames"])
        fresh = _Carry(frames[:, begin:], None, False)
        shown = torch.ones(len(told), t + 2 - begin, dtype=torch.bool)
        shown[:, -1] = False
        wanted = flow.draw_told(fresh, noise[:, t + 1 - c["ctx"]][:, None], told[:, begin : t + 2], shown)
        close(flow._tokens(new), wanted, f"frame {t + 1}")
        flow.observe(carry, new)
        frames = torch.cat([frames, flow._tokens(new)], 1)


def test_action_search(case):
    """The action between two frames, found by three searches on recorded noise."""
    fixture, make, tokens = case
    given, said, c, scalars = fixture.inputs, fixture.tensors, fixture.config, fixture.scalars
    if "ctrl_cand" not in given:
        pytest.skip("recorded for one view")
    flow, x, noise = make(), tokens(given["x"])[:1, :2], tokens(given["sample_noise"])[:1, :1]

    def predicted(actions):
        count = len(actions)
        carry = _Carry(x[:, :1].expand(count, -1, -1, -1), None, False)
        told = torch.stack([actions, given["actions"][0, 1].expand(count, -1)], 1)
        return flow.draw_told(carry, noise.expand(count, -1, -1, -1), told, None)

    def cost(actions):
        return (predicted(actions.flatten(0, 1)) - x[:, 1:]).square().mean((1, 2, 3)).view(actions.shape[:2])

    truth, high = given["actions"][:1, 0], torch.full((c["adim"],), 2.0, dtype=x.dtype)
    with torch.no_grad():
        close(predicted(given["ctrl_cand"]), tokens(said["ctrl_pred"]), "predictions")
        close(cost(given["ctrl_cand"][None])[0], said["ctrl_loss"], "losses")
        rounds = list(given["cem_noise"][:, None])
        cem = cem_search(cost, truth, -high, high, c["search"], candidates=c["ncand"], elites=c["nelite"],
                         rounds=len(rounds), noise=rounds)
        grid = grid_search(cost, truth, -high, high, c["search"][:2], points=4)
    gradient = gradient_search(cost, truth, -high, high, c["search"], steps=4, lr=0.05, behind=True)
    for name, found in (("cem", cem), ("grid", grid), ("grad", gradient)):
        close(found.action[0], said[f"{name}_best_action"], name)
        close(found.cost[0], scalars[f"{name}_best_loss"], f"{name}, loss")


SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}


def test_full_sizes():
    counts = json.loads((ROOT / "parameter_counts.json").read_text())
    for key, wanted in counts.items():
        match = re.fullmatch(r"DiT-(\w+)/\D*(\d+)_p(\d+)_(wide|narrow)|DiT-(\w+)/\D*(\d+)_p(\d+)_(\w+)", key)
        if match is None:
            assert not key.startswith("DiT")
            continue
        size, channels, patch, head = [x for x in match.groups() if x]
        dim, layers, heads = SIZES[size]
        with torch.device("meta"):  # all layers are alike; tests/test_semantic.py builds whole presets
            net = CausalDiT(channels=int(channels), grid=(32, 32), patch_size=int(patch), dim=dim, num_layers=1,
                            num_heads=heads, action_dim=10, head_dim=2048 if head == "wide" else None,
                            learned_null=False)
        layer = sum(p.numel() for part in (net.spatial, net.temporal_blocks) for p in part.parameters())
        assert sum(p.numel() for p in net.parameters()) + (layers - 1) * layer == wanted, key


def table_of(rotation, widths):
    """Upstream's layout: of every axis cosines, then sines."""
    parts = []
    for cos, sin in zip(rotation.cos.split(list(widths), -1), rotation.sin.split(list(widths), -1), strict=True):
        parts += [cos[..., ::2], sin[..., ::2]]
    return torch.cat(parts, -1)


def test_units():
    folder = ROOT / "units"
    if not folder.exists():
        pytest.skip("not recorded")
    said = read(folder / "tensors.npz")
    like = torch.zeros((), dtype=torch.float64)
    for name, table in said.items():
        if match := re.fullmatch(r"rope(\d)d_([\dx]+)_d(\d+)", name):
            sides, dim = [int(n) for n in match[2].split("x")], int(match[3])
            where = torch.meshgrid(*(torch.arange(n) for n in sides), indexing="ij")
            widths = [dim // len(sides)] * len(sides)
            close(table_of(axis_rotation(where, widths, like=like), widths), table, name, 1e-6)  # float32
        elif match := re.fullmatch(r"rope2d_pixel_(\d+)x(\d+)_d(\d+)", name):
            rows, columns, dim = map(int, match.groups())
            where = torch.meshgrid(*(pixel_places(n, like) for n in (rows, columns)), indexing="ij")
            rotation = axis_rotation(where, [dim // 2] * 2, like=like, rates=pixel_rates)
            close(table_of(rotation, [dim // 2] * 2), table, name, 1e-4)  # float32 angles of up to 128 pi
        elif match := re.fullmatch(r"rope_mv_(\d+)x(\d+)_V(\d+)_d(\d+)", name):
            rows, columns, views, dim = map(int, match.groups())
            where = torch.meshgrid(torch.arange(rows), torch.arange(columns), torch.arange(views), indexing="ij")
            widths = view_widths(dim)
            close(table_of(axis_rotation(where, widths, like=like), widths), table, name, 1e-6)
            packed = torch.arange(columns * views)
            column, view = views_by_mistake(packed % columns, packed // columns, columns, views)
            turned = axis_rotation([torch.zeros_like(packed), column, view], widths, like=like)
            close(table_of(turned, widths).view(columns, views, -1), table[0], name, 1e-6)
        elif match := re.fullmatch(r"block_causal_(\d+)x(\d+)", name):
            assert torch.equal(frames_mask(int(match[1]), int(match[2]), 0, "cpu"), table)
        elif match := re.fullmatch(r"ddim_steps_(\d+)", name):
            assert torch.equal(StepNoise.stops(int(match[1])), table)
        elif match := re.fullmatch(r"pyramid_S(\d+)_h(\d+)", name):
            assert torch.equal(StepNoise.pyramid(int(match[1]), int(match[2])), table)
        elif match := re.fullmatch(r"time_shift_([\d.]+)", name):
            shifts = {f"{shift_of(256, n):.3f}": shift_of(256, n) for n in (16, 96, 1024)}
            close(shifted(said["u"], shifts[match[1]]), table, name)
    close(sigmoid_schedule(), said["alphas_cumprod_f64"], "DDPM's schedule")
    normal = torch.special.ndtri(said["u"])
    for name in ("logitnormal_full", "logitnormal_shifted"):  # mean and deviation are not in the records: read off
        logits = said[name].logit()
        design = torch.stack([torch.ones_like(normal), normal], 1)
        mean, std = torch.linalg.lstsq(design, logits[:, None]).solution.flatten().tolist()
        close(logit_normal(said["u"], round(mean, 6), round(std, 6)), said[name], name)
    close(logit_normal(said["u"], low=0.2, high=0.7), said["logitnormal_trunc"], "cut times")
    for name in ("q2", "mv_q"):
        q, turned = said[name], said[f"{name}_rot"]
        row, column = torch.meshgrid(*(torch.arange(n) for n in q.shape[2:4]), indexing="ij")
        if name == "q2":
            rotation = axis_rotation([row, column], [q.shape[-1] // 2] * 2, like=q)
        else:  # of two views
            rotation = axis_rotation([row, column // 2, column % 2], view_widths(q.shape[-1]), like=q)
        close(rotation(q), turned, name, 1e-6)
