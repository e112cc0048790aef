"""Borders tell context from prediction; GIF and MP4 hold every frame."""

import pytest
import torch
from PIL import Image

from worldkit.errors import MissingExtraError, ShapeError, WorldkitError
from worldkit.viz import animate_rollout, rollout_strip, save_animation
from worldkit.viz.animation import CONTEXT_COLOR, INFERRED, PREDICTED_COLOR, SAMPLED, TRUTH_COLOR

T, S = 5, 32


def clips():
    return torch.rand(3, T, 3, S, S, generator=torch.Generator().manual_seed(0))


def animation(**options):
    truth, sampled, inferred = clips()
    return animate_rollout(truth, {SAMPLED: sampled, INFERRED: inferred}, context_frames=2, cell=32, **options)


def test_three_panels_with_their_borders():
    out = animation()
    top, step = 40, S + 10 + 8  # below the caption; one bordered panel and its gap
    for t in range(T):
        model = CONTEXT_COLOR if t < 2 else PREDICTED_COLOR
        for panel, color in enumerate((TRUTH_COLOR, model, model)):
            assert tuple(out[t, :, top, 8 + panel * step].tolist()) == color
            left = 8 + panel * step + 5
            expected = (clips()[panel, t] * 255).round().byte()
            assert torch.equal(out[t, :, top + 5 : top + 5 + S, left : left + S], expected)


def test_title_and_goal_add_room():
    plain, titled, goal = animation(), animation(title="push the block"), animation(goal=clips()[0, -1])
    assert titled.shape[2] > plain.shape[2] and titled.shape[3] == plain.shape[3]
    assert goal.shape[3] == plain.shape[3] + S + 10 + 8


def test_a_note_stands_below_in_full():
    words = "what a column means that its name cannot say, " * 4
    plain, noted, wide = animation(), animation(note=words), animation(note=words, goal=clips()[0, -1])
    below = noted[:, :, plain.shape[2]:]
    assert torch.equal(noted[:, :, :plain.shape[2]], plain) and (below < 128).any()
    assert noted.shape[2] > wide.shape[2] > plain.shape[2]  # fewer lines where there is more room
    assert (below < 128).any(3).any(1)[0].nonzero().max() > below.shape[2] - 24  # the last line is used


@pytest.mark.parametrize(("frames", "shown"), [(9, [1, 2, 3, 4]), (3, [1, 2, 4]), (1, [4])])
def test_a_strip_has_the_last_given_frame_and_evenly_spaced_predicted_ones(frames, shown):
    truth, video, _ = clips()
    strip = rollout_strip(truth, {SAMPLED: video}, context_frames=2, frames=frames, cell=32)
    label, top, side, gap = 108, 22, S + 10, 4
    assert strip.shape[1:] == (top + 2 * (side + gap), label + len(shown) * (side + gap))
    for column, t in enumerate(shown):
        left = label + column * (side + gap)
        model = CONTEXT_COLOR if t < 2 else PREDICTED_COLOR
        for row, (clip, color) in enumerate(((truth, TRUTH_COLOR), (video, model))):
            edge = top + row * (side + gap)
            assert tuple(strip[:, edge, left].tolist()) == color
            inside = strip[:, edge + 5 : edge + 5 + S, left + 5 : left + 5 + S]
            assert torch.equal(inside, (clip[t] * 255).round().byte())
    noted = rollout_strip(truth, {SAMPLED: video}, context_frames=2, frames=frames, cell=32, note="what it means")
    assert torch.equal(noted[:, : strip.shape[1]], strip) and (noted[:, strip.shape[1] :] < 128).any()


def test_truth_alone():
    assert animate_rollout(clips()[0], {}, context_frames=0).shape[0] == T


def test_gif_has_every_frame(tmp_path):
    save_animation(animation(), tmp_path / "a.gif", fps=4)
    image = Image.open(tmp_path / "a.gif")
    assert image.n_frames == T and image.info["duration"] == 250


@pytest.mark.parametrize("size", [(40, 60), (41, 61)])
def test_mp4_has_every_frame_and_its_speed(tmp_path, size):
    av = pytest.importorskip("av")
    ramp = torch.linspace(0, 1, T)[:, None, None, None].expand(T, 3, *size)
    save_animation(ramp, tmp_path / "a.mp4", fps=12.5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == 12.5
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == T and frames[0].shape[:2] == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    for frame, level in zip(frames, torch.linspace(0, 255, T), strict=True):
        assert abs(frame[:40, :60].mean() - level) < 6
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_mp4_without_pyav_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"\.\[video\]"):
        save_animation(animation(), tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_bad_input_is_named(tmp_path):
    truth = clips()[0]
    with pytest.raises(ShapeError, match="rollout 'x'"):
        animate_rollout(truth, {"x": truth[:2]}, context_frames=1)
    with pytest.raises(ShapeError, match="context_frames must be in 0 .. 5"):
        animate_rollout(truth, {}, context_frames=6)
    with pytest.raises(ShapeError, match="frames=0"):
        rollout_strip(truth, {}, context_frames=1, frames=0)
    with pytest.raises(WorldkitError, match="name it .gif or .mp4"):
        save_animation(truth, tmp_path / "a.webm")
    with pytest.raises(ShapeError, match="fps"):
        save_animation(truth, tmp_path / "a.mp4", fps=0)
