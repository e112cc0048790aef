"""Learning-rate schedules, the moving average, warnings, loggers, the lock, and the plan of a dry run."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from worldkit import create_config, list_models
from worldkit.data import ArraySource, write_dataset
from worldkit.errors import ConfigError, MissingExtraError, TrainingError
from worldkit.training import TrainConfig, Trainer
from worldkit.training.commit import commit
from worldkit.training.ema import EMA
from worldkit.training.lock import locked
from worldkit.training.loggers import TensorBoardLogger, _identifier
from worldkit.training.plan import _kept_bytes, plan
from worldkit.training.recipes import make_trainer
from worldkit.training.schedule import learning_rate
from worldkit.training.watch import PATIENCE, Watch

SMALL_BALLS = {"num_episodes": 4, "episode_length": 12}


def rates(steps, **options):
    config = TrainConfig(lr=1.0, **options)
    return [round(learning_rate(config, step, steps), 4) for step in range(steps)]


@pytest.mark.parametrize("options, expected", [
    ({}, [1, 1, 1, 1]),
    ({"warmup_steps": 2}, [0.5, 1, 1, 1]),
    ({"schedule": "step", "decay_every": 2, "decay_factor": 0.1}, [1, 1, 0.1, 0.1]),
    ({"schedule": "cosine", "final_lr": 0.2}, [1, 0.8, 0.4, 0.2]),
    ({"warmup_steps": 2, "early_factor": 3.0, "early_steps": 3}, [1.5, 3, 3, 1]),
    ({"warmup_steps": 3, "early_factor": 3.0, "early_steps": 1}, [1, 0.6667, 1, 1]),
])
def test_schedules(options, expected):
    assert rates(4, **options) == pytest.approx(expected, abs=1e-4)


def test_a_step_may_be_an_epoch():
    """As of StepLR called once per epoch: DDLP's."""
    config = TrainConfig(lr=1.0, schedule="step", decay_every=0, decay_factor=0.95)
    assert [learning_rate(config, step, 9, 3) for step in range(7)] == pytest.approx([1] * 3 + [0.95] * 3 + [0.9025])


