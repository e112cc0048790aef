"""Looking at a model while it is trained: it sees averaged weights, and the training does not notice."""

import torch

from worldkit.training import TrainConfig, Trainer


def trainer(model, balls, folder):
    config = TrainConfig(steps=4, batch_size=4, lr=1e-3, eval_every=100, eval_clips=2, ema=0.5)
    return Trainer(model, balls(4), balls(4, "val"), config, run=folder, show_progress=False)


def test_looks_change_nothing(tiny_model, balls, tmp_path):
    plain = trainer(tiny_model(), balls, tmp_path / "plain")
    plain.fit()
    watched, seen = trainer(tiny_model(), balls, tmp_path / "watched"), []

    def look(run, bar):
        with run.looking() as model:
            assert not model.training and not torch.is_grad_enabled()
            weight = next(iter(run.ema.average.items()))
            seen.append((run.progress.step, torch.equal(dict(model.named_parameters())[weight[0]], weight[1])))
            torch.rand(7)  # whatever it draws
        assert run.model.training

    watched.after_step = look
    watched.fit()
    assert seen == [(1, True), (2, True), (3, True), (4, True)]
    for (name, a), b in zip(plain.model.state_dict().items(), watched.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
