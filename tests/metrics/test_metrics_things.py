"""Objects followed by what anchored tokens paint: hand-overs, losses, colours."""

import pytest
import torch

from worldkit.errors import ShapeError
from worldkit.metrics import painted, plain_ground, track_things
from worldkit.metrics.things import find_things

SIDE, GRID, RADIUS = 32, 4, 0.125
RED, BLUE, YELLOW = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0)


def paint(places, colors, *, hide=()):
    """Discs at ``places`` [T, M, 2] on black, each painted by the nearest two of a grid of tokens.

    Returns:
        (what tokens paint [1, T, 16, S, S], video [1, T, 3, S, S]); ``hide``: (frame, disc) that nobody paints.
    """
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    cells = (torch.arange(GRID) + 0.5) / GRID
    anchors = torch.cartesian_prod(cells, cells).flip(-1)
    masks, video = torch.zeros(len(places), GRID**2, SIDE, SIDE), torch.zeros(len(places), 3, SIDE, SIDE)
    masks += 0.02  # every token paints some of the black background, too
    for t, frame in enumerate(places):
        for m, place in enumerate(frame):
            if (t, m) in hide:
                continue
            far = ((axis - place[0]) ** 2 + (axis[:, None] - place[1]) ** 2).sqrt()
            disc = ((RADIUS - far) * SIDE + 0.5).clamp(0, 1)
            video[t] += disc * torch.tensor(colors[m])[:, None, None]
            first, second = (anchors - place).norm(dim=-1).argsort()[:2]
            masks[t, first] += 0.7 * disc
            masks[t, second] += 0.3 * disc
    return painted(masks[None].clamp(max=1), video[None].clamp(max=1), torch.zeros_like(video)[None]), video[None]


def line(start, end, frames=12):
    return torch.stack([torch.tensor(start).lerp(torch.tensor(end), t / (frames - 1)) for t in range(frames)])


def scored(truth, drawn, still=None, **options):
    return track_things(truth[None], truth[None, 0] if still is None else still[None], *drawn, **options)


CROSSING = torch.stack([line((0.15, 0.2), (0.85, 0.3)), line((0.8, 0.75), (0.2, 0.7))], 1)


def test_things_are_followed_when_they_are_handed_on():
    drawn = paint(CROSSING, [RED, BLUE])
    painters = drawn[0][0].amax((-1, -2)).topk(2).indices
    assert len({tuple(sorted(pair)) for pair in painters.tolist()}) > 3  # other tokens paint them as they go
    distance, paired, kept = scored(CROSSING, drawn)
    assert paired.all() and kept.all() and distance.max() < 0.005  # 0.16 pixels


def test_a_copied_last_frame_scores_as_standing_still():
    copied = CROSSING[:1].expand(12, -1, -1)
    distance, paired, kept = scored(CROSSING, paint(copied, [RED, BLUE]))
    assert paired.all() and kept.all()
    torch.testing.assert_close(distance[0], (CROSSING - CROSSING[0]).norm(dim=-1).double(), atol=0.005, rtol=0)


def test_a_plain_ground_is_the_usual_colour():
    _, video = paint(CROSSING, [RED, YELLOW])
    assert plain_ground(video + 0.25).unique().tolist() == [0.25] and plain_ground(video).shape == video.shape


def test_twins_that_touch_are_not_confused():
    """Two red discs that pass each other edge to edge."""
    passing = torch.stack([line((0.2, 0.37), (0.8, 0.37)), line((0.8, 0.63), (0.2, 0.63))], 1)
    distance, _, kept = scored(passing, paint(passing, [RED, RED]))
    assert kept.all() and distance.max() < 0.02


def test_colours_tell_discs_apart_that_change_places_fast():
    moves = torch.stack([line((0.4, 0.5), (0.6, 0.5), 2), line((0.6, 0.5), (0.4, 0.5), 2)], 1)
    distance, _, kept = scored(moves, paint(moves, [RED, BLUE]))
    assert kept.all() and distance.max() < 0.1  # where they overlap their colours mix
    wrong = paint(moves.flip(1)[[1, 1]], [RED, BLUE])  # drawn where they end, in the wrong colours: paired, and kept
    assert scored(moves, wrong)[2].all()