def test_the_average_follows_the_weights_and_gives_them_back():
    model = nn.Linear(2, 1)
    ema, seen = EMA(model, 0.5), []
    average = model.weight.detach().clone()
    for n in range(1, 4):
        with torch.no_grad():
            model.weight += 1
        ema.update(model)
        decay = min(0.5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * model.weight.detach()
        seen.append(torch.allclose(ema.average["weight"], average))
    own = model.weight.detach().clone()
    with ema.weights_in(model):
        assert torch.allclose(model.weight, average) and not torch.allclose(model.weight, own)
    assert all(seen) and torch.equal(model.weight, own)
    other = EMA(model, 0.5)
    other.load_state_dict(ema.state_dict())
    assert torch.equal(other.average["weight"], ema.average["weight"]) and other.updates == 3


def test_a_diverging_kl_is_named_once():
    watch = Watch()
    quiet = [watch.look(step, {"kl_dynamics": 5.0, "kl_dynamics/position": 1e9}) for step in range(20)]
    loud = [watch.look(step, {"kl_dynamics": 1000.0}) for step in range(20, 30)]
    assert not any(quiet) and sum(map(len, loud)) == 1
    assert "kl_dynamics diverges" in sum(loud, [])[0]


def test_what_was_watched_survives_a_stop(tiny_model, balls, tmp_path):
    whole = trainer(tiny_model(), balls, tmp_path / "whole", steps=3)
    whole.fit()
    for steps in (1, 3):
        parts = trainer(tiny_model(), balls, tmp_path / "parts", steps=steps)
        parts.fit()
    assert parts.watch.mean == whole.watch.mean and parts.watch.lowest == whole.watch.lowest != {}
    watch = Watch()
    watch.look(0, {"kl": 5.0})
    again = Watch()
    again.load_state_dict(watch.state_dict())
    assert "kl diverges" in again.look(1, {"kl": 5000.0})[0]


@pytest.mark.parametrize("visible, word", [(0.0, "gone"), (12.0, "saturated"), (6.0, None)])
def test_particles_that_stay_gone_or_saturated_are_named(visible, word):
    watch = Watch(num_particles=12)
    early = watch.look(0, {"visible_particles": visible}) + watch.look(PATIENCE - 1, {"visible_particles": visible})
    late = watch.look(PATIENCE, {"visible_particles": visible})
    assert early == [] and ([word in text for text in late] == [True] if word else late == [])


def test_dead_slots_are_named():
    masks = torch.full((3, 2, 4, 1, 8, 8), 0.25)
    assert Watch().look_at_masks(masks) == [] and Watch().look_at_masks(None) == []
    masks[:, :, 2], masks[:, :, 1] = 0.0, 0.5
    warned = Watch().look_at_masks(masks)
    assert "1 of 4 drawn tokens are dead" in warned[0] and warned[0].endswith(": 2")


def trainer(model, balls, folder, **options):
    options = dict(batch_size=4, steps=2, eval_every=100, eval_clips=2, log_every=1) | options
    return Trainer(model, balls(4), balls(4, "val"), TrainConfig(**options), run=folder, show_progress=False)


def test_warnings_reach_the_log_with_step_and_checkpoint(tiny_model, balls, tmp_path):
    run = trainer(tiny_model(), balls, tmp_path)
    run.watch.look = lambda step, terms: ["something is wrong"] if step == 2 else []
    warned = [line["warning"] for line in run.fit().log if "warning" in line]
    assert warned == ["step 2: something is wrong. Last checkpoint: none yet"]


def test_tensorboard(tiny_model, balls, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = trainer(tiny_model(), balls, tmp_path, loggers=("tensorboard",)).fit().log
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [event.value for event in events.Scalars("loss")]
    assert found == pytest.approx([line["loss"] for line in log if "loss" in line])


@pytest.mark.parametrize("saved", [0, 4])
def test_tensorboard_goes_on_after_the_last_checkpoint(saved, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps in ((0, (2, 4, 6)), (saved, range(saved + 2, 9, 2))):  # killed after step 6, and once more
        logger = TensorBoardLogger(tmp_path, {}, start)
        for step in steps:
            logger.write(step, {"loss": float(step)})
        logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6, 8]


def test_weights_and_biases_take_any_name_of_a_run_folder(tmp_path):
    assert re.fullmatch("lr-1e-4--2-[0-9a-f]{8}", _identifier(tmp_path / "lr:1e-4 #2"))


def test_weights_and_biases_offline(tiny_model, balls, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    trainer(tiny_model(), balls, tmp_path, loggers=("wandb",)).fit()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_a_logger_that_is_not_installed_is_named(tiny_model, balls, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r'tensorboard, which is not installed\. .* -e "\.\[logging\]"'):
        trainer(tiny_model(), balls, tmp_path, loggers=("tensorboard",)).fit()


def test_the_plan_trains_and_writes_nothing(tiny_model, balls, tmp_path):
    run = trainer(tiny_model(), balls, tmp_path / "run", gradient_accumulation=2)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    lines = plan(run)
    assert not (tmp_path / "run").exists()
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())
    assert lines["parameters: total"] == f"{sum(p.numel() for p in run.model.parameters()):,}"
    assert lines["clips per step"] == "4 x 2 accumulated x 1 process(es)" and lines["steps"] == "2"
    assert lines["first batch: video"] == "torch.uint8 [4, 4, 3, 32, 32]"
    assert "MB per process" in lines["memory estimate"] and "from the beginning" in lines["run folder"]


def test_the_plan_counts_what_the_precision_keeps(tiny_model, balls, tmp_path):
    runs = [trainer(tiny_model(), balls, tmp_path, precision=precision) for precision in ("no", "bf16")]
    full, half = (_kept_bytes(run, next(iter(run.loader))) for run in runs)
    assert half < 0.9 * full


def test_the_plan_goes_on_without_the_weights_of_a_perceptual_loss(tiny_model, balls, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *a, **k: (_ for _ in ()).throw(OSError("no net")))
    lines = plan(trainer(tiny_model(objective={"reconstruction": "vgg"}), balls, tmp_path / "run"))
    assert "MB per process" in lines["memory estimate"]
    assert "train -o train.vgg_backbone=FILE -o train.lpips_heads=FILE" in lines["missing"]
    assert "eval --lpips-backbone FILE --lpips-heads FILE" in lines["missing"]


def test_the_plan_says_what_becomes_of_the_run_folder(tiny_model, balls, tmp_path):
    trainer(tiny_model(), balls, tmp_path, steps=1).fit()
    goes_on = plan(trainer(tiny_model(), balls, tmp_path, lr=1e-5))["run folder"]
    assert "goes on from step-00000001; changed: train.lr " in goes_on and goes_on.endswith("train.steps 1 -> 2")
    other = trainer(tiny_model(objective={"num_static_frames": 2}), balls, tmp_path)
    assert "REFUSED: run folder" in plan(other)["run folder"]
    assert "REFUSED: run" in plan(trainer(tiny_model(), balls, tmp_path, seed=7))["run folder"]
    (tmp_path / "run.json").write_text("[1]")
    with pytest.warns(UserWarning, match="run.json cannot be read"):
        assert "REFUSED: run folder" in plan(other)["run folder"]  # the checkpoint knows the model, too


def test_the_moving_average_is_what_is_evaluated_and_kept_as_best(tiny_model, balls, tmp_path):
    run = trainer(tiny_model(), balls, tmp_path, ema=0.5, steps=3)
    run.fit()
    from worldkit import WorldModel

    best = dict(WorldModel.from_pretrained(tmp_path / "best").named_parameters())
    assert all(torch.equal(best[name], value) for name, value in run.ema.average.items())
    assert not all(torch.equal(best[name], value) for name, value in run.model.named_parameters())
    run.ema.apply(run.model)
    assert all(torch.equal(best[name], value) for name, value in run.model.named_parameters())


@pytest.mark.parametrize("options, message", [
    ({"gradient_accumulation": 10_000}, "too few for gradient_accumulation=10000"),
    ({"strategy": "fsdp"}, "start several with torchrun"),
])
def test_options_that_cannot_work(tiny_model, balls, tmp_path, options, message):
    with pytest.raises(TrainingError, match=message):
        trainer(tiny_model(), balls, tmp_path, **options)


def test_a_checkpoint_without_the_average_is_not_resumed_with_one(tiny_model, balls, tmp_path):
    trainer(tiny_model(), balls, tmp_path).fit()
    with pytest.raises(TrainingError, match="another train.ema None -> 0.9"):
        trainer(tiny_model(), balls, tmp_path, ema=0.9, steps=3).fit()
    (tmp_path / "run.json").unlink()
    with pytest.raises(TrainingError, match="has no moving average"):
        trainer(tiny_model(), balls, tmp_path, ema=0.9, steps=3).fit()


def test_the_learning_rate_is_logged_and_survives_a_stop(tiny_model, balls, tmp_path):
    options = dict(schedule="cosine", warmup_steps=1, lr=1e-3)
    whole = trainer(tiny_model(), balls, tmp_path / "whole", steps=3, **options).fit()
    found = [line["lr"] for line in whole.log if "lr" in line]
    assert found == pytest.approx([learning_rate(TrainConfig(**options), step, 3) for step in range(3)])
    assert json.loads((tmp_path / "whole/run.json").read_text())["train"]["schedule"] == "cosine"


def test_a_misspelt_schedule_is_refused():
    with pytest.raises(ConfigError, match="schedule"):
        TrainConfig.parse({"schedule": "cosin"})


def test_action_statistics_are_saved_with_the_model(tmp_path):
    import numpy as np

    from worldkit.data import ArraySource, write_dataset
    from worldkit.training.recipes import train

    rng = np.random.default_rng(0)
    episodes = [{"video": rng.integers(0, 255, (8, 3, 32, 32), np.uint8), "action": rng.normal(size=(8, 2)).astype("f")}
                for _ in range(6)]
    write_dataset(ArraySource(episodes), tmp_path / "set", "npz")
    overrides = {"conditioners": {"action": {"name": "action", "dim": 2}}, "timestep_horizon": 3, "latent_action": None,
                 "dynamics": {"dim": 16, "num_layers": 1, "num_heads": 2}}
    train("lpwm-balls-mini", str(tmp_path / "set"), run=tmp_path / "run", overrides=overrides, show_progress=False,
          data_options={"split_seed": 1}, train_overrides={"steps": 1, "batch_size": 2, "eval_clips": 1})
    facts = json.loads((tmp_path / "run/best/train.json").read_text())
    assert facts["data.split_seed"] == 1
    saved = facts["statistics of action"]
    assert len(saved["mean"]) == 2 and saved["count"] > 0 and saved["min"] < saved["max"]


def test_denormal_numbers_count_as_zero_inside_only():
    from worldkit.training.denormals import flush_denormals, flushing

    assert not flushing()
    with flush_denormals():
        inside = flushing()
        with flush_denormals():
            pass
        assert flushing() == inside
    assert not flushing() and inside == torch.set_flush_denormal(False)


def test_the_commit_of_a_folder(tmp_path):
    def git(*arguments):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", tmp_path, *name, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    known, stranger = tmp_path / "known.py", tmp_path / "stranger.py"
    known.write_text("1")
    assert commit(tmp_path) is None  # no repository
    git("init")
    git("add", "known.py")
    git("commit", "-m", "first")
    stranger.write_text("2")
    head = git("rev-parse", "HEAD").strip()
    assert commit(tmp_path) == commit(known) == head and commit(stranger) is None
    known.write_text("3")
    assert commit(tmp_path) == commit(known) == head + "-dirty"


def test_one_command_at_a_time(tmp_path):
    pytest.importorskip("fcntl")
    words = dict(command="worldkit train", instead="--run")
    with locked(tmp_path, **words), pytest.raises(TrainingError, match=rf"process {os.getpid()} on .*--run"):
        with locked(tmp_path, **words, patience=0.0):
            pass
    with locked(tmp_path, **words, patience=0.0) as descriptor:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    try:
        with locked(tmp_path, **words, patience=0.0):  # given back, though a child still has the descriptor
            pass
    finally:
        child.kill()


def test_a_second_training_in_a_run_folder_is_refused(tiny_model, balls, tmp_path, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr("worldkit.training.trainer.LOCK_PATIENCE", 0.0)
    with locked(tmp_path, command="worldkit train", instead="--run"):
        with pytest.raises(TrainingError, match="at work in .*give another --run"):
            trainer(tiny_model(), balls, tmp_path, steps=1).fit()
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    assert trainer(tiny_model(), balls, tmp_path, steps=1).fit().step == 1


def test_a_plan_without_weights_is_the_plan(tmp_path):
    made = [make_trainer("lpwm-balls-mini", "balls-32", run=tmp_path, data_options=SMALL_BALLS, dry_run=dry_run)
            for dry_run in (False, True)]
    whole, dry = map(plan, made)
    assert whole == dry
    assert all(isinstance(p.data, FakeTensor) for p in made[1].model.parameters())


@pytest.mark.slow
def test_the_plan_of_the_largest_preset_is_cheap(tmp_path):
    """Measured: 4.5 CPU seconds on two idle cores, 0.4 GB (it was 96 s, 13.2 GB); wanted are 10 seconds and 1 GB."""
    sizes = {name: create_config(name).obs.height ** 2 * create_config(name).clip_length for name in list_models()}
    largest = max(sizes, key=sizes.get)
    episodes = [{"video": np.zeros((40, 3, 128, 128), np.uint8), "language": np.zeros((32, 1024), np.float32)}] * 8
    write_dataset(ArraySource(episodes), tmp_path / "data", "npz")
    code = (f"import sys, resource; from worldkit.cli import main\n"
            f"main(['train', {largest!r}, '--data', {str(tmp_path / 'data')!r}, '--dry-run'])\n"
            "used = resource.getrusage(resource.RUSAGE_SELF)\n"
            "print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    seconds, kilobytes = map(float, done.stderr.split()[-2:])
    assert largest == "lpwm-bridge" and "MB per process" in done.stdout
    assert seconds < 10 and kilobytes < 1e6
