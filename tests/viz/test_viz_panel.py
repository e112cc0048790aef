"""Row order and content of the decomposition panel."""

import pytest
import torch

from worldkit.errors import ShapeError
from worldkit.latents import Particles, particle_spec
from worldkit.viz import PanelInputs, decomposition_panel
from worldkit.viz.images import MUTED
from worldkit.viz.panel import ROWS, panel_rows, rank_particles, segmentation
from worldkit.viz.tracks import mask_colors, particle_colors

T, N, K, S = 3, 5, 4, 32


def particles(t=T):
    generator = torch.Generator().manual_seed(0)
    shapes = {"position": 2, "scale": 2, "depth": 1, "transparency": 1, "features": 3}
    values = {("particles", f): torch.rand(1, t, N, d, generator=generator) for f, d in shapes.items()}
    spec = particle_spec(num_particles=N, feature_dim=3, background_dim=2)
    return Particles(spec, values | {("background", "features"): torch.zeros(1, t, 1, 2)})


def everything():
    generator = torch.Generator().manual_seed(1)
    video, reconstruction, foreground, background = torch.rand(4, T, 3, S, S, generator=generator)
    return {
        "video": video, "reconstruction": reconstruction, "latent": particles(), "foreground": foreground,
        "proposals": torch.zeros(T, 7, 2), "masks": torch.rand(T, K, 1, S, S, generator=generator),
        "background": background, "uncertainty": torch.zeros(T, N),
    }  # fmt: skip


def test_all_ten_rows_in_order_whatever_the_number_of_masks():
    inputs = everything()
    rows = panel_rows(PanelInputs(**inputs), cell=64)
    assert tuple(rows) == ROWS and len(ROWS) == 10
    assert all(row.shape == (T, 3, 64, 64) and row.dtype == torch.uint8 for row in rows.values())
    for label in ("reconstruction", "foreground", "background"):
        small = (inputs[label] * 255).round().byte()
        assert torch.equal(rows[label][..., ::2, ::2], small)
    assert not torch.equal(rows["all keypoints"], rows["input"])


def test_panel_places_rows_and_columns():
    inputs = PanelInputs(**everything())
    panel, rows = decomposition_panel(inputs, cell=96), panel_rows(inputs, cell=96)
    assert panel.shape == (3, 22 + 10 * 100, 108 + T * 100)
    for r, row in enumerate(rows.values()):
        for t in range(T):
            top, left = 22 + r * 100, 108 + t * 100
            assert torch.equal(panel[:, top : top + 96, left : left + 96], row[t])


@pytest.mark.parametrize(
    "given, rows",
    [
        (set(), ["input"]),
        ({"latent"}, ["input", "boxes from scale", "surest keypoints", "all keypoints"]),
        ({"masks", "background"}, ["input", "background", "segmentation", "boxes from masks"]),
        ({"proposals", "reconstruction"}, ["input", "reconstruction", "prior proposals"]),
    ],
)
def test_rows_without_input_are_left_out(given, rows):
    inputs = {k: v for k, v in everything().items() if k in given | {"video"}}
    assert list(panel_rows(PanelInputs(**inputs))) == rows


def test_proposals_may_be_of_the_first_frames_alone():
    """As DDLP's: the other columns show the frame as it is."""
    given = everything()
    row = panel_rows(PanelInputs(video=given["video"], proposals=given["proposals"][:1]))
    changed = [not torch.equal(a, b) for a, b in zip(row["prior proposals"], row["input"], strict=True)]
    assert changed == [True] + [False] * (T - 1)


def test_only_the_first_frames_are_shown():
    assert len(panel_rows(PanelInputs(**everything()), frames=2)["input"]) == 2


def test_ranking_keeps_its_order_and_drops_absent_particles():
    presence = torch.tensor([0.9, 0.1, 0.8, 1.0])
    for offset in (-50.0, 50.0):  # uncertainties of either sign: a product with the presence would flip the order
        order, _ = rank_particles(presence, torch.tensor([3.0, 0.0, 1.0, 2.0]) + offset)
        assert order.tolist() == [2, 3, 0]
    assert rank_particles(presence, None)[0].tolist() == [3, 0, 2]


def test_no_particle_present():
    latent = particles().edit(range(N), transparency=0.0)
    rows = panel_rows(PanelInputs(video=torch.rand(T, 3, S, S), latent=latent))
    assert torch.equal(rows["boxes from scale"], (rows["input"] * 0.6).round().byte())
    assert torch.equal(rows["surest keypoints"], rows["input"])


def test_rows_stand_in_the_order_in_which_one_reads_them():
    assert ROWS[:4] == ("input", "reconstruction", "foreground", "background")
    assert ROWS.index("segmentation") < ROWS.index("boxes from masks") < ROWS.index("all keypoints")


