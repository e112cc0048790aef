"""Encoder and decoder against every golden output of the official DLPv2 / DDLP code. Skipped without the files."""

import json
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from einops import rearrange

from worldkit.assembly import build
from worldkit.config import ObsSpec, WorldModelConfig
from worldkit.convert.ddlp import canonical_key
from worldkit.convert.ddlp_perception import BUFFERS, is_video, perception_config, perception_target
from worldkit.convert.state import fill
from worldkit.distributions import MEANS, Beta, Normal, Sampler
from worldkit.encoders.tracking_parts import Anchors
from worldkit.nn.composite import blend, composite, particle_masks
from worldkit.nn.correlation import correlation_map
from worldkit.nn.glimpse import box_mask, crop, paste
from worldkit.nn.keypoints import PatchKeypoints

from .ddlp_files import MISSING, ROOT, state_of

FOLDERS = sorted(p.parent.name for p in ROOT.glob("*/config.json") if "enc_channels" in p.read_text()) if ROOT.exists(
    ) else []
EXACT, SINGLE = 1e-8, 1e-3  # float64; float32, in which upstream itself is 5e-4 away from its float64
REAL = {"real_obj3d128": 4e-3}  # upstream there is 3e-3 away from our float64, from which our float32 is 3e-4 away

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)


@cache
def case(name, dtype=torch.float32):
    folder = ROOT / name
    config = json.loads((folder / "config.json").read_text())
    out = dict(np.load(folder / "tensors.npz"))
    exact = folder / "tensors_f64.npz"
    stored = dict(np.load(exact)) if dtype == torch.float64 and exact.exists() else out
    want = {name: torch.as_tensor(value) for name, value in stored.items()}
    side = config["image_size"]
    model = build(WorldModelConfig.parse({
        "obs": {"height": side, "width": side, "channels": config["ch"]}, "timestep_horizon": 2,
        "objective": "reconstruction", **perception_config(config),
    }))
    state = {k: v for k, v in state_of(name).items() if not (BUFFERS.search(k) or k.startswith("dyn_module."))}
    fill(model, state, canonical=canonical_key, target_of=lambda key: perception_target(key, model))
    video = torch.as_tensor(out["x"]) if "x" in out else torch.as_tensor(out["x_u8"]).float() / 255
    video = video if video.dim() == 5 else video[:, None]
    return SimpleNamespace(name=name, config=config, model=model.to(dtype).eval(), video=video.to(dtype), want=want,
                           prefix="" if name.startswith("real_") else "fwd_", out=out)


def off(ours, theirs):
    """Largest difference, relative where numbers are above 1."""
    assert ours.shape == theirs.shape, (tuple(ours.shape), tuple(theirs.shape))
    return ((ours - theirs).abs() / theirs.abs().clamp(min=1)).max().item()


def found(c, encoding, decoded):
    """Everything that encoder and decoder give, by upstream's names and in upstream's shapes."""
    params, z, aux = encoding.posterior.params, encoding.latent, encoding.aux

    def frames(x):
        return rearrange(x, "b t ... -> (b t) ...")

    got = {"mu": aux.anchors, "z_base": aux.base, "z": z.position, "kp_p": aux.proposals,
           "logvar": torch.zeros_like(aux.base), "cropped_objects_original": aux.glimpses,
           "cropped_objects": aux.glimpses, "obj_on": z.transparency[..., 0]}
    missing = z.shape[1] - aux.proposals.shape[1]
    got["kp_p"] = torch.cat([aux.proposals, aux.proposals[:, -1:].expand(-1, missing, -1, -1)], 1)
    got["mu_offset"], got["logvar_offset"] = Normal.split(aux.offset)
    for ours in ("scale", "depth", "features"):
        got[f"mu_{ours}"], got[f"logvar_{ours}"] = Normal.split(params["particles", ours])
        got[f"z_{ours}"] = getattr(z, ours)
    got["obj_on_a"], got["obj_on_b"] = (x[..., 0] for x in Beta.split(params["particles", "transparency"]))
    got["mu_bg"], got["logvar_bg"] = (x[:, :, 0] for x in Normal.split(params["background", "features"]))
    got["z_bg"] = z.background[:, :, 0]
    got = {name: frames(x) for name, x in got.items()} | {"bg_mask": aux.background_mask}
    got["z_kp_bg"] = torch.zeros(len(got["z"]), 1, 2)
    got["z_offset"] = got["mu_offset"]
    for name, x in (("rec", decoded.video), ("dec_objects_original", decoded.glimpses), ("bg", decoded.background),
                    ("alpha_masks", decoded.masks), ("dec_objects", decoded.foreground)):
        got[name] = frames(x)
    got["rec_first"], got["rec_last"], got["bg_first"] = got["rec"][:1], got["rec"][-1:], got["bg"][:1]
    position = Normal.split(params["particles", "position"])[0]
    torch.testing.assert_close(frames(position), got["z_base"] + got["mu_offset"], rtol=0, atol=1e-6)
    return got


