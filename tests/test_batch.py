"""Batches, shape checks, and the conversion of video."""

import pytest
import torch

from worldkit.batch import Batch, check_shape, to_float_video
from worldkit.errors import ShapeError


def test_check_shape_returns_the_axes():
    assert check_shape(torch.zeros(2, 5, 3, 8, 9), "b t c h w", name="video", c=3) == {
        "b": 2, "t": 5, "c": 3, "h": 8, "w": 9,
    }


@pytest.mark.parametrize("value, message", [
    (torch.zeros(2, 3, 8, 8), "video must have 5 axes [b t c=3 h=8 w=8], got 4: [2, 3, 8, 8]"),
    (torch.zeros(2, 5, 1, 8, 8), "video must be [b t c=3 h=8 w=8], got [2, 5, 1, 8, 8]: axis c is 1, not 3"),
    (torch.zeros(2, 5, 3, 8, 9), "video must be [b t c=3 h=8 w=8], got [2, 5, 3, 8, 9]: axis w is 9, not 8"),
    ([[1, 2]], "video must be a tensor [b t c=3 h=8 w=8], got list; torch.as_tensor(...) makes one of it"),
])
def test_check_shape_messages(value, message):
    with pytest.raises(ShapeError) as error:
        check_shape(value, "b t c h w", name="video", c=3, h=8, w=8)
    assert str(error.value) == message


def test_bytes_become_floats():
    video = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert torch.allclose(to_float_video(video), torch.tensor([0.0, 0.2, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_pass(dtype):
    video = torch.rand(2, 3, dtype=torch.float32).to(dtype)
    assert to_float_video(video) is video
    assert to_float_video(torch.tensor([-5e-4, 1 + 5e-4])) is not None  # rounding of resizers


@pytest.mark.parametrize("values, message", [
    ([0.0, 255.0], r"clip of dtype torch.float32 must lie in \[0, 1\], got values from 0 to 255; divide by 255"),
    ([-1.0, 1.0], r"got values from -1 to 1"),
    ([0.0, float("nan")], r"must lie in \[0, 1\], got values from nan to nan"),
    ([0.0, float("inf")], r"to inf"),
    ([0.0, 1.01], r"to 1\.01"),
])
def test_floats_out_of_range(values, message):
    with pytest.raises(ShapeError, match=message):
        to_float_video(torch.tensor(values), name="clip")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_other_dtypes(dtype):
    with pytest.raises(ShapeError, match=r"video must be uint8 in \[0, 255\] or float in \[0, 1\], got torch"):
        to_float_video(torch.ones(2, dtype=dtype))


def test_batches_move_whole():
    batch = Batch(
        torch.zeros(2, 5, 3, 8, 8, dtype=torch.uint8),
        {"action": torch.zeros(2, 5, 1), "language": ["push", "pull"]},
        {"action": torch.ones(2, 5, dtype=torch.bool)},
        torch.ones(2, 5),
    )
    moved = batch.to("meta")
    tensors = [moved.video, moved.conditions["action"], moved.masks["action"], moved.done_mask]
    assert all(t.device.type == "meta" for t in tensors) and moved.video.dtype == torch.uint8
    assert moved.conditions["language"] == ["push", "pull"] and moved.batch_size == 2
    assert Batch(batch.video).to("meta").done_mask is None


def test_first_and_vectors_are_checked_and_travel():
    video = torch.zeros(2, 5, 3, 8, 8)
    first, vectors = torch.zeros(2, 5, dtype=torch.bool), {"proprio": torch.zeros(2, 5, 4)}
    batch = Batch(video, first=first, vectors=vectors).to("meta")
    assert batch.first.device.type == batch.vectors["proprio"].device.type == "meta"
    for bad, message in (
        ({"first": first.float()}, "first must be bool"),
        ({"first": first[:, :4]}, r"first must be \[b=2 t=5"),
        ({"vectors": {"proprio": torch.zeros(2, 4, 4)}}, r"vector 'proprio' must be \[b=2 t=5"),
        ({"vectors": {"proprio": torch.zeros(2, 5)}}, "vector 'proprio' must be float"),
        ({"vectors": torch.zeros(2, 5, 4)}, "vectors must be a table"),
    ):
        with pytest.raises(ShapeError, match=message):
            Batch(video, **bad)
