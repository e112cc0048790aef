"""Mistakes on the command line: a line that says what to type, before any work is done, never a traceback."""

import subprocess
import sys

import pytest

import worldkit as wk
from worldkit.cli import main
from worldkit.cli.spelling import as_typed
from worldkit.errors import CheckpointError, ConfigError, TrainingError


def told(arguments, capsys, status=2):
    """What a command that fails says on standard error, in one line."""
    try:
        found = main([str(a) for a in arguments])
    except SystemExit as end:
        found = end.code
    error = capsys.readouterr().err
    assert found == status and "Traceback" not in error, error
    return " ".join(error.split())


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder with a file called ``afile``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").write_text("x")
    return tmp_path


# -- places that cannot be written

MODEL, BALLS = "lpwm-balls-mini", ["--data", "balls-32"]
WRITERS = [
    (["train", MODEL, *BALLS, "--run"], "--run"),
    (["rollout", MODEL, *BALLS, "--out"], "--out"),
    (["eval", MODEL, *BALLS, "--out"], "--out"),
    (["demo", "--out"], "--out"),
    (["ablate", MODEL, "--swap", "encoder=slot", "--budget", "1", "--out"], "--out"),
    (["convert", "lpwm", "x.pth", "--hparams", "x.json", "--out"], "--out"),
    (["data", "preview", "balls-32", "--out"], "--out"),
    (["data", "convert", "balls-32", "--to", "npz"], "OUT"),
]


@pytest.mark.parametrize("place", ["afile/x", "/proc/x/y"])
@pytest.mark.parametrize("command, option", WRITERS, ids=[" ".join(c[:2]) for c, _ in WRITERS])
def test_places_are_tried_before_the_work(command, option, place, here, capsys):
    error = told([*command, place], capsys)
    assert error.startswith("error: ") and option in error and "cannot be written" in error
    assert place.split("/x")[0] in error  # what is in the way
    assert [p.name for p in here.iterdir()] == ["afile"]


def test_models_are_not_written_there_either(here, capsys):
    model = wk.create_model(MODEL, pretrained=True)
    with pytest.raises(CheckpointError, match="cannot write the model folder afile/x: .*afile"):
        model.save_pretrained("afile/x")
    model.save_pretrained("model")
    assert "afile/x cannot be written" in told(["push", "model", "dir:afile/x"], capsys)
    with pytest.raises(CheckpointError, match="cannot write the model folder /proc/x"):
        wk.storage.sharing.export_model("model", "/proc/x")
    assert sorted(p.name for p in here.iterdir()) == ["afile", "model"]


def test_a_trainer_says_so_too(here, tiny_model, balls):
    from worldkit.training import TrainConfig, Trainer

    model = tiny_model()
    clips = balls(model.clip_length)
    with pytest.raises(TrainingError, match="run folder afile/x cannot be written: .*afile"):
        Trainer(model, clips, clips, TrainConfig(steps=1), run="afile/x").fit()


def test_what_slips_through_is_a_line(here, capsys, monkeypatch):
    def full(options):
        raise OSError(28, "No space left on device", "runs/x/log.jsonl")

    monkeypatch.setattr("worldkit.cli.commands.demo.run_demo", full)
    assert told(["demo"], capsys) == ("error: runs/x/log.jsonl: No space left on device. Make room there, or write to "
                                      "another place; then the same command does it")
    (here / "preview.png").mkdir()
    command = ["data", "preview", *BALLS[1:], "-o", "num_episodes=1", "-o", "episode_length=2"]
    assert told(command, capsys) == "error: preview.png: Is a directory"


def test_a_reader_that_leaves_is_no_error():
    code = "import sys; from worldkit.cli import main; sys.exit(main(['list']))"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert b"Traceback" not in child.stderr.read() and child.wait(60) in (0, 1)
    child.stderr.close()


# -- numbers

@pytest.mark.parametrize("arguments", [
    ["train", MODEL, *BALLS, "--steps", "0"], ["train", MODEL, *BALLS, "--seconds", "-1"],
    ["train", MODEL, *BALLS, "--keep", "0"], ["train", MODEL, *BALLS, "--seed", "-1"],
    ["rollout", MODEL, *BALLS, "--clips", "0"], ["rollout", MODEL, *BALLS, "--horizon", "0"],
    ["rollout", MODEL, *BALLS, "--context", "-1"], ["eval", MODEL, *BALLS, "--samples", "0"],
    ["eval", MODEL, *BALLS, "--max-clips", "0"], ["eval", MODEL, *BALLS, "--horizon", "1.5"],
    ["eval", MODEL, *BALLS, "--pictures", "-1"], ["demo", "--seconds", "nan"],
    ["ablate", MODEL, "--budget", "1", "--seeds", "0"], ["ablate", MODEL, "--budget", "1", "--clips", "two"],
])
def test_numbers_out_of_range(arguments, capsys):
    *_, option, value = arguments
    assert f"argument {option}: invalid" in (error := told(arguments, capsys))
    assert "number" in error and f"'{value}'" in error


