"""Keypoint proposals in float32 against float64."""

import pytest
import torch
from torch import nn

from worldkit.nn.conv import ConvConfig, ConvEncoder
from worldkit.nn.keypoints import PatchKeypoints


@pytest.mark.parametrize("sharp", [1.0, 30.0, 300.0])
def test_variances_of_sharp_proposals(sharp):
    """Softmaxes with nearly all weight on one place, at the border as elsewhere: variances from 1e-6 to 1."""
    torch.manual_seed(0)
    cnn = ConvEncoder(ConvConfig(base_channels=8, channel_multipliers=(1, 2)), outputs=2, padding="replicate")
    net = PatchKeypoints(cnn, size=(32, 32), patch_size=16, per_patch=2)
    nn.init.normal_(net.cnn.conv_out.weight, std=0.02 * sharp)
    image = torch.rand(8, 3, 32, 32)
    with torch.no_grad():
        places, spread = net(image)
        want_places, want = net.double()(image.double())
    torch.testing.assert_close(places.double(), want_places, rtol=0, atol=1e-3 * sharp / 300)
    away = (spread[..., :2].log() - want[..., :2].log()).abs().max().item()
    assert away < 1e-6 * sharp
