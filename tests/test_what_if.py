"""What-if questions as a whole: both futures in Python, and ``worldkit whatif``: its words, pictures and refusals."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit.cli import main
from worldkit.counterfactual import VISIBLE, most_visible
from worldkit.errors import ShapeError, WorldkitError
from worldkit.latents import Latent, particle_spec
from worldkit.scene import Scene, things
from worldkit.testing.examples import small_config
from worldkit.viz.difference import difference_strip, glow, summed

Image = pytest.importorskip("PIL.Image")
RED, CYAN = ("0.65", "0.04"), ("-0.69", "-0.05")  # in the last given frame of the first test clip of balls-32


@pytest.fixture(scope="module")
def shipped():
    model = wk.create_model("lpwm-balls-mini", pretrained=True).eval()
    clip = wk.data.open_dataset("balls-32", split="test", num_frames=8, height=32, width=32, num_episodes=1)[0]
    with torch.no_grad():
        return model, model.encode(clip["video"][None, :5])


# -- in Python


def test_without_an_edit_the_futures_are_the_same(shipped):
    model, z = shipped
    for via in ("latents", "pictures"):
        answer = wk.what_if(model, z, z, 3, via=via)
        assert answer.original.shape == (1, 8, 3, 32, 32) and answer.difference.max() == 0 and answer.via == via
        assert answer.context_frames == 5 and answer.changed.tolist() == [[0.0] * 8]
        assert answer.edited_latents.shape == (1, 8)


def test_a_moved_ball_goes_on_from_where_it_was_put(shipped):
    model, z = shipped
    ball = z.follow(z.object_at((0.65, 0.04)))
    answer = wk.what_if(model, z, z.edit(ball, delta_position=(-0.4, 0.4)), 3)
    assert answer.via == "pictures"  # LPWM's particles keep to their part of the picture
    place = answer.edited[0, 5, 0, 18:23, 19:24].mean() - answer.original[0, 5, 0, 18:23, 19:24].mean()
    assert place > 0.5 and answer.changed[0].min() > 0.05
    shares = (answer.difference > VISIBLE).double().mean((-1, -2))
    assert torch.equal(shares, answer.changed) and answer.difference.max() <= 1


def test_latents_that_follow_their_object_are_predicted_from_as_they_are(tiny_model):
    model = tiny_model(encoder="slot", decoder="slot", dynamics="slotformer", latent_action=None)
    z = model.encode(torch.rand(1, 3, 3, 32, 32))
    edited = z.edit(0, features_from=1)
    answer = wk.what_if(model, z, edited, 2)
    assert answer.via == "latents"
    future = model.rollout(edited, 2, deterministic=True)
    torch.testing.assert_close(answer.edited[:, 3:], future.video.clamp(0, 1))
    torch.testing.assert_close(answer.edited[:, :3], future.context_video.clamp(0, 1))


def test_a_model_that_predicts_nothing_is_asked_about_given_frames(tiny_model):
    model = tiny_model(dynamics=None, latent_action=None)
    z = model.encode(torch.rand(1, 3, 3, 32, 32))
    answer = wk.what_if(model, z, z.edit([0, 1], transparency=0.0), 0)
    assert answer.edited.shape == (1, 3, 3, 32, 32)
    with pytest.raises(WorldkitError, match="no dynamics and predicts nothing: horizon=0"):
        wk.what_if(model, z, z, 2)


def test_conditions_reach_both_futures(tiny_model):
    model = tiny_model(conditioners={"action": {"name": "action", "dim": 2}})
    z = model.encode(torch.rand(1, 3, 3, 32, 32))
    with pytest.raises(wk.ConditionError, match="needs the condition 'action'"):
        wk.what_if(model, z, z, 2)
    assert wk.what_if(model, z, z, 2, conditions={"action": torch.zeros(1, 5, 2)}).difference.max() == 0


@pytest.mark.parametrize("change, error, said", [
    ({"edited": torch.zeros(1)}, ShapeError, "edited must be a latent, .* got Tensor"),
    ({"edited": "shorter"}, ShapeError, r"same frames, got \[1, 5\] and \[1, 4\]"),
    ({"horizon": -1}, ShapeError, "at least 0, got -1"),
    ({"via": "images"}, WorldkitError, "'auto', 'latents' or 'pictures', got 'images'"),
])
def test_faults_are_named(shipped, change, error, said):
    model, z = shipped
    given = {"edited": z, "horizon": 1} | {k: z[:, 1:] if v == "shorter" else v for k, v in change.items()}
    with pytest.raises(error, match=said):
        wk.what_if(model, z, **given)


def test_the_most_visible_thing_shows_something(shipped):
    model, z = shipped
    tokens = most_visible(model, z)
    with pytest.raises(WorldkitError, match="no token is visible"):
        most_visible(model, z.edit(range(16), transparency=0.0))
    answer = wk.what_if(model, z, z.edit(z.follow(tokens), transparency=0.0), 0)
    assert answer.changed[0, -1] > 0.03


# -- pictures


def test_maps_glow_where_videos_differ():
    video, difference = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 4, 4)
    difference[1, 0, 0], difference[1, 3, 3] = 1.0, 0.2
    drawn = glow(video, difference).float()
    assert drawn[0].std() == 0 and drawn[1, 0, 0, 0] == 255
    assert drawn[1, 0, 3, 3] > drawn[1, 2, 3, 3] + 30  # a weak difference is red
    total = summed(video, difference)
    assert total.shape == (3, 4, 4) and total[0, 0, 0] == 255
    with pytest.raises(ShapeError, match="difference"):
        glow(video, difference[:1])


def test_strips_begin_with_the_last_given_frame():
    rows = {"a": torch.zeros(9, 3, 20, 20, dtype=torch.uint8)}
    wide = difference_strip(rows, context_frames=4)
    assert wide.shape[-1] == 108 + 6 * 24  # frame 3, and the five predicted ones
    assert difference_strip(rows, context_frames=9, frames=3).shape[-1] == 108 + 3 * 24


# -- the command


def ask(*arguments, out, model="lpwm-balls-mini"):
    return main(["whatif", model, "-o", "data.num_episodes=1", "--horizon", "2", "--out", str(out), *arguments])


def test_a_ball_is_moved(tmp_path, capsys):
    assert ask("--at", *RED, "--move", "-0.4", "0.4", out=tmp_path) == 0
    said = capsys.readouterr().out
    assert "What if the thing at (0.65, 0.04) lay 0.40 higher and 0.40 further right?" in said
    assert "edited: particles 9 and 13 (frame 4)" in said and "0: 10; 1: 9, 10;" in said
    assert "of the given picture and" in said and "of the first predicted one" in said
    page = (tmp_path / "report.html").read_text()
    for words in ("What if the thing at", "Where they differ", "all predicted frames in one", "particles 9 and 13",
                  "--at 0.65 0.04 --move -0.4 0.4", "What there was to choose from", "drawn, seen again"):
        assert words in page, words
    film = Image.open(tmp_path / "what-if.gif")
    assert film.n_frames == 5 + 2 + 4 and Image.open(tmp_path / "what-if.png").width > 300


def test_what_there_is_is_listed(tmp_path, capsys):
    assert ask(out=tmp_path) == 0
    said = capsys.readouterr().out
    assert "9, 13" in said and "0.65, 0.04" in said and "--remove" in said
    assert Image.open(tmp_path / "things.png").size == (364, 342) and not (tmp_path / "report.html").exists()


def test_places_that_are_listed_can_be_typed(shipped):
    """A centre may lie outside the picture; ``--at`` may not."""
    model, z = shipped
    outside = z.edit(z.follow(z.object_at((0.65, 0.04))), position=(1.1, 0.0))
    found = things(Scene(model, outside, 4))
    assert any(thing.place == (1.0, 0.0) for thing in found), [thing.place for thing in found]
    assert outside.object_at((1.0, 0.0)) == found[[thing.place for thing in found].index((1.0, 0.0))].tokens


@pytest.mark.parametrize("kind", ["png", "npy"])
def test_a_mask_says_which(tmp_path, capsys, kind):
    mask = np.zeros((64, 64), np.uint8)
    mask[46:62, 24:42] = 255
    path = tmp_path / f"mask.{kind}"
    Image.fromarray(mask).save(path) if kind == "png" else np.save(path, mask)
    assert ask("--mask", str(path), "--remove", out=tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "9 and 13 (frame 4)" in said or "13 and 9 (frame 4)" in said
    assert "were not there?" in said


def test_looks_are_changed_and_things_grow(tmp_path, capsys):
    assert ask("--at", *RED, "--swap-look", *CYAN, "--scale", "1.2", out=tmp_path) == 0
    said = capsys.readouterr().out
    assert "looked like the thing at (-0.69, -0.05), and that one like it and were 1.2 times as large?" in said
    assert "changed looks with: particle 1" in said


def test_one_particle_is_edited_alone_and_its_fellows_are_named(tmp_path, capsys):
    assert ask("--particle", "9", "--move", "-0.2", "0.2", out=tmp_path) == 0
    said = capsys.readouterr().out
    assert "edited: particle 9 (frame 4)\n" in said and "in every given frame" not in said
    assert "particle 13 helps to draw the same thing: --at 0.65 0.04 means all of them" in said
    assert ask("--particle", "0", "--remove", out=tmp_path) == 0
    said = capsys.readouterr().out
    assert "particle 0 can hardly be seen in frame 4 (transparency 0." in said and "0 % of the first predicted" in said


def test_slots_that_hold_a_ball_together_are_removed_together(tmp_path, capsys):
    assert ask("--at", "0.7", "0", "--remove", out=tmp_path, model="slotformer-balls-mini") == 0
    said = capsys.readouterr().out
    assert "slots 2 and 3 became copies of slot 0" in said
    assert "slots 2 and 3 (frame 5)" in said and "changes 4.8 % of the given picture" in said
    assert "edited latents themselves" in (tmp_path / "report.html").read_text()


def test_slots_without_a_dynamics_are_drawn(tmp_path, capsys):
    command = ["whatif", "savi-balls-mini", "-o", "data.num_episodes=1", "--out", str(tmp_path), "--at", "-0.7", "0.05"]
    assert main([*command, "--remove"]) == 0
    said = capsys.readouterr().out
    assert "edited: slot 1 (frame 5)" in said and "predicted" not in said.split("\n")[-3]
    assert "no dynamics" in (tmp_path / "report.html").read_text()


def test_slots_are_picked_by_masks(tmp_path, capsys):
    mask = np.zeros((32, 32), bool)
    mask[2:8, 13:21] = True
    np.save(tmp_path / "mask.npy", mask)
    picked = ("--mask", str(tmp_path / "mask.npy"), "--remove")
    assert ask(*picked, out=tmp_path, model="slotformer-balls-mini") == 0
    assert "edited: slot 1 (frame 5)" in capsys.readouterr().out
    np.save(tmp_path / "mask.npy", np.roll(mask, 12, 0))
    assert ask(*picked, out=tmp_path, model="slotformer-balls-mini") == 2
    assert "no slot shows what the mask covers in frame 5" in capsys.readouterr().err


def test_actions_come_from_the_clip(tmp_path, capsys):
    assert ask("--at", "-0.19", "-0.05", "--move", "-0.3", "0.3", out=tmp_path, model="lpwm-push-mini") == 0
    assert "particles 5 and 6" in capsys.readouterr().out


def test_particles_that_follow_their_thing_are_edited_as_they_are(tmp_path, capsys):
    """DDLP: no places that tie them, so the paper's way: the same particles in all frames, latents predicted from."""
    torch.manual_seed(0)
    model = wk.create_model(config=small_config(encoder="particle-tracking", dynamics="pint-joint", latent_action=None))
    model.save_pretrained(tmp_path / "ddlp")
    command = ("--particle", "0", "--move", "-0.2", "0.0", "--context", "3", "--data", "balls-32")
    assert ask(*command, out=tmp_path / "out", model=str(tmp_path / "ddlp")) == 0
    assert "edited: particle 0 (frame 2)" in capsys.readouterr().out
    assert "edited latents themselves" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize("parts, sees", [
    ({"encoder": "patch", "dynamics": "gru"}, r"patches \(features\)"),
    ({"encoder": "conv", "dynamics": "rssm", "objective": "dreamer"}, r"tokens \(deterministic, stochastic\)"),
])
def test_models_without_things_say_so(tmp_path, capsys, parts, sees):
    model = wk.create_model(config=small_config(latent_action=None, **parts))
    model.save_pretrained(tmp_path / "m")
    assert ask("--context", "3", "--data", "balls-32", out=tmp_path / "out", model=str(tmp_path / "m")) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(rf"tells no things apart: what it sees is {sees}, not particles or slots", error), error


