"""PSNR, SSIM and LPIPS agree with piqa and with their formulas; weights are never replaced silently."""

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from worldkit.compat import import_piqa, import_torchvision
from worldkit.errors import CheckpointError, ShapeError
from worldkit.metrics import VGGPerceptual, load_lpips, lpips, psnr, ssim
from worldkit.metrics.perceptual import BACKBONE_URL, HEADS_URL, random_state_dicts


@pytest.fixture(scope="module")
def states():
    return random_state_dicts(1)


@pytest.fixture(scope="module")
def network(states):
    return VGGPerceptual(*states)


def images(seed, b=3, size=24, c=3):
    return torch.rand(b, c, size, size, generator=torch.Generator().manual_seed(seed))


def test_import_repair_in_a_fresh_process_leaves_working_models():
    code = (
        "from worldkit.compat import import_piqa, import_torchvision\n"
        "tv = import_torchvision(); assert import_torchvision() is tv\n"
        "tv.models.resnet18; import_piqa().LPIPS; import piqa, torchvision\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_psnr_is_the_formula():
    x, y = images(0), images(1)
    expected = -10 * torch.log10((x - y).square().mean((1, 2, 3)) + 1e-8)
    torch.testing.assert_close(psnr(x, y), expected)


def test_psnr_of_identical_images_is_80_db():
    torch.testing.assert_close(psnr(images(0), images(0)), torch.full((3,), 80.0))


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_piqa(channels):
    x, y = images(0, c=channels), images(1, c=channels)
    expected = import_piqa().SSIM(n_channels=channels, reduction="none")(x, y)
    assert torch.equal(ssim(x, y), expected)
    torch.testing.assert_close(ssim(x, x), torch.ones(3))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_bad_images_are_named(metric):
    x = images(0)
    with pytest.raises(ShapeError, match="y must be"):
        metric(x, x[:2])
    with pytest.raises(ShapeError, match=r"x .*\[0, 1\].*divide by 255"):
        metric(x * 255, x)
    with pytest.raises(ShapeError, match="y must be float"):
        metric(x, (x * 255).byte())
    with pytest.raises(ShapeError, match="4 axes"):
        metric(x[None], x[None])
    with pytest.raises(ShapeError):
        metric(x, x * math.nan)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_count_in_float32(dtype, network):
    x, y = images(0).to(dtype), images(1).to(dtype)
    for metric in (psnr, ssim, lambda a, b: lpips(a, b, weights=network), network):
        assert torch.equal(metric(x, y), metric(x.float(), y.float()))


def test_ssim_names_its_smallest_image():
    with pytest.raises(ShapeError, match="at least 11 x 11"):
        ssim(images(0, size=10), images(1, size=10))


def piqa_lpips(monkeypatch, states):
    """piqa's LPIPS with given weights instead of its two downloads."""
    piqa, vgg = import_piqa(), import_torchvision().models.vgg
    backbone, heads = states

    def with_weights(weights=None):  # the features only: the classifier has 0.4 GB
        features = vgg.make_layers(vgg.cfgs["D"])
        features.load_state_dict({k.removeprefix("features."): v for k, v in backbone.items()})
        return SimpleNamespace(features=features)

    monkeypatch.setattr(piqa.lpips.torchvision.models, "vgg16", with_weights)
    monkeypatch.setattr(piqa.lpips, "get_weights", lambda network: [w.flatten() for w in heads.values()])
    return piqa.LPIPS(network="vgg", reduction="none")


def test_perceptual_network_is_piqas(monkeypatch, states, network):
    x, y = images(0, b=2, size=40), images(1, b=2, size=40)
    expected = piqa_lpips(monkeypatch, states)(x, y)
    torch.testing.assert_close(network(x, y), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lpips(x, y, weights=network), expected, rtol=1e-5, atol=1e-5)
    assert network(x, x).abs().max() == 0


def test_squared_features_are_what_torchvision_leaves_behind(states, network, monkeypatch):
    """DDLP takes the layers 2, 7, 12, 21 and 30, in whose place torchvision's ReLUs have written theirs."""
    layers, x, y = import_torchvision().models.vgg16().features, images(0, b=2, size=33), images(1, b=2, size=33)
    layers.load_state_dict({k.removeprefix("features."): v for k, v in states[0].items()})

    def taps(image):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        hidden, kept = (image - mean) / std, []
        for index, layer in enumerate(layers):
            hidden = layer(hidden)
            kept += [hidden] if index in (2, 7, 12, 21, 30) else []
        return kept

    with torch.no_grad():
        expected = sum((a - b).square().flatten(1).sum(1) for a, b in zip(taps(x), taps(y), strict=True))
    torch.testing.assert_close(network.squared_features(x, y), expected, rtol=1e-4, atol=0)
    monkeypatch.setattr("worldkit.metrics.perceptual._CPU_LIMIT", 1)
    torch.testing.assert_close(network.squared_features(x, y), expected, rtol=1e-4, atol=0)
    x.requires_grad_(), y.requires_grad_()
    network.squared_features(x, y).sum().backward()
    assert x.grad is None and y.grad.abs().max() > 0
    with pytest.raises(ShapeError, match="VGG loss of DDLP needs images of at least 32 x 32 pixels, got 24 x 24"):
        network.squared_features(images(0), images(1))


def test_chunks_do_not_change_the_distance(monkeypatch, network):
    x, y = images(0, size=32), images(1, size=32)
    whole = network(x, y)
    monkeypatch.setattr("worldkit.metrics.perceptual._CPU_LIMIT", 1)
    torch.testing.assert_close(network(x, y), whole)


def test_gradient_reaches_only_the_second_image(network):
    x, y = images(0, b=1, size=16).requires_grad_(), images(1, b=1, size=16).requires_grad_()
    network(x, y).sum().backward()
    assert x.grad is None and y.grad.isfinite().all() and y.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_gradient_at_black_images_is_finite(network):
    y = torch.zeros(1, 3, 16, 16, requires_grad=True)
    network(torch.zeros(1, 3, 16, 16), y).sum().backward()
    assert y.grad.isfinite().all()


def test_weights_stay_out_of_checkpoints(network):
    holder = torch.nn.Sequential(torch.nn.Linear(2, 2), network)
    assert set(holder.state_dict()) == {"0.weight", "0.bias"}
    before = network.head0.clone()
    holder.load_state_dict(holder.state_dict(), strict=True)
    assert torch.equal(network.head0, before)


def test_files_round_trip(tmp_path, states, network):
    backbone, heads = states
    torch.save(backbone | {"classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg16.pth")
    torch.save(heads, tmp_path / "vgg.pth")
    x, y = images(0, b=1, size=16), images(1, b=1, size=16)
    for loaded in (
        VGGPerceptual.from_files(tmp_path / "vgg16.pth", tmp_path / "vgg.pth"),
        load_lpips(str(tmp_path / "vgg16.pth"), str(tmp_path / "vgg.pth")),
    ):
        assert torch.equal(loaded(x, y), network(x, y))


def test_missing_damaged_and_swapped_files_are_named(tmp_path, states):
    torch.save(states[1], tmp_path / "heads.pth")
    with pytest.raises(CheckpointError, match=r"absent\.pth does not exist.*load_lpips\(backbone, heads\)") as error:
        load_lpips(tmp_path / "absent.pth", tmp_path / "heads.pth")
    assert BACKBONE_URL in str(error.value)
    with pytest.raises(CheckpointError, match="no tensor 'features.0.weight'"):
        load_lpips(tmp_path / "heads.pth", tmp_path / "heads.pth")
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_lpips(tmp_path / "broken.pth", tmp_path / "heads.pth")


def test_code_in_a_weight_file_does_not_run(tmp_path):
    torch.save({"features.0.weight": print}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_lpips(tmp_path / "evil.pth", tmp_path / "evil.pth")


def test_wrong_shape_is_named(states):
    backbone, heads = states
    with pytest.raises(CheckpointError, match=r"lin0\.model\.1\.weight.*\[1, 64, 1, 1\]"):
        VGGPerceptual(backbone, heads | {"lin0.model.1.weight": torch.zeros(1, 9, 1, 1)})


def test_offline_without_files_says_what_to_do(monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(CheckpointError, match=r"vgg16-397923af\.pth.*Name or service.*load_lpips\(b") as error:
        lpips(images(0), images(1))
    assert BACKBONE_URL in str(error.value) and HEADS_URL not in str(error.value)


def test_download_cache_is_used(monkeypatch, tmp_path, states, network):
    (tmp_path / "checkpoints").mkdir()
    torch.save(states[0], tmp_path / "checkpoints" / "vgg16-397923af.pth")
    torch.save(states[1], tmp_path / "checkpoints" / "lpips-v0.1-vgg.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert torch.equal(load_lpips().head4, network.head4)
