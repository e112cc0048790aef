"""Box geometry, non-maximum suppression against a plain loop, drawing."""

import pytest
import torch

from worldkit.errors import ShapeError
from worldkit.viz import PALETTE, boxes_from_masks, boxes_from_particles, draw_boxes, draw_keypoints, nms
from worldkit.viz.boxes import iou


def random_boxes(n, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 20
    return torch.cat([corner, corner + 1 + torch.rand(n, 2, generator=generator) * 12], 1), generator


def slow_iou(a, b):
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(height, 0) * max(width, 0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def slow_nms(boxes, scores, threshold):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(slow_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.7])
def test_nms_is_the_plain_loop(seed, threshold):
    boxes, generator = random_boxes(30, seed)
    scores = torch.rand(30, generator=generator)
    assert nms(boxes, scores, threshold=threshold).tolist() == slow_nms(boxes.tolist(), scores.tolist(), threshold)


def test_iou_is_the_plain_formula():
    (a, _), (b, _) = random_boxes(6, 0), random_boxes(4, 1)
    expected = torch.tensor([[slow_iou(p, q) for q in b.tolist()] for p in a.tolist()])
    torch.testing.assert_close(iou(a, b), expected)


def test_nms_without_boxes_and_with_ties():
    assert nms(torch.zeros(0, 4), torch.zeros(0)).shape == (0,)
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6], [0, 0, 1, 1]])
    assert nms(boxes, torch.zeros(3)).tolist() == [0, 1]
    with pytest.raises(ShapeError, match="scores"):
        nms(boxes, torch.zeros(2))


def test_box_of_a_particle():
    scale = torch.logit(torch.tensor([[0.25, 0.5]]))  # a quarter of the height, half of the width
    box = boxes_from_particles(torch.tensor([[0.5, -0.25]]), scale, 40, 80)
    torch.testing.assert_close(box, torch.tensor([[25.0, 10.0, 35.0, 50.0]]))


def test_boxes_are_clamped_to_the_image():
    position = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [3.0, 0.0]])
    boxes = boxes_from_particles(position, torch.zeros(3, 2), 32, 64)
    assert boxes[0].tolist() == [0, 0, 8, 16] and boxes[1].tolist() == [24, 48, 32, 64]
    assert boxes.min() >= 0 and boxes[:, [0, 2]].max() <= 32


def test_boxes_of_masks_are_tight():
    masks = torch.zeros(4, 10, 12)
    masks[0, 2:5, 3:11] = 0.5
    masks[1, 9, 11] = 1
    masks[2] = 0.05  # at the threshold: not covered
    masks[3, 0, 0], masks[3, 9, 11] = 0.2, 0.4
    boxes, scores = boxes_from_masks(masks)
    assert boxes.tolist() == [[2, 3, 5, 11], [9, 11, 10, 12], [0, 0, 0, 0], [0, 0, 10, 12]]
    torch.testing.assert_close(scores, torch.tensor([0.5, 1.0, 0.0, 0.3]))


def test_drawing_uses_the_palette_by_rank():
    assert len(set(PALETTE)) == 11
    corner = torch.arange(12)[:, None] * 4.0
    boxes = torch.cat([corner, corner * 0, corner + 4, corner * 0 + 6], 1)
    picture = draw_boxes(torch.zeros(3, 50, 8), boxes, line=1)
    for rank in range(12):
        assert tuple(picture[:, rank * 4, 0].tolist()) == PALETTE[rank % 11]
    assert picture[:, 49, 7].tolist() == [0, 0, 0]


def test_drawing_labels_and_nothing():
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    box = torch.tensor([[20.0, 5.0, 35.0, 30.0]])
    assert not torch.equal(draw_boxes(image, box, labels=[".50"]), draw_boxes(image, box))
    assert torch.equal(draw_boxes(image, torch.zeros(0, 4)), image)
    assert torch.equal(draw_boxes(image, torch.zeros(1, 4)), image)  # an empty box
    with pytest.raises(ShapeError, match="one text per box"):
        draw_boxes(image, box, labels=["a", "b"])


def test_keypoints_are_row_first():
    picture = draw_keypoints(torch.zeros(3, 41, 81), torch.tensor([[-0.5, 0.5]]), colors=[(1, 2, 3)], radius=2)
    assert picture[:, 10, 60].tolist() == [1, 2, 3] and picture[:, 30, 20].tolist() == [0, 0, 0]
    outside = draw_keypoints(torch.zeros(3, 41, 81), torch.tensor([[9.0, 9.0]]), colors=[(1, 2, 3)])
    assert outside[:, 40, 80].tolist() == [1, 2, 3]
