"""Pictures keep their pixels; files appear whole or not at all."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from worldkit.errors import ShapeError
from worldkit.files import write_atomically
from worldkit.viz import gif_bytes, grid, png_bytes, save_gif, save_png, to_uint8
from worldkit.viz.images import border, enlarge, text_block


def frames(t=4, size=16):
    return torch.randint(0, 256, (t, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_to_uint8_is_the_inverse_of_division():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(values.float() / 255), values)
    assert torch.equal(to_uint8(values), values)


@pytest.mark.parametrize("bad", [torch.full((2,), 200.0), torch.full((2,), float("nan")), torch.zeros(2).long()])
def test_wrong_units_are_refused(bad):
    with pytest.raises(ShapeError, match="image must be"):
        to_uint8(bad)


def test_png_round_trip(tmp_path):
    picture = frames()[0]
    save_png(picture, tmp_path / "new" / "a.png")
    loaded = torch.from_numpy(np.array(Image.open(tmp_path / "new" / "a.png"))).permute(2, 0, 1)
    assert torch.equal(loaded, picture)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]
    assert png_bytes(picture.float() / 255) == png_bytes(picture)


def test_gif_frames_colours_and_speed(tmp_path):
    solid = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250]], dtype=torch.uint8)
    video = solid[:, :, None, None].expand(3, 3, 8, 8)
    save_gif(video, tmp_path / "a.gif", fps=5)
    image = Image.open(tmp_path / "a.gif")
    assert image.n_frames == 3 and image.info["duration"] == 200 and image.info["loop"] == 0
    for t in range(3):
        image.seek(t)
        shown = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).int()
        assert (shown - video[t].int()).abs().max() <= 4


def test_gif_keeps_frames_that_repeat():
    video = frames(2)[[0, 0, 0, 1]]
    image, shown = Image.open(io.BytesIO(gif_bytes(video, fps=10))), []
    for t in range(image.n_frames):
        image.seek(t)
        shown.append((image.info["duration"], np.array(image.convert("RGB"))))
    assert [duration for duration, _ in shown] == [100] * 4
    assert (shown[0][1] == shown[2][1]).all() and (shown[2][1] != shown[3][1]).any()


@pytest.mark.parametrize("fps", [0, -1, 60])
def test_gif_speed_is_checked(fps):
    with pytest.raises(ShapeError, match="fps of a GIF"):
        gif_bytes(frames(), fps=fps)
    with pytest.raises(ShapeError, match="frames is empty"):
        gif_bytes(frames(0))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_grid_places_row_by_row():
    pictures = frames(5, 8)
    out = grid(pictures, 3, gap=2, color=(1, 2, 3))
    assert torch.equal(out[:, 10:18, 10:18], pictures[4])
    assert out[:, 0, 8].tolist() == [1, 2, 3] and out[:, 17, 27].tolist() == [1, 2, 3]
    with pytest.raises(ShapeError, match="columns >= 1"):
        grid(pictures[:0], 3)


def test_enlarge_repeats_pixels():
    small = frames(1, 5)
    big, factor = enlarge(small, 16)
    assert factor == 4 and big.shape[-2:] == (20, 20)
    assert torch.equal(big[..., ::4, ::4], small) and torch.equal(big[..., 3::4, 3::4], small)
    assert enlarge(small, 3)[1] == 1


def test_border_keeps_the_picture():
    pictures = frames(2, 8)
    out = border(pictures, (9, 8, 7), 3)
    assert torch.equal(out[..., 3:-3, 3:-3], pictures)
    assert out[0, :, 0, 0].tolist() == out[1, :, -1, 5].tolist() == [9, 8, 7]


@pytest.mark.parametrize("text", ["", "short", "a " * 200, "x" * 500, "two\nlines"])
def test_text_fills_its_block(text):
    block = text_block(text, 40, 100)
    assert block.shape == (3, 40, 100)
    assert (block < 200).any() == bool(text)
