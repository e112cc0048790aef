"""Image DiT: the paper's sizes, the hybrid loss, steps back of a learned width, classes, pictures out of nothing."""

import math

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.cli import main
from worldkit.distributions import MEANS, Sampler
from worldkit.errors import ConfigError, IncompatibleComponentsError
from worldkit.latents import Field, LatentSpec, TokenGroup
from worldkit.nn.diffusion import DDPM, CosineSteps, LinearSteps, denoise, learned_logvar
from worldkit.nn.image_dit import ImageDiT, sincos_2d
from worldkit.priors.dit import DiTPrior, DiTPriorConfig, Guided, _surprise
from worldkit.testing import check_model, check_prior, example_latent, example_spec
from worldkit.testing.examples import small_config
from worldkit.testing.report import shake
from worldkit.training.generation import gaussian_frames

SMALL = {"dim": 16, "num_heads": 2, "num_layers": 2, "steps": 20, "sampling_steps": 4}
PICTURES = {"latent_action": None, "dynamics": None, "encoder": "patch", "prior": "dit", "objective": "first-frames",
            "timestep_horizon": 1}
SPEC = example_spec(kind="patches")


def seeded(seed=0):
    return Sampler(generator=torch.Generator().manual_seed(seed))


def prior(**options):
    torch.manual_seed(0)
    return shake(DiTPrior(DiTPriorConfig(**{**SMALL, **options}), spec=SPEC)).eval()


@pytest.mark.parametrize("options", [
    {}, {"frames": 2, "normalize": "none", "clamp": 1.0, "sampler": "ddim"},
    {"learn_variance": False, "schedule": "cosine", "target": "v", "normalize": "minmax"}])
def test_every_option(options):
    check_prior("dit", spec=SPEC, **options)


def test_views_are_channels():
    check_prior("dit", spec=example_spec(2, "patches"))


MILLIONS = {"s-2": 33, "s-4": 33, "s-8": 33, "b-2": 130, "b-4": 130, "b-8": 131, "l-2": 458, "l-4": 458, "l-8": 459,
            "xl-2": 675, "xl-4": 675, "xl-8": 676}  # the paper's table of all models
XL_2 = 675_129_632
"""Parameters of DiT-XL/2 with its fixed positions, as published."""


def size(dim, layers, patch, channels=4, classes=1001):
    """Counted by hand: blocks; patches in and out; step; classes; the last modulation."""
    block = 18 * dim**2 + 15 * dim
    ends = dim * (channels * patch**2 + 1) + (dim + 1) * 2 * channels * patch**2
    return layers * block + ends + (257 + dim + 1) * dim + classes * dim + 2 * dim * (dim + 1)


@pytest.mark.parametrize("name", MILLIONS)
def test_sizes_of_the_paper(name):
    config = wk.create_config(f"dit-{name}").prior
    spec = LatentSpec((TokenGroup("patches", 1024, (Field("features", 4),)),), grid=(32, 32), kind="patches")
    with torch.device("meta"):
        network = DiTPrior(config, spec=spec).network
    count = sum(p.numel() for p in network.parameters())
    assert round(count / 1e6) == MILLIONS[name]
    assert count == size(config.dim, config.num_layers, config.patch_size)
    if name == "xl-2":
        assert count + network.positions.numel() == XL_2


def test_an_untrained_network_answers_zeros_and_its_blocks_change_nothing():
    net = ImageDiT(8, 8, channels=3, outputs=3, patch_size=2, dim=16, num_layers=2, num_heads=2)
    x = torch.randn(2, 16, 16)
    assert not net(torch.randn(2, 3, 8, 8), torch.tensor([3, 9])).any()
    assert torch.equal(net.blocks[0](x, torch.randn(2, 16)), x)