# -- options of the data that are decided elsewhere

@pytest.mark.parametrize("option, instead", [
    ("height=32", "-o obs.height="), ("width=32", "-o obs.width="), ("split=test", "--split"),
    ("mode=tile", "--protocol"),
    ("num_frames=4", "-o timestep_horizon="), ("conditions=x", "-o conditioners.NAME.from="), ("source=x", "--data"),
])
@pytest.mark.parametrize("command", [
    ["train", MODEL, *BALLS], ["rollout", MODEL, *BALLS], ["eval", MODEL, *BALLS],
    ["ablate", MODEL, "--swap", "dynamics=gru", "--budget", "1"],
], ids=lambda words: words[0])
def test_options_named_like_arguments(command, option, instead, here, capsys):
    error = told([*command, "-o", f"data.{option}"], capsys)
    assert f"-o data.{option} is no option of the data" in error and instead in error


@pytest.mark.parametrize("command, options", [
    ("inspect", ["format=npz", "split=train", "height=3", "target=x", "peek=true", "progress=1"]),
    ("validate", ["format=npz", "progress=1"]), ("preview", ["height=3", "split=val"]), ("convert", ["format=npz"]),
])
def test_looking_at_data(command, options, here, capsys):
    for option in options:
        out = ["out", "--to", "npz"] if command == "convert" else []
        error = told(["data", command, *BALLS[1:], *out, "-o", option], capsys)
        assert f"-o {option} is no option of the data" in error


@pytest.mark.parametrize("option, instead", [
    ("fps=10", "--fps"), ("overwrite=true", "--overwrite"), ("format=npz", "--to"), ("path=x", "OUT"),
    ("source=x", "the path"), ("progress=1", "the command"),
])
def test_writing_data(option, instead, here, capsys):
    error = told(["data", "convert", *BALLS[1:], "out", "--to", "npz", "-w", option], capsys)
    assert f"-w {option} is no option of the data" in error and instead in error


def test_python_says_it_too(tiny_model):
    from worldkit.errors import DataError
    from worldkit.metrics import Protocol
    from worldkit.training import compare
    from worldkit.training.recipes import make_trainer

    message = "data.split=val is no option of the data"
    with pytest.raises(DataError, match=message):
        make_trainer(MODEL, "balls-32", run="x", data_options={"split": "val"})
    with pytest.raises(DataError, match=message):
        compare({"a": tiny_model()}, "balls-32", Protocol("p"), data_options={"split": "val"})
    with pytest.raises(DataError, match=message):
        wk.ablation.run(MODEL, swaps={"dynamics": ["gru"]}, budget=1, overrides={"data.split": "val"})


def test_models_of_skipped_frames_are_scored_on_skipped_frames(tiny_model):
    from worldkit.metrics import Protocol
    from worldkit.training import compare

    found = compare({"a": tiny_model()}, "balls-32", Protocol("p", context_frames=2, horizon=2, max_clips=1),
                    pictures=0, data_options={"num_episodes": 3, "episode_length": 8, "frame_skip": 2})
    assert found.protocol.frame_skip == 2 and found.changed["frame_skip"] == 2


# -- near misses

TRAIN, ABLATE = ["train", MODEL, *BALLS], ["ablate", MODEL, "--budget", "1"]


