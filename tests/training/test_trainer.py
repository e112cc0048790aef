import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from worldkit.errors import CheckpointError, ConfigError, TrainingError
from worldkit.training import TrainConfig, Trainer
from worldkit.training.checkpoint import RunLog, latest_checkpoint
from worldkit.training.record import fingerprint

OPTIONS = dict(batch_size=4, lr=1e-3, eval_every=100, save_every=2, eval_clips=4, log_every=1)


def run(model, balls, folder, **options):
    trainer = Trainer(model, balls(4), balls(4, "val"), TrainConfig(**(OPTIONS | options)), run=folder,
                      show_progress=False)
    return trainer.fit()


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def without_time(log):
    return [{k: v for k, v in line.items() if k not in ("seconds", "cpu")} for line in log]


def test_training_lowers_the_loss(tiny_model, balls, tmp_path):
    log = [line for line in run(tiny_model(), balls, tmp_path, steps=30, lr=3e-3, save_every=30).log if "loss" in line]
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]


def test_a_stopped_run_goes_on_to_the_same_numbers(tiny_model, balls, tmp_path):
    """Across an epoch border, with noise: weights and log are bit-identical to a run that never stopped."""
    steps = len(balls(4)) // 4 + 3
    whole, parts = tiny_model(), tiny_model()
    expected = run(whole, balls, tmp_path / "whole", steps=steps, save_every=6)
    run(parts, balls, tmp_path / "parts", steps=steps - 5, save_every=6)
    torch.manual_seed(12345)
    fresh = tiny_model(seed=99)
    result = run(fresh, balls, tmp_path / "parts", steps=steps, save_every=6)
    assert result.step == steps
    assert same_weights(whole, fresh)
    # the stopped run evaluated once more, at its end
    losses = [line for line in without_time(result.log) if "loss" in line]
    assert losses == [line for line in without_time(expected.log) if "loss" in line]


def test_a_run_whose_steps_take_turns_logs_the_newest_whole_loss_and_resumes(tiny_model, balls, tmp_path):
    objective = {"frames_first": 1, "dynamics_turns": 2}
    whole, parts = tiny_model(objective=objective), tiny_model(objective=objective)
    expected = run(whole, balls, tmp_path / "whole", steps=7)
    run(parts, balls, tmp_path / "parts", steps=3)
    result = run(parts, balls, tmp_path / "parts", steps=7)
    assert same_weights(whole, parts)
    lines, same = ([line for line in without_time(r.log) if "loss" in line] for r in (expected, result))
    assert lines == same and len(lines) == 7
    assert [a["loss"] == b["loss"] for a, b in zip(lines, lines[1:], strict=False)] == [0, 1, 1, 0, 1, 1]
    assert all(a["kl_dynamics"] != b["kl_dynamics"] for a, b in zip(lines[1:], lines[2:], strict=False))