def test_patches_keep_their_places():
    """What a patch's own pixels are told apart by ends up where they are."""
    net = ImageDiT(4, 6, channels=2, outputs=2, patch_size=2, dim=8, num_layers=0, num_heads=2)
    torch.nn.init.eye_(net.embed.weight)
    torch.nn.init.eye_(net.out.weight)
    net.positions.zero_()
    x = torch.randn(1, 2, 4, 6)
    x[:, :, :2, 2:4] = torch.tensor([1.0, -1.0]).repeat(1, 2, 2, 1)  # what the norm leaves as it is
    out = net(x, torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(out[:, :, :2, 2:4], x[:, :, :2, 2:4], atol=1e-4, rtol=0)
    assert len({tuple(row) for row in sincos_2d(3, 5, 16).tolist()}) == 15


def test_the_linear_schedule_is_ddpms():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])
    schedule = LinearSteps(1000)
    for k in (2, 500, 1000):
        now, then = (torch.tensor(n / 1000, dtype=torch.float64) for n in (k, k - 1))
        of_noisy, of_data, variance = schedule.posterior(now, then)
        beta, before, after = betas[k - 1], kept[k - 1], kept[k]
        expected = ((1 - beta).sqrt() * (1 - before) / (1 - after), before.sqrt() * beta / (1 - after),
                    beta * (1 - before) / (1 - after))
        for a, b in zip((of_noisy, of_data, variance), expected, strict=True):
            assert a.item() == pytest.approx(b.item(), rel=1e-10)
        for share, bound in ((0.0, variance), (1.0, beta)):
            found = learned_logvar(schedule, now, then, torch.tensor(share, dtype=torch.float64))
            assert found.item() == pytest.approx(bound.log().item(), rel=1e-9)
    first = learned_logvar(schedule, torch.tensor(0.001), torch.tensor(0.0), torch.tensor(0.0))
    assert first.item() == pytest.approx(schedule.posterior(*torch.tensor([0.002, 0.001]))[2].log().item(), rel=1e-4)
    assert 0 < LinearSteps(100).alpha(torch.tensor(1.0)) < 0.01  # noise alone at the end of any number of steps
    with pytest.raises(ConfigError, match="at least 1 step"):
        LinearSteps(0)


def test_a_learned_share_widens_the_step_back():
    walk, now, then = DDPM(CosineSteps(10)), torch.tensor(0.5), torch.tensor(0.4)
    x, data = torch.zeros(20_000), torch.zeros(20_000)
    narrow, wide = (walk.step(x, data, x, now, then, seeded(), torch.tensor(share)).std() for share in (0.0, 1.0))
    plain = walk.step(x, data, x, now, then, seeded()).std()
    torch.testing.assert_close(narrow, plain, rtol=1e-4, atol=0)
    assert wide > 1.05 * narrow


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_hybrid_loss(schedule, monkeypatch):
    """A network that knows the noise and takes the true variance pays nothing but for the first step."""
    module = prior(schedule=schedule)
    data, noise = torch.rand(6, 3, 4, 4) - 0.5, torch.randn(6, 3, 4, 4)
    number = torch.tensor([1, 2, 5, 10, 19, 20])
    share = torch.zeros_like(data).requires_grad_()
    monkeypatch.setattr(module, "answer", lambda *_: (noise, share))
    terms = module.error(data, number, noise)
    assert not terms["noise"].any()
    torch.testing.assert_close(terms["bound"][1:], torch.zeros(5), atol=2e-4, rtol=0)
    assert terms["bound"][0] > 0
    terms["bound"].sum().backward()
    assert share.grad[:1].any()
    monkeypatch.setattr(module, "answer", lambda *_: (noise, 0.3 + 0 * share))
    assert (module.error(data, number, noise)["bound"][1:3] > 1e-5).all()  # too wide


def test_the_bound_teaches_the_variance_alone():
    module, z = prior().train(), example_latent(SPEC, batch=4, time=1)
    module.loss(z, seeded())["bound"].sum().backward()
    grad = module.network.out.weight.grad.unflatten(0, (2, -1))
    assert not grad[0].any() and grad[1].any()


def test_levels_of_a_pixel_are_all_there_is():
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, std in ((0.1, 0.03), (-1.2, 0.5)):
        total = (-_surprise(levels, torch.tensor(mean).double(), torch.tensor(std).log().double())).exp().sum()
        assert total.item() == pytest.approx(1, abs=1e-6)