def test_segmentation_gives_each_mask_its_colour_and_an_outline():
    masks = torch.zeros(2, 4, 8)
    masks[0, :, :3] = masks[1, :, 5:] = 1
    picture = segmentation(torch.full((3, 16, 32), 100, dtype=torch.uint8), masks, [(200, 0, 0), (0, 200, 0)])
    assert picture[:, 5, 5].tolist() == [155, 45, 45] and picture[:, 5, 28].tolist() == [45, 155, 45]
    assert picture[:, 5, 15].tolist() == [45, 45, 45]  # nobody's: dim
    assert (picture[:, :, 12] == 255).all() and (picture[:, :, 20] == 255).all()  # where a mask ends
    same = segmentation(torch.zeros(3, 4, 8, dtype=torch.uint8), torch.ones(2, 4, 8) / 2, [(9, 9, 9)] * 2)
    assert (same < 255).all()  # no line between two masks of one thing
    shared = torch.rand(2, 4, 8) * 0.1 + 0.4
    unsure = segmentation(torch.zeros(3, 4, 8, dtype=torch.uint8), shared, [(9, 0, 0), (0, 9, 0)])
    assert (unsure < 255).all()  # no maze where nothing owns the pixels


def exchanged():
    """Two things that stand still while the particles that draw them change places; a third token is absent."""
    spec = particle_spec(num_particles=3, feature_dim=1, background_dim=2)
    place = {"left": (0.0, -0.6), "right": (0.0, 0.6), "gone": (0.9, 0.9)}
    order = [("left", "right", "gone"), ("right", "gone", "left"), ("gone", "left", "right")]
    values = {
        "position": torch.tensor([[place[name] for name in names] for names in order])[None],
        "scale": torch.full((1, 3, 3, 2), -1.0), "depth": torch.zeros(1, 3, 3, 1), "features": torch.ones(1, 3, 3, 1),
        "transparency": torch.tensor([[[float(name != "gone")] for name in names] for names in order])[None],
    }
    values = {("particles", field): x for field, x in values.items()}
    return Particles(spec, values | {("background", "features"): torch.zeros(1, 3, 1, 2)}), order


def test_one_thing_has_one_colour_over_time_and_in_all_rows():
    latent, order = exchanged()
    colors = particle_colors(latent, 0.2)
    found = [{name: own[token] for token, name in enumerate(names)} for own, names in zip(colors, order, strict=True)]
    assert found[0] == found[1] == found[2] and len(set(found[0].values())) == 3 and found[0]["gone"] == MUTED
    tokens = torch.tensor([[names.index("right"), names.index("left")] for names in order])
    masks = torch.zeros(3, 2, 1, S, S)
    masks[:, 0, :, 10:22, 22:29], masks[:, 1, :, 10:22, 3:10] = 1, 1
    video = torch.zeros(3, 3, S, S)
    rows = panel_rows(PanelInputs(video=video, latent=latent, masks=masks, tokens=tokens), cell=S)
    left = torch.tensor(found[0]["left"])
    for t in range(3):
        for row in ("boxes from masks", "boxes from scale", "all keypoints"):
            shown = rows[row][t, :, :, :16].reshape(3, -1).T.tolist()
            assert left.tolist() in shown and list(found[0]["right"]) not in shown, (row, t)
        assert rows["segmentation"][t, :, 15, 6].tolist() == (0.55 * left).round().tolist()


def test_slots_keep_their_colour_though_they_change_places():
    masks = torch.zeros(3, 2, 8, 8)
    masks[:, 0, :, :4], masks[:, 1, :, 4:] = 1, 1
    masks[1] = masks[1].flip(0)
    first, second, third = mask_colors(masks)
    assert first == third == second[::-1] and first[0] != first[1]
    alike = mask_colors(torch.full((3, 2, 8, 8), 0.5))
    assert alike[0] == alike[1] == alike[2]  # nothing tells them apart: their place does


def test_boxes_carry_numbers_only_where_there_is_room():
    latent, _ = exchanged()
    for cell, labelled in ((64, False), (128, False), (256, True)):
        row = panel_rows(PanelInputs(video=torch.zeros(3, 3, S, S), latent=latent), cell=cell)["boxes from scale"][0]
        flat = row.reshape(3, -1).T.unique(dim=0)
        assert (len(flat) > 3) == labelled, "black ground and two outlines, else letters and their rims"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"masks": torch.zeros(T, K, S, S)}, "masks must have 5 axes"),
        ({"proposals": torch.zeros(T + 1, 7, 2)}, f"proposals are of {T + 1} frames, but the video has {T}"),
        ({"foreground": torch.zeros(T, 3, S, S + 1)}, "foreground"),
        ({"uncertainty": torch.zeros(T, N + 1)}, "uncertainty"),
        ({"latent": None}, "latent is missing"),
        ({"tokens": torch.zeros(T, K + 1)}, "tokens"),
        ({"tokens": torch.zeros(T, K), "masks": None}, "masks are missing"),
        ({"latent": particles(T + 1)}, "latent.position"),
        ({"video": torch.zeros(0, 3, S, S)}, "video is empty"),
    ],
)
def test_bad_inputs_are_named(change, message):
    with pytest.raises(ShapeError, match=message):
        PanelInputs(**everything() | change)


def test_sizes_are_checked():
    with pytest.raises(ShapeError, match="frames=0"):
        decomposition_panel(PanelInputs(video=torch.zeros(1, 3, S, S)), frames=0)