@pytest.mark.parametrize("drift", [0.0, 0.2])
def test_a_lost_thing_is_no_better_than_standing_still(drift):
    """Whether it was predicted well or off by ``drift``, a disc that fades is as far as where it was, or still."""
    predicted = CROSSING + torch.tensor([0.0, drift]) * torch.linspace(0, 1, 12)[:, None, None]
    whole = scored(CROSSING, paint(predicted, [RED, BLUE]))[0]
    gone = [(t, 0) for t in range(5, 12)]
    distance, paired, kept = scored(CROSSING, paint(predicted, [RED, BLUE], hide=gone))
    assert paired.all() and kept[0, :, 0].tolist() == [True] * 5 + [False] * 7 and kept[..., 1].all()
    still = (CROSSING - CROSSING[0]).norm(dim=-1)
    seen_last = (CROSSING[5:, 0] - predicted[4, 0]).norm(dim=-1)
    expected = torch.maximum(still[5:, 0], seen_last).double()
    torch.testing.assert_close(distance[0, 5:, 0], expected, atol=0.01, rtol=0)
    assert (distance[0, :, 0] >= whole[0, :, 0] - 1e-9).all()
    torch.testing.assert_close(distance[0, :, 1], whole[0, :, 1], atol=0.01, rtol=0)


def test_a_thing_that_comes_back_where_it_was_is_kept_again():
    places = line((0.3, 0.5), (0.5, 0.5))[:, None]
    _, _, kept = scored(places, paint(places, [RED], hide=[(4, 0), (5, 0)]))
    assert kept[0, :, 0].tolist() == [True] * 4 + [False] * 2 + [True] * 6


@pytest.mark.parametrize("change", ["jump", "colour"])
def test_another_thing_is_not_taken_for_it(change):
    first = torch.tensor([[[0.3, 0.5]]])
    later = torch.tensor([[[0.7, 0.5]]]) if change == "jump" else first
    (a, video), (b, other) = paint(first, [RED]), paint(later, [RED if change == "jump" else BLUE])
    drawn = torch.cat([a, b], 1), torch.cat([video, other], 1)
    _, paired, kept = scored(first.repeat(2, 1, 1), drawn)
    assert paired.all() and kept.flatten().tolist() == [True, False]


def test_who_draws_nothing_is_as_good_as_standing_still():
    nothing = torch.zeros(1, 12, 16, SIDE, SIDE), torch.zeros(1, 12, 3, SIDE, SIDE)
    still = torch.tensor([[0.1, 0.1], [0.9, 0.9]])
    distance, paired, kept = scored(CROSSING, nothing, still)
    assert not paired.any() and not kept.any()
    torch.testing.assert_close(distance[0], (CROSSING - still).norm(dim=-1).double())
    one = scored(CROSSING, paint(CROSSING[:, :1], [RED]), still)  # one disc of two
    assert one[1].tolist() == [[True, False]] and one[0][0, :, 0].max() < 0.005
    torch.testing.assert_close(one[0][0, :, 1], distance[0, :, 1])


def test_hidden_objects_have_no_distance():
    visible = torch.ones(1, 12, 2, dtype=torch.bool)
    visible[0, 0, 1], visible[0, 3, 0] = False, False  # one is not seen at first, so nobody is paired with it
    distance, paired, _ = scored(CROSSING, paint(CROSSING, [RED, BLUE]), visible=visible)
    assert paired.tolist() == [[True, False]] and distance.isnan()[0].nonzero().tolist() == [[0, 1], [3, 0]]


def test_tokens_that_change_nothing_are_no_things():
    drawn, video = paint(CROSSING[:1], [YELLOW, BLUE])
    spots = find_things(drawn[0, 0], video[0, 0])
    assert len(spots.center) == 2 and spots.radius.tolist() == pytest.approx([RADIUS] * 2, abs=0.01)
    assert {tuple(color) for color in spots.color.round().tolist()} == {YELLOW, BLUE}
    assert len(find_things(torch.zeros(0, 4, 4), torch.zeros(3, 4, 4)).center) == 0


def test_without_a_background_a_share_counts_whole():
    masks = torch.rand(1, 2, 3, 4, 5)
    assert painted(masks, torch.rand(1, 2, 3, 4, 5)) is masks


@pytest.mark.parametrize("change, said", [
    ({"still": torch.zeros(1, 3, 2)}, "still"), ({"paint": torch.zeros(1, 11, 16, 4, 4)}, "paint"),
    ({"video": torch.zeros(1, 12, 3, 4, 4)}, "video"), ({"truth": torch.zeros(1, 0, 2, 2)}, "at least one"),
])
def test_faults_are_named(change, said):
    drawn, video = paint(CROSSING, [RED, BLUE])
    given = {"truth": CROSSING[None], "still": CROSSING[None, 0], "paint": drawn, "video": video} | change
    with pytest.raises(ShapeError, match=said):
        track_things(**given)
