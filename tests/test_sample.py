"""``worldkit sample``, and the numbers that hold drawn frames against true ones."""

import pytest
import torch
from safetensors import safe_open

from worldkit.assembly import build
from worldkit.cli import main
from worldkit.errors import IncompatibleComponentsError, ShapeError
from worldkit.metrics import count_spots, histogram_distance, pooled_features
from worldkit.testing.examples import example_batch, small_config
from worldkit.training.generation import Frames, compare, look_at

PRIOR = {"latent_action": None, "prior": "diffusion", "objective": "first-frames"}


def discs(centres, colours, side=32, radius=4.0):
    rows = torch.arange(side) + 0.5
    picture = torch.zeros(3, side, side)
    for (y, x), colour in zip(centres, colours, strict=True):
        inside = (rows[:, None] - y).square() + (rows - x).square() < radius**2
        picture = torch.where(inside, torch.tensor(colour)[:, None, None], picture)
    return picture


RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


@pytest.mark.parametrize(("centres", "colours", "number"), [
    ([], [], 0), ([(8, 8)], [RED], 1), ([(8, 8), (20, 20)], [RED, RED], 2), ([(8, 8), (8, 14)], [RED, BLUE], 2),
    ([(8, 8), (8, 14)], [RED, RED], 1), ([(0, 0), (31, 31), (16, 16)], [RED, BLUE, RED], 3)])
def test_spots(centres, colours, number):
    picture = discs(centres, colours)
    assert count_spots(picture).item() == number
    noisy = picture + 0.2 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    assert count_spots(torch.stack([noisy, picture])).tolist() == [number, number]
    light = torch.ones(3, 32, 32)
    assert count_spots(light - picture, light).item() == number


def test_specks_are_no_things():
    picture = discs([(8, 8)], [RED])
    picture[1, 20, 20] = 1
    assert count_spots(picture).item() == 1 and count_spots(picture, least_area=0).item() == 2


def test_spots_of_a_snake():
    """One long thin thing is one thing."""
    picture = torch.zeros(1, 21, 21)
    picture[0, ::2] = 1
    picture[0, 1::4, -1] = picture[0, 3::4, 0] = 1
    assert count_spots(picture).item() == 1


def test_wrong_pictures():
    with pytest.raises(ShapeError, match="video must be float"):
        count_spots(torch.zeros(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ShapeError, match="at least one number"):
        histogram_distance(torch.zeros(0, dtype=torch.long), torch.zeros(1, dtype=torch.long))


def test_pooling_does_not_mind_the_order():
    tokens, weights = torch.randn(4, 5, 3), torch.rand(4, 5)
    order = torch.randperm(5)
    torch.testing.assert_close(pooled_features(tokens[:, order], weights[:, order]), pooled_features(tokens, weights))
    assert pooled_features(tokens, torch.zeros(4, 5)).isfinite().all()


@pytest.mark.parametrize("encoder", ["particle", "slot", "patch"])
def test_looking(encoder):
    model = build(small_config(latent_action=None, encoder=encoder))
    videos = example_batch(model.config, 3, batch=6).video
    seen = look_at(model, videos, batch_size=4)
    assert seen.counts.shape == (6, 3) and seen.features.shape[:2] == (6, 3)
    one = look_at(model, videos[2:3])
    torch.testing.assert_close(one.features, seen[2:3].features)
    same = compare(seen, seen)
    assert same["fid"] == pytest.approx(0, abs=1e-3) and same["histogram"] == 0
    other = compare(seen, Frames(seen.counts + 1, seen.features + 3))
    assert other["fid"] > 1 and other["things"] == same["things"] + 1 and seen.first(2).counts.shape == (6, 2)


def test_features_of_all_kinds_count_alike():
    units = torch.tensor([1.0, 100.0, 0.0])
    true = Frames(torch.zeros(8, 2, dtype=torch.long), units * torch.randn(8, 2, 3) + 5)
    scaled = true.in_units_of(true).features
    torch.testing.assert_close(scaled.flatten(0, 1).std(0), torch.tensor([1.0, 1.0, 0.0]))
    assert torch.equal(scaled[..., 2], true.features[..., 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    return build(small_config(**PRIOR)).save_pretrained(tmp_path_factory.mktemp("sample") / "model")


def test_command(folder, tmp_path, capsys):
    def draw(name, *options):
        return main(["sample", str(folder), "--out", str(tmp_path / name), "--n", "3", "--horizon", "1", "--batch", "2",
                     *options])

    assert draw("a", "--data", "balls-32", "-o", "data.num_episodes=8", "-o", "data.episode_length=12") == 0
    assert "other true videos" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert files == {"samples.gif", "samples.png", "report.html", "samples.safetensors", "sample-000.gif",
                     "sample-001.gif", "sample-002.gif"}
    assert "Beside true videos" in (tmp_path / "a" / "report.html").read_text()
    assert draw("b") == 0 and draw("c", "--seed", "1") == 0 and draw("d", "--sampler", "ddim", "--steps", "2") == 0

    def position(name):
        with safe_open(tmp_path / name / "samples.safetensors", "pt") as file:
            return file.get_tensor("particles.position")

    assert position("a").shape == (3, 3, 16, 2) and torch.equal(position("a"), position("b"))
    assert not torch.equal(position("a"), position("c")) and not torch.equal(position("a"), position("d"))


@pytest.mark.parametrize(("options", "message"), [
    (["--steps", "9"], "--steps 9: this prior was trained with 8 steps"),
    (["--data", "balls-32", "-o", "data.num_episodes=2"], "to hold drawn frames against them there must be 4"),
    (["-o", "dynamics.dim=3"], "takes data.OPTION=VALUE only"),
    (["-o", "data.num_episodes=3"], "give --data as well"),
])
def test_refusals(folder, tmp_path, capsys, options, message):
    assert main(["sample", str(folder), "--out", str(tmp_path / "x"), *options]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_models_that_cannot_be_sampled(tmp_path, capsys):
    steered = small_config(**PRIOR, conditioners={"action": {"name": "action", "dim": 2}})
    plain = small_config(encoder="patch", latent_action=None)
    for config, options, message in (
        (steered, [], "is steered by action"), (plain, ["--sampler", "ddim"], "--sampler choose"),
    ):
        build(config).save_pretrained(tmp_path / "model")
        assert main(["sample", str(tmp_path / "model"), "--out", str(tmp_path / "x"), *options]) == 2
        assert message in capsys.readouterr().err


def test_background_behind_the_decoder():
    config = small_config(**PRIOR, objective__background="decoder")
    with pytest.raises(IncompatibleComponentsError, match="objective.background='decoder' asks for an encoder"):
        build(config).loss(example_batch(config))
    config = small_config(**{**PRIOR, "objective": {"name": "first-frames", "background": "decoder"}},
                          encoder="particle-tracking")
    model, batch = build(config).eval(), example_batch(config)
    masks = []
    model.encoder._background, inner = lambda *args: masks.append(args[1]) or inner(*args), model.encoder._background
    assert model.loss(batch).total.isfinite()
    left = model.decode(model.encode(batch.video)).background_mask
    torch.testing.assert_close(torch.cat(masks[1::2]), left.flatten(0, 1))