def test_classes_and_guidance():
    module = prior(num_classes=3, target="epsilon")
    x, time, label = torch.randn(2, 3, 4, 4), torch.tensor(0.5), torch.tensor([0, 2])
    number = module.schedule.number(time).expand(2)
    plain, told = (module.answer(x, number, given)[0] for given in (None, label))
    assert not torch.allclose(plain, told)
    assert torch.equal(plain, module.answer(x, number, torch.tensor([3, 3]))[0])  # any class
    for guidance, wanted in ((1.0, told), (0.0, plain), (4.0, plain + 4 * (told - plain))):
        module.sampling = Guided("ddim", 4, guidance)
        expected = denoise("epsilon", module.schedule, x, wanted, time)[0]
        torch.testing.assert_close(module.denoised(x, time, label)[0], expected, rtol=1e-4, atol=1e-4)
    drawn = [module.sample(2, seeded(), label=torch.tensor([c, c])).pack() for c in (0, 1)]
    assert not torch.equal(*drawn)
    module, z = prior(num_classes=3, normalize="none"), example_latent(SPEC, batch=64, time=1)
    hidden = module.train().loss(z, seeded(), label=torch.zeros(64, dtype=torch.long))["noise"]
    shown = module.eval().loss(z, seeded(), label=torch.zeros(64, dtype=torch.long))["noise"]
    assert 0 < ((hidden - shown).abs() > 1e-7).sum() < 20  # a tenth of the labels
    for options, given, message in (({}, label, "knows no classes"),
                                    ({"num_classes": 3, "label_dropout": 0.0}, None, "not trained without labels")):
        with pytest.raises(ConfigError, match=message):
            prior(**options).sample(2, MEANS, label=given)


def test_what_does_not_fit_is_refused():
    with pytest.raises(IncompatibleComponentsError, match="patch_size 3 do not divide a grid of 4 x 4.*1, 2, 4"):
        DiTPrior(DiTPriorConfig(**SMALL, patch_size=3), spec=SPEC)
    with pytest.raises(IncompatibleComponentsError, match="prior 'dit' needs a grid.*Priors that fit: diffusion"):
        build(small_config(latent_action=None, prior="dit", objective="first-frames"))
    for options, message in (({"dim": 12, "num_heads": 5}, "multiple of num_heads"),
                             ({"steps": 5, "sampling_steps": 6}, "must not be more than steps")):
        with pytest.raises(ConfigError, match=message):
            DiTPriorConfig.parse(options)


def test_pixels_need_not_come_trained():
    from worldkit.training.recipes import _frozen_parts

    pixels = small_config(**{**PICTURES, "encoder": "identity", "decoder": "identity"}, prior__patch_size=8)
    assert [_frozen_parts(build(config)) for config in (pixels, small_config(**PICTURES))] == [
        [], [("decoder", "patch"), ("encoder", "patch")]]


def test_pictures_without_a_dynamics():
    config = small_config(**PICTURES)
    check_model(config)
    model = build(config)
    drawn = model.sample(3, generator=torch.Generator().manual_seed(0))
    assert drawn.context_video.shape == (3, 1, 3, 32, 32) and drawn.video.shape[:2] == (3, 0)
    assert model.sample(3, decode=False).context_video is None


def test_a_gaussian_has_the_mean_and_covariance_of_the_pixels():
    videos = 0.5 + 0.05 * torch.randn(40, 1, 1, 2, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.4]])
    drawn = gaussian_frames(videos, 40_000, generator=torch.Generator().manual_seed(0)).flatten(1)
    torch.testing.assert_close(drawn.mean(0), videos.flatten(1).mean(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), videos.flatten(1).T.cov(), atol=1e-4, rtol=0)


def test_command(tmp_path, capsys):
    torch.manual_seed(0)
    for name, options in (("pictures", PICTURES), ("judge", {"latent_action": None})):
        build(small_config(**options)).save_pretrained(tmp_path / name)
    few = ["-o", "data.num_episodes=8", "-o", "data.episode_length=3"]
    run = ["sample", str(tmp_path / "pictures"), "--n", "3", "--out", str(tmp_path / "out")]
    assert main([*run, "--data", "balls-32", *few, "--judge", str(tmp_path / "judge"), "--steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "a Gaussian of pixels" in out and "1 frames drawn by the prior, 0 predicted" in out
    assert main([*run, "--judge", str(tmp_path / "judge")]) == 2
    assert "give --data as well" in capsys.readouterr().err
    build(small_config(**PICTURES, obs={"height": 64, "width": 64})).save_pretrained(tmp_path / "judge")
    assert main([*run, "--data", "balls-32", *few, "--judge", str(tmp_path / "judge")]) == 2
    assert "take a judge of the same data" in capsys.readouterr().err


def test_entropy_of_a_bit():
    """The bound is counted in bits."""
    assert math.log(2) == pytest.approx(_surprise(torch.zeros(1), torch.tensor([1 / 255]), torch.tensor([-9.0])).item())