def test_who_draws_a_thing_in_other_frames():
    """Those that were picked, while they stay with it; whoever lies there, where they jump or are tied to places."""
    spec = particle_spec(num_particles=3, feature_dim=1, background_dim=1)
    values = {("particles", "position"): torch.tensor([[[0.5, 0.0], [-0.5, 0.0], [0.0, 0.9]]] * 3)[None],
              ("particles", "transparency"): torch.ones(1, 3, 3, 1),
              ("background", "features"): torch.zeros(1, 3, 1, 1)}
    values |= {("particles", name): torch.zeros(1, 3, 3, 1) for name in ("depth", "features")}
    values["particles", "scale"] = torch.zeros(1, 3, 3, 2)

    def everywhere(z, anchors):
        model = SimpleNamespace(encoder=SimpleNamespace(anchors=lambda: anchors))
        return Scene(model, z, 2).everywhere([0])

    z = Latent.build(spec, values)
    assert everywhere(z, {}) == everywhere(z, {"position": None}) == {0: [0], 1: [0], 2: [0]}
    values["particles", "position"] = values["particles", "position"].clone()
    values["particles", "position"][:, 0] = values["particles", "position"][:, 0][:, [1, 0, 2]]
    assert everywhere(Latent.build(spec, values), {}) == {0: [1], 1: [0], 2: [0]}


