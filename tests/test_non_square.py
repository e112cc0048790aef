"""Models whose frames are not square: they learn, are saved, and predict; sizes that cannot be are refused."""

import numpy as np
import pytest
import torch

from worldkit import create_model
from worldkit.batch import Batch
from worldkit.data import write_video
from worldkit.errors import ConfigError
from worldkit.storage.hub import load_folder
from worldkit.training.recipes import open_clips, train

HEIGHT, WIDTH = 24, 32
MODELS = {
    "lpwm-balls-mini": {},
    "savi-balls-mini": {"decoder.map_size": 6},
    "dvae-balls-mini": {},
}


def build(name, height=HEIGHT, width=WIDTH, **options):
    return create_model(name, **{"obs.height": height, "obs.width": width, **MODELS[name], **options})


def scene(count=12, height=HEIGHT, width=WIDTH, seed=0):
    """A square that moves over a plain ground, ``[2, T, 3, H, W]`` uint8."""
    video = torch.full((2, count, 3, height, width), 40, dtype=torch.uint8)
    for clip in range(2):
        for t in range(count):
            x, y = (3 + 2 * t + 7 * clip) % (width - 8), (5 + 9 * clip) % (height - 8)
            video[clip, t, :, y : y + 8, x : x + 8] = torch.tensor([220, 60, 30 + 150 * clip])[:, None, None]
    return video


@pytest.mark.parametrize("shape", [(24, 32), (32, 24)])
@pytest.mark.parametrize("name", MODELS)
def test_it_learns_saves_and_predicts(tmp_path, name, shape):
    torch.manual_seed(0)
    options = {"decoder.map_size": 8} if name.startswith("savi") and shape[0] == 32 else {}
    model = build(name, *shape, **options)
    batch = Batch(video=scene(model.clip_length, *shape))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for step in range(12):
        optimizer.zero_grad()
        loss = model.loss(batch, step).total
        loss.backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.8 * losses[0]
    model = model.eval().requires_grad_(False)
    drawn = model.decode(model.encode(batch.video), masks=True)
    assert drawn.video.shape == batch.video.shape
    assert drawn.masks is None or drawn.masks.shape[-2:] == shape
    model.save_pretrained(tmp_path / "model")
    again = load_folder(tmp_path / "model").eval()
    if model.dynamics is not None:
        one, two = (m.rollout(batch.video[:, :2], 2, deterministic=True).video for m in (model, again))
        assert one.shape[-2:] == shape
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4)


def test_a_film_of_that_shape_is_used_whole(tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))
    frames = np.random.default_rng(0).integers(0, 255, (120, 2 * HEIGHT, 2 * WIDTH, 3), np.uint8)
    path = str(write_video(tmp_path / "a.mp4", frames))
    obs = {"obs.height": HEIGHT, "obs.width": WIDTH}
    model, result = train("lpwm-balls-mini", path, run=tmp_path / "run", overrides=obs, show_progress=False,
                          train_overrides={"steps": 1, "batch_size": 2})
    clips = open_clips(model, path, split="train", num_frames=2)
    assert result.step == 1 and str(clips.source.fitting) == "48x64 -> 24x32: the whole picture, scaled"
    assert not clips.source.fitting.matters


def test_particles_are_square_in_pixels():
    """Boxes begin as wide as they are high, and patches lie in rows of the image's shape."""
    encoder = build("lpwm-balls-mini").encoder
    sides = torch.tensor([HEIGHT, WIDTH])
    boxes = torch.sigmoid(torch.tensor(encoder.attributes.scale_anchor)) * sides
    assert torch.allclose(boxes, torch.full((2,), 0.25 * WIDTH), rtol=1e-3)
    centres = encoder.keypoints.centres
    assert len(centres) == (HEIGHT // 8) * (WIDTH // 8) and centres[1, 0] == centres[0, 0] < centres[-1, 0] < 1


@pytest.mark.parametrize("name, options, message", [
    ("lpwm-balls-mini", {"obs.width": 36}, "image size 24 x 36 does not divide by encoder.patch_size 8; .* 4, 6, 12"),
    ("lpwm-balls-mini", {"obs.height": 8, "obs.width": 64}, "glimpse of 16 x 16 pixels .* no part of an image of 8 x "),
    ("savi-balls-mini", {"decoder.map_size": 8}, "map_size 8 does not grow to 24 x 32 .*: 12, 6, 3"),
    ("dvae-balls-mini", {"obs.width": 36}, "24 x 36 does not divide into patches"),
])
def test_sizes_that_cannot_be_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build(name, **options)