def compare(c, got, prefix, tolerance, but=()):
    names = [k.removeprefix(prefix) for k in c.want if k.startswith(prefix)]
    names = [n for n in names if n not in but and not n.endswith("_dyn") and not n.startswith("roll")]
    unknown = [n for n in names if n not in got]
    assert not unknown, unknown
    wrong = {n: d for n in names if not (d := off(got[n], c.want[prefix + n])) <= tolerance}
    assert not wrong, wrong
    return len(names)


def side(name):
    return json.loads((ROOT / name / "config.json").read_text())["image_size"]


def large_are_slow(names):
    """Names as parameters; images of more than 64 pixels take seconds."""
    return [pytest.param(name, marks=pytest.mark.slow if side(name) > 64 else ()) for name in names]


@cache
@torch.no_grad()
def seen(name, dtype=torch.float32):
    """What encoder and decoder give for a folder's video."""
    c = case(name, dtype)
    encoding = c.model.perceive(c.video)
    return found(c, encoding, c.model.decode(encoding.latent, masks=True))


@torch.no_grad()
@pytest.mark.parametrize("name", large_are_slow(n for n in FOLDERS if n.startswith("real_")))
def test_real_sizes_in_single_precision_are_near_double(name):
    """What upstream's single precision cannot tell: how much of the difference is ours."""
    runs = []
    for dtype in (torch.float32, torch.float64):
        c = case(name, dtype)
        encoding = c.model.perceive(c.video[:, :6])
        runs.append([*encoding.posterior.params.values(), *encoding.latent.values.values()])
    assert max(off(a.double(), b) for a, b in zip(*runs, strict=True)) < 5e-4


def exact(name):
    return (ROOT / name / "tensors_f64.npz").exists()


@torch.no_grad()
@pytest.mark.parametrize("name", FOLDERS)
def test_forward(name):
    c, got = case(name), seen(name)
    assert compare(c, got, c.prefix, REAL.get(name, SINGLE), but=("x", "x_u8")) >= 25


@torch.no_grad()
@pytest.mark.parametrize("name", [n for n in FOLDERS if exact(n)])
def test_forward_in_double_precision(name):
    c, got = case(name, torch.float64), seen(name, torch.float64)
    assert compare(c, got, "fwd_", EXACT) >= 20


@torch.no_grad()
@pytest.mark.parametrize("name", FOLDERS)
def test_encode_and_decode(name):
    """Outputs of upstream's ``encode_all`` and ``decode_all``, where there are any; all proposals before the filter."""
    c, got = case(name), dict(seen(name))
    if any(k.startswith("enc_") for k in c.want):
        compare(c, got, "enc_", SINGLE)
    if any(k.startswith("dec_") for k in c.want):
        got |= {"dec_objects": got["dec_objects_original"], "dec_objects_trans": got["dec_objects"]}
        compare(c, got, "dec_", SINGLE)
    if "prior_kp_all" in c.want:
        places, variance = c.model.encoder.start.keypoints(rearrange(c.video, "b t c h w -> (b t) c h w"))
        assert off(places, c.want["prior_kp_all"][:, :, 0]) < 1e-5
        assert off(variance, c.want["prior_var_all"][:, :, 0]) < 1e-5