@pytest.mark.parametrize("command, message", [
    (["traain"], "Did you mean 'train'?"),
    (["data", "inspct", "x"], "Did you mean 'inspect'?"),
    (["eval", "a", *BALLS, "--split", "tset"], "Did you mean 'test'?"),
    ([*TRAIN, "--dry-rn"], "unrecognized arguments: --dry-rn. Did you mean '--dry-run'?"),
    (["rollout", MODEL, *BALLS, "--horizn", "3"], "--horizn 3. Did you mean '--horizon'?"),
    ([*TRAIN, "--batch-size", "4"], "unrecognized arguments: --batch-size 4. Write -o train.batch_size=4"),
    ([*TRAIN, "--lr=1e-3"], "Write -o train.lr=1e-3"),
    ([*TRAIN, "--learning-rate", "1", "--quiet"], "Write -o train.lr=1"),
    ([*TRAIN, "--batchsize"], "Write -o train.batch_size=VALUE"),
    ([*TRAIN, "--num-layers", "4"], "or -o dynamics.num_layers=4"),
    ([*TRAIN, "--num-episodes", "4"], "Write -o data.num_episodes=4"),
    ([*ABLATE, "--lr", "3"], "Write -o train.lr=3"),
    (["train", "no-such", *BALLS, "--num-layers", "4"], "unrecognized arguments: --num-layers 4"),
    ([*TRAIN, "more"], "unrecognized arguments: more"),
    ([*TRAIN, "-o", "lr=1e-3"], "'lr' is no option of the model as a whole: write -o train.lr=0.001 ('train.lr' in"),
    ([*TRAIN, "-o", "batch_size=4"], "write -o train.batch_size=4"),
    ([*TRAIN, "-o", "batchsize=4"], "write -o train.batch_size=4"),
    ([*TRAIN, "-o", "num_layers=4"], "or -o dynamics.num_layers=4 or"),
    ([*TRAIN, "-o", "encoder=slot", "-o", "num_slots=4"], "write -o encoder.num_slots=4"),
    ([*TRAIN, "-o", "height=32"], "write -o obs.height=32"),
    ([*TRAIN, "-o", "num_episodes=4"], "write -o data.num_episodes=4"),
    ([*TRAIN, "-o", "train.num_layers=4"], "'num_layers' is no option of training: write -o encoder.num_layers=4"),
    ([*TRAIN, "-o", "timestep_horizn=4"], "Did you mean 'timestep_horizon'?"),
    ([*TRAIN, "-o", "train=4"], "-o train.OPTION=VALUE"),
    ([*TRAIN, "-o", "data=clips"], "the data are --data"),
    (["rollout", MODEL, *BALLS, "-o", "data=clips"], "the data are --data"),
    ([*ABLATE, "--swap", "dynamics=gru", "-o", "lr=3"], "write -o train.lr=3"),
    ([*ABLATE, "--set", "lr=1,2"], "write --set train.lr=1,2"),
    ([*ABLATE, "--set", "num_layers=1,2"], "or --set dynamics.num_layers=1,2"),
    ([*ABLATE, "--swap", "lr=1,2"], "write --set train.lr=1,2"),
])
def test_near_misses_point_on(command, message, here, capsys):
    assert message in told(command, capsys)


def test_python_points_on_too():
    with pytest.raises(ConfigError, match="write encoder__num_layers=... .-o encoder.num_layers=... on the"):
        wk.create_model(MODEL, num_layers=4)


# -- lists, and checkpoints of other projects

@pytest.mark.parametrize("pattern, message", [
    ("foo", "nothing matches 'foo'. worldkit list shows all there is"),
    ("sketchy", "nothing is called 'sketchy', but dvae-sketchy, lpwm-sketchy,"),
    ("lpwm-skechy", "nothing matches 'lpwm-skechy'. Did you mean 'lpwm-sketchy'?"),
    ("x*y", "nothing matches 'x*y'"),
])
def test_lists_of_nothing(pattern, message, capsys):
    assert message in told(["list", pattern], capsys)


def test_a_list_without_models_has_no_table_of_them(capsys):
    assert main(["list", "gru"]) == 0
    assert capsys.readouterr().out == "dynamics: gru\ncells: gru\n"


@pytest.fixture
def strange(here):
    """strange(name) -> a file that is no checkpoint."""
    import numpy as np
    import torch

    (here / "notes.txt").write_text("my notes\n" * 9)
    (here / "h.json").write_text('{"a": 1}')
    (here / "empty.pth").write_bytes(b"")
    np.save("w.npy", np.zeros(2))
    np.savez("w.npz", a=np.zeros(2))
    torch.save({"a": torch.zeros(99)}, "ok.pth")
    torch.save({"epoch": 3, "ema": {"a": torch.zeros(2)}}, "wrapped.pth")
    torch.save(torch.nn.Linear(2, 2), "module.pth")
    (here / "cut.pth").write_bytes((here / "ok.pth").read_bytes()[:300])
    (here / "random.pth").write_bytes(bytes(range(1, 90)))


