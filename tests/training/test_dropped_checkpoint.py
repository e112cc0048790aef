"""Somebody looks for the newest checkpoint while a training drops it for a newer one."""

import warnings

from worldkit.training import checkpoint


def test_what_was_dropped_meanwhile_is_not_damage(tmp_path, monkeypatch):
    older, newer = (tmp_path / "checkpoints" / name for name in ("step-00000002", "step-00000004"))
    older.mkdir(parents=True)

    def load(path, **_):
        if path.parent == older:
            newer.mkdir()
            checkpoint._remove([older])
            raise FileNotFoundError(path)
        return {}

    monkeypatch.setattr(checkpoint.torch, "load", load)
    monkeypatch.setattr(checkpoint, "read_weights", lambda path: {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.latest_checkpoint(tmp_path) == newer
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == [newer.name]
