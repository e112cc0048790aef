"""Frechet distances against scipy's matrix root, with small feature networks made here; the real ones are not shipped.

The stand-ins take the calls of the real files: StyleGAN-V's I3D and StyleGAN2-ADA's Inception-v3.
"""

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldkit.errors import CheckpointError, ShapeError
from worldkit.metrics import (
    ImageFeatures,
    VideoFeatures,
    fid,
    frechet_distance,
    fvd,
    load_i3d,
    load_inception,
)


class SmallI3D(nn.Module):
    """Mean and spread over parts of a clip after the rescaling and resizing that the real network does by itself."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = True) -> Tensor:
        x = x.float()
        if resize:
            frames = x.transpose(1, 2).flatten(0, 1)
            frames = F.interpolate(frames, size=[224, 224], mode="bilinear", align_corners=False)
            x = frames.unflatten(0, [x.shape[0], x.shape[2]]).transpose(1, 2)
        if rescale:
            x = x / 255.0 * 2.0 - 1.0
        return torch.cat([x.mean(dim=[2, 3, 4]), x.std(dim=[2, 3, 4])], 1)


class SmallInception(nn.Module):
    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        assert x.dtype == torch.uint8 and return_features
        x = x.float() / 255.0
        return torch.cat([x.mean(dim=[2, 3]), x.std(dim=[2, 3])], 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    for name, module in (("i3d.pt", SmallI3D()), ("inception.pt", SmallInception())):
        torch.jit.script(module).save(str(folder / name))
    (folder / "broken.pt").write_bytes(b"no archive")
    return folder


def by_scipy(real, generated, ddof):
    """The formula of the papers, with scipy's root of the product of the covariances."""
    a, b = real.numpy(), generated.numpy()
    first, second = (np.cov(x, rowvar=False, ddof=ddof) for x in (a, b))
    root = scipy.linalg.sqrtm(first @ second).real
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first + second - 2 * root)


def features(seed, n, d):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + seed


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("n, m", [(60, 40), (40, 40)])
def test_frechet_distance_is_the_formula(n, m, ddof):
    real, generated = features(0, n, 6), features(1, m, 6)
    assert frechet_distance(real, generated, unbiased=bool(ddof)) == pytest.approx(by_scipy(real, generated, ddof))


def test_fewer_samples_than_features():
    """The formula by eigenvalues: scipy's root is unreliable for these singular products."""
    real, generated = features(0, 5, 12), features(1, 7, 12)
    a, b = (np.cov(x.numpy(), rowvar=False, ddof=0) for x in (real, generated))
    root = np.sqrt(np.clip(np.linalg.eigvals(a @ b).real, 0, None)).sum()
    expected = (real.mean(0) - generated.mean(0)).square().sum().item() + np.trace(a) + np.trace(b) - 2 * root
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)


def clips(seed, n=12, t=10, side=16):
    generator = torch.Generator().manual_seed(seed)
    bright = torch.rand(n, 1, 3, 1, 1, generator=generator)
    return (torch.rand(n, t, 3, side, side, generator=generator) * bright * (0.5 + 0.5 * (seed == 0)))


def test_fvd_as_stylegan_v_calls_it(files):
    network, real, generated = load_i3d(files / "i3d.pt"), clips(0), clips(1)
    found = [SmallI3D()((x * 255).round().to(torch.uint8).transpose(1, 2)) for x in (real, generated)]
    expected = by_scipy(*(f.double() for f in found), 0)
    assert fvd(real, generated, network) == pytest.approx(expected, rel=1e-4)
    assert fvd((real * 255).round().to(torch.uint8), generated, network) == pytest.approx(expected, rel=1e-4)


def test_fvd_as_lpwm_calls_it(files):
    """Float frames, short side to 224, centre cut, [-1, 1]; covariance over n - 1."""
    network, real, generated = load_i3d(files / "i3d.pt"), clips(0)[..., :12], clips(1)[..., :12]  # 16 x 12
    found = []
    for video in (real, generated):
        frames = F.interpolate(video.flatten(0, 1), size=(299, 224), mode="bilinear", align_corners=False)
        cut = (frames[..., 37:37 + 224, :] - 0.5) * 2
        found.append(SmallI3D()(cut.unflatten(0, (12, 10)).transpose(1, 2), rescale=False, resize=False).double())
    assert fvd(real, generated, network, variant="lpwm") == pytest.approx(by_scipy(*found, 1), rel=1e-4)


def test_fid(files):
    real, generated = clips(0).flatten(0, 1), clips(1).flatten(0, 1)
    found = [SmallInception()((x * 255).round().to(torch.uint8), return_features=True) for x in (real, generated)]
    network = load_inception(files / "inception.pt")
    assert fid(real, generated, network) == pytest.approx(by_scipy(*(f.double() for f in found), 0), rel=1e-4)


def test_batches_do_not_change_features(files):
    video = clips(0)
    extract = VideoFeatures(load_i3d(files / "i3d.pt"))
    torch.testing.assert_close(extract(video, batch_size=5), extract(video, batch_size=12))
    images = ImageFeatures(load_inception(files / "inception.pt"))
    torch.testing.assert_close(images(video[:, 0], batch_size=5), images(video[:, 0]))


@pytest.mark.parametrize("load, name, option, url", [
    (load_i3d, "i3d_torchscript.pt", "--i3d", "dropbox.com"),
    (load_inception, "inception-2015-12-05.pt", "--inception", "nvlabs"),
])
def test_missing_weights_say_where_to_get_them(load, name, option, url, files):
    for path in (None, "no/such/file.pt", files / "broken.pt", "hub:nobody"):
        with pytest.raises(CheckpointError) as error:
            load(path)
        assert all(text in str(error.value) for text in (name, option, url))


def test_faults_are_named(files):
    network = load_i3d(files / "i3d.pt")
    with pytest.raises(ShapeError, match="at least 10 frames, got 9"):
        fvd(clips(0, t=9), clips(1, t=9), network)
    with pytest.raises(ShapeError, match="axis t is 10"):
        fvd(clips(0, t=11), clips(1), network)
    with pytest.raises(ShapeError, match="two samples or more, got 1 generated"):
        fvd(clips(0), clips(1, n=1), network)
    with pytest.raises(ShapeError, match="variant"):
        VideoFeatures(network, variant="videogpt")