@pytest.mark.parametrize("step", [2, 3])  # in the middle, and the last one
def test_the_evaluation_that_a_stop_prevented_is_made_up_for(step, tiny_model, balls, tmp_path):
    expected = run(tiny_model(), balls, tmp_path / "whole", steps=3, eval_every=2)
    model = tiny_model()
    trainer = Trainer(model, balls(4), balls(4, "val"), TrainConfig(**(OPTIONS | {"eval_every": 2, "steps": 3})),
                      run=tmp_path / "parts", show_progress=False)
    trainer.optimizer.register_step_post_hook(
        lambda *_: trainer.stop() if trainer.progress.step == step - 1 else None)
    stopped = trainer.fit()
    assert stopped.step == step and not stopped.finished
    assert sum("valid_loss" in line for line in stopped.log) == step - 2
    again = run(tiny_model(seed=9), balls, tmp_path / "parts", steps=3, eval_every=2)
    assert again.finished and without_time(again.log) == without_time(expected.log)
    best = [load_file(tmp_path / name / "best/model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(best[0][name], value) for name, value in best[1].items())
    assert run(tiny_model(), balls, tmp_path / "parts", steps=3, eval_every=2).log == again.log  # once is enough


def test_a_crash_costs_only_the_steps_since_the_last_checkpoint(tiny_model, balls, tmp_path):
    whole = tiny_model()
    run(whole, balls, tmp_path / "whole", steps=7)
    crashing = tiny_model()
    original, calls = crashing.forward, []

    def forward(batch, step=0, **noise):
        calls.append(step)
        if step == 5:
            raise RuntimeError("power cut")
        return original(batch, step, **noise)

    crashing.forward = forward
    with pytest.raises(RuntimeError, match="power cut"):
        run(crashing, balls, tmp_path / "crash", steps=7)
    again = tiny_model(seed=5)
    run(again, balls, tmp_path / "crash", steps=7)
    assert same_weights(whole, again)


def test_a_damaged_checkpoint_is_passed_over(tiny_model, balls, tmp_path):
    run(tiny_model(), balls, tmp_path, steps=4)
    newest = latest_checkpoint(tmp_path)
    (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:100])
    with pytest.warns(UserWarning, match="cannot be read"):
        assert latest_checkpoint(tmp_path).name == "step-00000002"


def truncate(checkpoint):
    for name in ("state.pt", "model.safetensors"):
        (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:100])


def test_going_on_keeps_what_is_written_and_drops_what_is_damaged(tiny_model, balls, tmp_path):
    whole, again = tiny_model(), tiny_model(seed=5)
    run(whole, balls, tmp_path, steps=3, save_every=1, keep=3)
    for step in (2, 3):
        truncate(tmp_path / f"checkpoints/step-0000000{step}")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert run(again, balls, tmp_path, steps=2, save_every=1, keep=1).step == 2
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert latest_checkpoint(tmp_path).name == "step-00000002"


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(tiny_model, balls, tmp_path):
    run(tiny_model(), balls, tmp_path, steps=1)
    truncate(tmp_path / "checkpoints/step-00000001")
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="none of the 1 .* delete them to begin anew"):
        run(tiny_model(), balls, tmp_path, steps=1)


def test_what_a_killed_save_left_is_cleared_away(tiny_model, balls, tmp_path):
    run(tiny_model(), balls, tmp_path, steps=1)
    for left in ("checkpoints/.step-00000002.ab_c.partial", "checkpoints/.step-00000001.old", ".best.xyz.partial"):
        (tmp_path / left).mkdir()
    (tmp_path / "best").rename(tmp_path / ".best.old")  # killed between the two renamings
    run(tiny_model(), balls, tmp_path, steps=1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert (tmp_path / "best/model.safetensors").exists() and not list(tmp_path.glob(".best*"))


def test_a_loss_that_is_not_finite_stops_the_run(tiny_model, balls, tmp_path):
    run(tiny_model(), balls, tmp_path, steps=2)
    model = tiny_model()
    trainer = Trainer(model, balls(4), balls(4, "val"), TrainConfig(**OPTIONS, steps=9), run=tmp_path,
                      show_progress=False)
    original, step_of = model.forward, []

    def forward(batch, step=0, **noise):
        if step == 3:
            with torch.no_grad():
                model.decoder.to_background_map.project[0].weight.fill_(float("nan"))
        step_of.append(step)
        return original(batch, step, **noise)

    model.forward = forward
    with pytest.raises(TrainingError, match=r"at step 4; terms that are not finite: .*reconstruction.*"
                       r"the last good checkpoint is .*step-00000002"):
        trainer.fit()


def test_a_checkpoint_that_leads_to_nan_has_one_before_it(tiny_model, balls, tmp_path):
    """Weights may be finite and yet lost: the one kept checkpoint goes only when the next has made a step."""
    model = tiny_model()
    original = model.forward

    def forward(batch, step=0, **noise):
        loss = original(batch, step, **noise)
        return replace(loss, total=loss.total * float("nan")) if step == 3 else loss

    model.forward = forward
    with pytest.raises(TrainingError, match=r"nan at step 4; .*step-00000003 leads there at once: delete it to go on "
                                            r"from the last good checkpoint, .*step-00000002"):
        run(model, balls, tmp_path, steps=9, save_every=1, keep=1)
    shutil.rmtree(tmp_path / "checkpoints/step-00000003")
    assert run(tiny_model(), balls, tmp_path, steps=4, save_every=1, keep=1, lr=1e-9).step == 4
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]  # its evaluation was finite