@pytest.mark.parametrize("arguments, said", [
    (["--remove"], "say which thing: --at Y X, --mask FILE or --particle K"),
    (["--at", *RED], "say what becomes of it: --move DY DX, --remove"),
    (["--at", *RED, "--remove", "--move", "0", "1"], "--remove goes with no other edit"),
    (["--at", *RED, "--remove", "--swap-look", "3"], "--remove goes with no other edit"),
    (["--at", *RED, "--move", "0", "0"], "--move 0 0 moves nothing"),
    (["--at", *RED, "--move", "0.9", "0"], "out of the picture: it lies at (0.65, 0.04) in frame 4, so DY from"),
    (["--at", *RED, "--move", "nan", "0"], "--move must be two finite numbers"),
    (["--at", "0", "1.2", "--remove"], "--at 0 1.2 lies outside the picture"),
    (["--at", "nan", "0", "--remove"], "--at nan 0 lies outside the picture"),
    (["--at", "0", "-0.5", "--remove"], "nothing lies at (0.0, -0.5) in frame 4"),
    (["--particle", "16", "--remove"], "--particle 16 is out of range: this model has 16 particles, 0 to 15"),
    (["--particle", "3", "--swap-look", "77"], "--swap-look 77 is out of range"),
    (["--at", *RED, "--swap-look", *RED], "--swap-look means the same thing, particles 9 and 13"),
    (["--at", *RED, "--swap-look", "0.5"], "--swap-look 0.5 is neither the number of a particle nor Y X"),
    (["--at", *RED, "--swap-look", "1", "0", "0"], "--swap-look takes Y X or one number, got 3 values"),
    (["--at", *RED, "--scale", "9"], "--scale 9 makes a box larger than the picture"),
    (["--at", *RED, "--remove", "--clip", "99"], "--clip 99 is out of range: split 'test' of balls-32 has 14 clips"),
    (["--at", *RED, "--remove", "--frame", "5"], "--frame 5 is out of range: 5 frames are given, 0 to 4"),
    (["--mask", "none.png", "--remove"], "--mask none.png cannot be read as a picture or .npy file"),
])
def test_refusals_are_a_line(tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert ask(*arguments, out="out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("array, said", [
    (np.zeros((32, 32)), "covers nothing"), (np.ones((32, 32)), "covers all"),
    (np.eye(32)[:16], "is 16 x 32, the frames are 32 x 32"), (np.zeros((2, 32, 32)), r"must be \[H, W\]"),
    (np.roll(np.eye(32) * (np.arange(32) > 28), 3, 0), "no visible token's centre lies in the mask"),
])
def test_masks_that_say_nothing_are_refused(tmp_path, capsys, array, said):
    np.save(tmp_path / "mask.npy", array)
    assert ask("--mask", str(tmp_path / "mask.npy"), "--remove", out=tmp_path / "out") == 2
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize("arguments, said", [
    (["--move", "0.1", "0.1"], "--move needs 'position', which the slots of this model do not have (they have: f"),
    (["--scale", "1.1"], "What works: --remove"),
    (["--swap-look", "1"], "--swap-look needs 'position'"),
])
def test_slots_have_no_place_to_change(tmp_path, capsys, arguments, said):
    assert ask("--at", "-0.56", "0.58", *arguments, out=tmp_path, model="slotformer-balls-mini") == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert ask("--at", *RED, "--remove", out=tmp_path / "file" / "out") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_picks_exclude_each_other(tmp_path, capsys):
    with pytest.raises(SystemExit):
        ask("--at", *RED, "--particle", "3", "--remove", out=tmp_path)
    assert "not allowed with argument --at" in capsys.readouterr().err
