"""Sources of plugins: what is no clip is named, what only looks odd is taken."""

import numpy as np
import pytest
import torch

import worldkit.data.registry as registry
from worldkit.data import EpisodeSource, collate, describe, open_dataset, register_format
from worldkit.errors import DataError
from worldkit.training.unused import unused

FRAMES = 6


class Log(EpisodeSource):
    num_episodes = 2
    summary = {"name": "log", "kind": "log", "resolution": [8, 8], "synthetic": True}

    def length(self, episode):
        return FRAMES

    def read(self, episode, start, stop):
        return {"video": video(stop - start), **self.more(stop - start)}

    def more(self, frames):
        return {}


def video(frames, dtype=np.uint8, height=8):
    return np.zeros((frames, 3, height, 8), dtype)


@pytest.fixture
def use(monkeypatch):
    """use(**members) -> the data set of a source with these members."""
    monkeypatch.setattr(registry, "_formats", dict(registry._formats))

    def use(opener=None, matches=lambda target: target == "log", **members):
        cls = type("Other", (Log,), {"__module__": __name__, **members})
        register_format("log", matches=matches, description="a log",
                        opener=opener or (lambda target, *, split, height=None, width=None: cls()))
        return open_dataset("log", num_frames=4)

    return use


@pytest.mark.parametrize("read, message", [
    (lambda self, e, a, b: {"action": np.zeros((b - a, 2))}, "log, episode 0: .* must give 'video' .*, got NoneType"),
    (lambda self, e, a, b: {"video": video(b - a)[1:]}, r"'video' with the 4 frames it was asked .* ndarray \[3, 3"),
    (lambda self, e, a, b: {"video": list(video(b - a))}, "got list"),
    (lambda self, e, a, b: (video(b - a),), r"read\(\) must give a dict of entries, got tuple"),
    (lambda self, e, a, b: {"video": video(b - a), "state": np.zeros((b - a, 2))}, "'state' must be a dict, name"),
    (lambda self, e, a, b: {"video": video(b - a), "masks": [1]}, "'masks' must be a dict"),
])
def test_what_is_no_clip(use, read, message):
    with pytest.raises(DataError, match=message):
        use(read=read)[0]


@pytest.mark.parametrize("array", [
    np.arange(8, dtype=">f4").reshape(4, 2), np.arange(8.0, dtype=np.float32).reshape(4, 2)[::-1],
    np.asfortranarray(np.arange(8.0).reshape(4, 2)), np.broadcast_to(np.float32(2), (4, 2)),
], ids=["big endian", "backwards", "fortran", "read-only"])
def test_odd_arrays_are_taken(use, array):
    clips = use(more=lambda self, frames: {"action": array[:frames]})
    batch = collate([clips[0], clips[1]])
    found = batch.conditions["action"][0]
    assert torch.equal(found, torch.tensor(array.tolist(), dtype=found.dtype))


def test_text_stays_text(use):
    clips = use(more=lambda self, frames: {"words": np.array(["push"] * frames), "language": "push"})
    batch = collate([clips[0], clips[1]])
    assert batch.conditions["words"] == [["push"] * 4] * 2 and batch.conditions["language"] == ["push"] * 2


def test_openers(use):
    with pytest.raises(DataError, match=r"'log': its opener must take \(target, \*, split, height=None, width=None\)"):
        use(opener=lambda target: Log())
    with pytest.raises(DataError, match="the opener of format 'log' must give an EpisodeSource, got NoneType"):
        use(opener=lambda target, **options: None)


def test_a_format_that_cannot_look_harms_no_other(use):
    with pytest.warns(RuntimeWarning, match="format 'log' could not look at balls-32: IndexError: string index"):
        with pytest.warns(RuntimeWarning, match="format 'log' could not look at log"), pytest.raises(DataError):
            use(matches=lambda target: target[100] == "x")
        assert len(open_dataset("balls-32", num_frames=2, num_episodes=2, episode_length=4))


@pytest.mark.parametrize("name, value, told", [
    ("action", lambda frames: np.zeros(frames, np.int64), "'action' (int64 [1]), which this model does not take"),
    ("words", lambda frames: np.array(["push"] * frames), "'words' ("),
    ("thing", lambda frames: None, "'thing' (of type NoneType)"),
    ("language", lambda frames: None, "'language' (of type NoneType)"),
    ("language", lambda frames: "push", "'language' (text, as 'push')"),
])
def test_a_model_without_conditions_is_told_of_any_entry(use, tiny_model, name, value, told):
    clips = use(more=lambda self, frames: {name: value(frames)})
    (note,) = unused(tiny_model(), clips)
    assert told in note and f"-o conditioners.{name}" in note


def test_equal_names_that_mean_nothing(use):
    use()
    assert describe("log")["notes"] == []