class Replay(Sampler):
    """Upstream's noise, frame by frame: position, one that nobody uses, scale, depth, features; last the background."""

    NUMBERS = {"position": 0, "scale": 2, "depth": 3, "features": 4}

    def __init__(self, c):
        super().__init__()
        noise = [torch.as_tensor(c.out[k]).to(c.video) for k in sorted(k for k in c.out if k.startswith("eps_"))]
        self.frames, self.last = [noise[i : i + 5] for i in range(0, len(noise) - 1, 5)], noise[-1]
        self.calls = {"position": 0, "scale": 0}

    def normal(self, name, mean, logvar):
        if name == "background":
            eps = self.last
        elif name in self.calls:
            eps = self.frames[self.calls[name]][self.NUMBERS[name]]
            self.calls[name] += 1
        else:
            eps = torch.stack([frame[self.NUMBERS[name]] for frame in self.frames], 1)
        return mean + eps.reshape(mean.shape) * torch.exp(0.5 * logvar)

    def beta(self, name, a, b):
        return a / (a + b)


@torch.no_grad()
@pytest.mark.parametrize("name", [n for n in FOLDERS if exact(n)])
def test_sampled(name):
    c = case(name)
    encoding = c.model.encoder(c.video, sampler=Replay(c))
    got = found(c, encoding, c.model.decode(encoding.latent, masks=True))
    assert compare(c, got, "smp_", SINGLE) >= 10


class InOrder(Sampler):
    """Means, and proposals in the order of numbers given."""

    def __init__(self, order):
        super().__init__(deterministic=True)
        self.order = order

    def uniform(self, name, like):
        return self.order.to(like).expand_as(like)


def warm(c, model, order=None):
    sampler = MEANS if order is None else InOrder(order)
    encoding = model.encoder(c.video, sampler=sampler, stage="warmup")
    return found(c, encoding, model.decoder(encoding.latent, masks=True, stage="warmup", sampler=MEANS))


@torch.no_grad()
@pytest.mark.parametrize("name", [n for n in FOLDERS if exact(n)])
def test_warmup(name):
    c = case(name)
    got = warm(c, c.model)
    if not (c.config.get("use_tracking") and not is_video(c.config)):
        compare(c, got, "warm_", SINGLE)
        return
    # a DLPv2 that tracks starts from proposals at random while it warms up: which they were, the places tell
    start = rearrange(c.want["warm_z"] - c.want["warm_mu_offset"], "(b t) k d -> b t k d", t=c.video.shape[1])[:, 0]
    model = randomly(c)
    order = permutation(model, c.video, model.encoder.start.keypoints.num_proposals, start)
    compare(c, warm(c, model, order), "warm_", SINGLE)


def randomly(c):
    """The same model, with proposals selected at random."""
    config = c.model.config.to_dict()
    config["encoder"]["select"] = "random"
    model = build(WorldModelConfig.parse(config)).eval()
    model.load_state_dict(c.model.state_dict())
    return model


def permutation(model, video, count, refined):
    """Numbers that sort proposals so that the first of them, refined, lie where upstream's particles did."""
    kept = refined.shape[1]
    order, encoder = torch.full((count,), float(count)), model.encoder
    for first in range(0, count, kept):  # some at a time
        ranks = torch.roll(torch.arange(float(count)), first)
        base = encoder(video[:, :1], sampler=InOrder(ranks), stage="warmup").aux.base[:, 0]
        for j, proposal in enumerate(ranks.argsort()[:kept].tolist()):
            near = (base[:, j, None] - refined).abs().amax((0, 2))
            if near.min() < 1e-4:
                order[proposal] = near.argmin()
    assert (order < kept).sum() == kept
    return order


