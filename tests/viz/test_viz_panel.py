"""Row order and content of the decomposition panel."""

import pytest
import torch

from worldkit.errors import ShapeError
from worldkit.latents import Particles, particle_spec
from worldkit.viz import PanelInputs, decomposition_panel
from worldkit.viz.panel import ROWS, panel_rows, rank_particles, segmentation

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
        ({"latent"}, ["input", "all keypoints", "surest keypoints", "boxes from scale"]),
        ({"masks", "background"}, ["input", "boxes from masks", "segmentation", "background"]),
        ({"proposals", "reconstruction"}, ["input", "reconstruction", "prior proposals"]),
    ],
)
def test_rows_without_input_are_left_out(given, rows):
    inputs = {k: v for k, v in everything().items() if k in given | {"video"}}
    assert list(panel_rows(PanelInputs(**inputs))) == rows


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
    assert torch.equal(rows["boxes from scale"], rows["input"])
    assert torch.equal(rows["surest keypoints"], rows["input"])


def test_segmentation_gives_each_mask_its_hue():
    masks = torch.zeros(3, 1, 4)
    masks[0, 0, 0] = masks[1, 0, 1] = masks[2, 0, 2] = 1
    colors = segmentation(masks)[:, 0]
    assert colors[:, :3].argmax(0).tolist() == [0, 1, 2] and colors[:, 3].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"masks": torch.zeros(T, K, S, S)}, "masks must have 5 axes"),
        ({"proposals": torch.zeros(T + 1, 7, 2)}, "proposals"),
        ({"foreground": torch.zeros(T, 3, S, S + 1)}, "foreground"),
        ({"uncertainty": torch.zeros(T, N + 1)}, "uncertainty"),
        ({"latent": None}, "latent is missing"),
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