def test_what_is_not_finite_is_neither_stepped_with_nor_saved(tiny_model, balls, tmp_path):
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    next(model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="gradients' norm became (nan|inf) at step 1; there is no checkpoint yet"):
        run(model, balls, tmp_path / "gradient", steps=3, max_grad_norm=1.0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    trainer = Trainer(tiny_model(), balls(4), balls(4, "val"), TrainConfig(**OPTIONS, steps=9), run=tmp_path / "weight",
                      show_progress=False)
    trainer.optimizer.register_step_post_hook(
        lambda *_: next(trainer.model.parameters()).data.fill_(float("nan")) if trainer.progress.step == 1 else None)
    with pytest.raises(TrainingError, match="a weight became nan at step 2; there is no checkpoint yet"):
        trainer.fit()
    with pytest.raises(TrainingError, match="validation loss became nan at step 1; there is no checkpoint yet"):
        run(tiny_model(), balls, tmp_path / "valid", steps=2, lr=1e38, eval_every=1)
    assert not list(tmp_path.glob("*/checkpoints/*"))


@pytest.mark.parametrize("what", ["torch.save", "safetensors.torch.save_file", "worldkit.training.trainer.save_png"])
def test_a_full_disk_is_named_with_the_way_back(what, tiny_model, balls, tmp_path, monkeypatch):
    def full(*_, **__):
        raise (RuntimeError if what == "torch.save" else OSError)("No space left on device")

    run(tiny_model(), balls, tmp_path, steps=1)
    monkeypatch.setattr(what, full)
    with pytest.raises(TrainingError, match=r"cannot write .* after step 2 \((Runtime|OS)Error: No space left .*: the "
                                            r"last good checkpoint is .*step-00000001. Is the disk full\?"):
        run(tiny_model(), balls, tmp_path, steps=2)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_run_folder_of_another_model_is_refused(tiny_model, balls, tmp_path):
    run(tiny_model(), balls, tmp_path, steps=1)
    message = "another model configuration: timestep_horizon is 3 there, 2 here. Give"
    with pytest.raises(TrainingError, match=message):
        run(tiny_model(timestep_horizon=2), balls, tmp_path, steps=2)
    message = "dynamics.dim is 16 there, 32 here .and 1 more.. Give"
    with pytest.raises(TrainingError, match=message):
        run(tiny_model(timestep_horizon=2, dynamics=dict(dim=32, num_layers=1, num_heads=2)), balls, tmp_path, steps=2)


def test_other_data_are_refused_wherever_they_lie(tiny_model, balls, tmp_path):
    def fit(clips, steps):
        config = TrainConfig(**(OPTIONS | {"steps": steps}))
        return Trainer(tiny_model(), clips, balls(4, "val"), config, run=tmp_path, show_progress=False).fit()

    fit(balls(4), 1)
    began = (tmp_path / "run.json").read_text()
    with pytest.raises(TrainingError, match=f"the data are not those .*-o train.init_from={tmp_path}"):
        fit(balls(4, "test"), 2)
    assert (tmp_path / "run.json").read_text() == began
    record = json.loads(began)
    assert record.pop("data fingerprint") == fingerprint(balls(4)) != fingerprint(balls(4, "test"))
    (tmp_path / "run.json").write_text(json.dumps(record))  # of an older version
    assert fit(balls(4), 2).step == 2
    assert json.loads((tmp_path / "run.json").read_text())["data fingerprint"] == fingerprint(balls(4))


@pytest.mark.parametrize("option, values", [
    ("seed", (0, 1)), ("select_by", ("prior", "loss")), ("ema", (0.9, 0.99)), ("init_from", (None, "other")),
    ("clips", ("all", "tile")), ("ema_every", (1, 2)), ("optimizer", ("adam", "laprop"))])
def test_options_that_a_run_keeps_for_life(option, values, tiny_model, balls, tmp_path):
    run(tiny_model(), balls, tmp_path, steps=1, **{option: values[0]})
    with pytest.raises(TrainingError, match=rf"another train.{option} {values[0]} -> {values[1]}: leave it as"):
        run(tiny_model(), balls, tmp_path, steps=2, **{option: values[1]})


def test_what_changed_is_told_and_recorded(tiny_model, balls, tmp_path, monkeypatch, capsys):
    def fit(**options):
        Trainer(tiny_model(), balls(4), balls(4, "val"), TrainConfig(**(OPTIONS | options)), run=tmp_path,
                facts={"data": "balls", "data.num_episodes": options["steps"]}).fit()

    fit(steps=1, init_from="first")
    began = json.loads((tmp_path / "run.json").read_text())
    monkeypatch.setattr("sys.argv", ["the", "second", "command"])
    fit(steps=2, lr=1e-4)
    fit(steps=2, lr=1e-4)
    told = "data.num_episodes 1 -> 2, train.lr 0.001 -> 0.0001, train.steps 1 -> 2"
    assert f"changed since the run began: {told}" in " ".join(capsys.readouterr().out.split())
    record = json.loads((tmp_path / "run.json").read_text())
    resumed = record.pop("resumed")
    assert record == began and [entry["step"] for entry in resumed] == [1, 2]
    assert resumed[0]["changed"]["train.lr"] == [1e-3, 1e-4] and resumed[0]["command"] == "the second command"


@pytest.mark.parametrize("damage", [lambda file: file.write_text(""), lambda file: file.unlink()])
@pytest.mark.filterwarnings("ignore:.*run.json cannot be read")
def test_a_run_goes_on_without_its_record(damage, tiny_model, balls, tmp_path):
    run(tiny_model(), balls, tmp_path, steps=1)
    damage(tmp_path / "run.json")
    with pytest.raises(TrainingError, match="another model configuration"):
        run(tiny_model(timestep_horizon=2), balls, tmp_path, steps=2)
    assert run(tiny_model(), balls, tmp_path, steps=2).step == 2
    assert json.loads((tmp_path / "run.json").read_text())["resumed"][0]["step"] == 1


def test_only_the_newest_checkpoints_stay(tiny_model, balls, tmp_path):
    run(tiny_model(), balls, tmp_path, steps=8, keep=2)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000006", "step-00000008"]


def test_the_run_folder_tells_how_it_was_made(tiny_model, balls, tmp_path):
    model = tiny_model()
    rollouts = (balls(6, "val", "tile"), 3)
    config = TrainConfig(**(OPTIONS | {"eval_every": 2, "steps": 2}))
    Trainer(model, balls(4), balls(4, "val"), config, run=tmp_path, rollouts=rollouts, show_progress=False).fit()
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["model"] == model.config.to_dict()
    assert {"train", "command", "commit", "worldkit", "torch", "device", "threads"} <= set(described)
    figures = sorted(p.name for p in (tmp_path / "figures").iterdir())
    assert figures == ["step-00000002-panel.png", "step-00000002-rollout.gif", "step-00000002-rollout.png"]
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert {"valid_loss", "psnr_prediction", "psnr_copy_last", "psnr_mean_frame"} <= set(last)
    assert (tmp_path / "best" / "model.safetensors").exists()


def test_seconds_limit_a_run(tiny_model, balls, tmp_path):
    result = run(tiny_model(), balls, tmp_path, seconds=0.5, save_every=0)
    assert result.finished and 0.5 <= result.seconds < 5


def test_a_schedule_of_epochs_knows_how_long_they_are(tiny_model, balls, tmp_path):
    log = run(tiny_model(), balls, tmp_path, steps=3, batch_size=26, schedule="step", decay_every=0, lr=1e-3).log
    assert [line["lr"] for line in log if "lr" in line] == pytest.approx([1e-3, 1e-3, 5e-4])  # 52 clips


@pytest.mark.parametrize("level", ["cnn", "all"])
def test_recomputation_changes_nothing_but_memory(tiny_model, balls, tmp_path, level):
    plain, recomputing = tiny_model(), tiny_model()
    run(plain, balls, tmp_path / "plain", steps=3, checkpointing="off")
    run(recomputing, balls, tmp_path / "level", steps=3, checkpointing=level)
    for (name, a), b in zip(plain.state_dict().items(), recomputing.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_bf16_trains(tiny_model, balls, tmp_path):
    log = [line for line in run(tiny_model(), balls, tmp_path, steps=3, precision="bf16").log if "loss" in line]
    assert log[-1]["loss"] < log[0]["loss"] * 1.5
    exact = [line for line in run(tiny_model(), balls, tmp_path / "exact", steps=1).log if "loss" in line]
    assert log[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.02) and log[0]["loss"] != exact[0]["loss"]


def test_fp16_is_not_ignored_on_a_cpu(tiny_model, balls, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="precision 'fp16' needs a GPU; on a CPU take 'bf16' or 'no'"):
        run(tiny_model(), balls, tmp_path, steps=1, precision="fp16")


def test_the_scale_of_losses_is_kept(tiny_model, balls, tmp_path):
    """fp16 multiplies losses by a number that it adapts; here a CPU does."""

    def scaled(model, steps):
        trainer = Trainer(model, balls(4), balls(4, "val"), TrainConfig(**(OPTIONS | {"steps": steps})),
                          run=tmp_path / "run", show_progress=False)
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=2)
        trainer.fit()
        return trainer.accelerator.scaler

    assert scaled(tiny_model(), 2).get_scale() == 2.0**21
    assert scaled(tiny_model(seed=99), 4).get_scale() == 2.0**22  # went on; from nothing it would be 2^21 again


def test_a_misspelt_option_is_refused():
    with pytest.raises(ConfigError, match=r"unknown option 'batchsize'. Did you mean 'batch_size'\?"):
        TrainConfig.parse({"batchsize": 4})


def test_a_cut_off_log_line_is_dropped(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    log = RunLog(file, step=2)
    log.write({"step": 3})
    assert log.read() == [{"step": 1}, {"step": 2}, {"step": 3}]


@pytest.mark.parametrize("rule, entry", [
    ("prior", "psnr_prediction"), ("inferred", "psnr_inferred"), ("loss", "valid_loss")])
def test_the_best_model_is_selected_by_a_rule(rule, entry, tiny_model, balls, tmp_path):
    config = TrainConfig(**(OPTIONS | {"select_by": rule, "steps": 1}))
    trainer = Trainer(tiny_model(), balls(4), balls(4, "val"), config, run=tmp_path,
                      rollouts=(balls(5, "val", "tile"), 2), show_progress=False)
    line = next(line for line in trainer.fit().log if "valid_loss" in line)
    assert trainer.progress.best == pytest.approx(line[entry] * (-1 if rule == "loss" else 1))
    assert ("psnr_inferred" in line) == (rule == "inferred")


def test_a_rule_the_model_cannot_follow_is_refused(tiny_model, balls, tmp_path):
    with pytest.raises(TrainingError, match="needs a model with latent actions"):
        Trainer(tiny_model(latent_action=None), balls(4), balls(4, "val"), TrainConfig(select_by="inferred"),
                run=tmp_path, show_progress=False)


@pytest.mark.slow  # minutes of compilation
def test_a_compiled_model_takes_the_same_steps(tiny_model, balls, tmp_path):
    plain = run(tiny_model(), balls, tmp_path / "plain", steps=2, checkpointing="off").log
    compiled = run(tiny_model(), balls, tmp_path / "compiled", steps=2, checkpointing="off", compile=True).log
    losses = [[line["loss"] for line in log if "loss" in line] for log in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