@pytest.mark.parametrize("file, message", [
    ("notes.txt", "cannot read checkpoint notes.txt: it is a text file; give the .pth file"),
    ("h.json", "it is a text file"), ("empty.pth", "it is empty"), ("w.npy", "NumPy array"), ("w.npz", "NumPy archive"),
    ("cut.pth", "it is cut off or damaged"), ("random.pth", "no file of torch.save"), (".", "cannot read checkpoint ."),
    ("wrapped.pth", "holds a dict that is no state dict (names -> tensors): it has epoch, ema"),
    ("none.pth", "no such checkpoint: none.pth"),
    ("module.pth", "it holds more than tensors (torch.nn.modules.linear.Linear)"),
])
def test_files_that_are_no_checkpoint(file, message, strange, capsys):
    error = told(["convert", "lpwm", file, "--hparams", "h.json", "--out", "out"], capsys)
    assert message in error and "weights_only" not in error


def test_hparams_that_are_none(strange, capsys):
    for file in ("ok.pth", "w.npz"):  # swapped, and the like
        error = told(["convert", "lpwm", "h.json", "--hparams", file, "--out", "out"], capsys)
        assert "it is no JSON" in error and "--hparams names the hparams.json" in error
    assert "hparams lack the key" in told(["convert", "lpwm", "ok.pth", "--hparams", "h.json", "--out", "o"], capsys)
    with pytest.raises(ConfigError, match="a value in the hparams is of another kind"):
        wk.convert.from_lpwm("ok.pth", {"timestep_horizon": "many"})


def test_networks_of_metrics_that_are_none(strange, capsys):
    files = ["--lpips-backbone", "notes.txt", "--lpips-heads", "notes.txt"]
    assert "cannot be read (it is a text file)" in told(["eval", MODEL, *BALLS, *files], capsys)
    assert "is no TorchScript file" in told(["eval", MODEL, *BALLS, "--i3d", "notes.txt"], capsys)


# -- the command line's spelling

@pytest.mark.parametrize("message, command, typed", [
    ("pass on_error='skip' to leave", "train", "pass -o data.on_error=skip to leave"),
    ("pass on_error='skip' to leave", "data", "pass -o on_error=skip to leave"),
    ("choose others with cameras=", "eval", "choose others with -o data.cameras=VALUE"),
    ("left out unless cameras= names it", "data", "left out unless -o cameras=VALUE names it"),
    ("one with series=a/b (worldkit data: -o series=...)", "data",
     "one with -o series=a/b (worldkit data: -o series=...)"),
    ("another path, or overwrite=True to", "data", "another path, or --overwrite to"),
    ("set latent_action='gaussian', or to='dynamics'", "train",
     "set -o latent_action=gaussian, or -o conditioners.NAME.to=dynamics"),
    ("set dynamics=None, or objective='elbo'", "train", "set -o dynamics=none, or -o objective=elbo"),
    ("x needs latent actions: create_model(..., latent_action='gaussian')", "rollout",
     "x needs latent actions: train with -o latent_action=gaussian"),
    ("no decoder; create it with decoder=... and train that", "rollout", "no decoder; train one with -o decoder=NAME"),
    ("runs/encoder=slot-12/resize=pad.txt, data.resize=crop", "eval",
     "runs/encoder=slot-12/resize=pad.txt, data.resize=crop"),
    ("encoder=slot, dynamics.dim=3: failed", "ablate", "encoder=slot, dynamics.dim=3: failed"),
])
def test_messages_are_spelled_as_they_are_typed(message, command, typed):
    assert typed in as_typed(message, command)


def test_a_damaged_film_is_told_with_the_option_to_type(here, capsys):
    (here / "film.mp4").write_bytes(b"x" * 999)
    error = told(["train", MODEL, "--data", "film.mp4"], capsys)
    assert "-o data.on_error=skip leaves such clips out" in error
    (here / "out").mkdir()
    error = told(["data", "convert", *BALLS[1:], "out", "--to", "npz"], capsys)
    assert "or --overwrite to replace it" in error


@pytest.mark.parametrize("option, message", [
    ("num_episodes=many", "option num_episodes of format 'balls' must be a whole number, got 'many'"),
    ("episode_length=2.5", "must be a whole number, got 2.5"), ("num_episodes=true", "a whole number, got True"),
    ("format=3", "unknown data format '3'"),
])
def test_numbers_of_data_that_are_none(option, message, here, capsys):
    assert message in told(["rollout", MODEL, *BALLS, "-o", f"data.{option}"], capsys)


def test_switches_of_writers_that_are_none(here, capsys):
    error = told(["data", "convert", *BALLS[1:], "out", "--to", "video", "-w", "lossless=maybe"], capsys)
    assert "option lossless of the writer 'video' must be true or false, got 'maybe'" in error