@cache
def units():
    return {k: torch.as_tensor(v) for k, v in np.load(ROOT / "units" / "tensors.npz").items()}


@pytest.mark.parametrize("side", [7, 8])
def test_unit_correlation(side):
    u = units()
    image, where, scale = u["x"], u["kp"], u["z_scale"]
    for given, size, want in ((True, scale.sigmoid(), f"corr_P{side}"),
                              (False, torch.tensor(side / image.shape[-1]), f"corr_noprev_noscale_P{side}")):
        want = rearrange(u[want], "(m n) c h w -> m n c h w", m=len(image))
        glimpses = crop(image, where, size, side, corners=True)
        assert off(glimpses, want[:, :, :3]) < 1e-5
        templates = rearrange(u[f"glimpse_prev_P{side}"], "(m n) c h w -> m n c h w", m=len(image))
        fit = correlation_map(glimpses, templates, "batch") if given else torch.zeros_like(glimpses[:, :, :1])
        assert off(fit, want[:, :, 3:]) < SINGLE


def test_unit_pasting_masks_and_stitching():
    u = units()
    patches = rearrange(u["patches"], "(m n) c h w -> m n c h w", m=2)
    size = u["placed"].shape[-2:]
    placed = paste(patches, u["kp"], u["z_scale"].sigmoid(), size, corners=True)
    assert off(rearrange(placed, "m n c h w -> (m n) c h w"), u["placed"]) < 1e-5
    for k in range(u["kp"].shape[1]):
        at = u["kp"][:, k : k + 1]
        square = 1 - box_mask(at, torch.ones_like(at[..., 0]), 8, size, corners=True)
        assert torch.equal(square, u["masks"][:, k])
    opacity, depth = u["stitch_obj_on"], u["stitch_depth"][..., 0]
    colours, rest = blend(placed.clamp(0, 1), opacity, depth)
    assert off(colours, u["stitch_rgb"]) < 1e-5 and off(rest, u["stitch_bgmask"]) < 1e-5
    where = (patches, u["kp"], u["z_scale"].sigmoid(), opacity, depth, size)
    assert 0 <= patches.min() and patches.max() <= 1  # so that nothing was clamped
    assert off(particle_masks(*where, corners=True), u["stitch_alpha"]) < 1e-5
    assert off(composite(*where, corners=True)[0], u["stitch_rgb"]) < 1e-5


def test_unit_proposals():
    u, seen = units(), []

    class Maps(torch.nn.Module):
        def forward(self, patches):
            seen.append(patches)
            return torch.zeros(len(patches), 1, 2, 2)

    net = PatchKeypoints(Maps(), size=(32, 32), patch_size=8, per_patch=1)
    net(u["x"])
    assert torch.equal(seen[0], rearrange(u["patcher"], "m c n h w -> (m n) c h w"))
    assert torch.equal(net.corners, u["patch_idx"].float())
    local, want = u["local_kp"][:, :, 0], u["global_kp"][:, :, 0]
    assert off(net.in_image((local + 1) / 2 * 7 + net.corners), want) < 1e-6
    anchors = Anchors(obs=ObsSpec(height=32, width=32), patch_size=8, select="distance", num_proposals=4,
                      num_particles=2, channels=(8, 8), glimpse=8, width=8, lost_layers=False)
    assert off(-anchors._badness(want, torch.zeros(2, 16, 3), MEANS), u["dist_from_center"]) < 1e-6


class Given(torch.nn.Module):
    """A network that finds what it is told to find."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value


def test_unit_spatial_softmax():
    u = units()
    heat = u["ssm_heatmap"]
    side = heat.shape[-1]
    net = PatchKeypoints(Given(heat), size=(side, side), patch_size=side, per_patch=heat.shape[1])
    places, variance = net(torch.zeros(len(heat), 3, side, side))
    assert off(places, u["ssm_kp"]) < 1e-6 and off(variance, u["ssm_var"]) < 1e-6
