"""Segments of episodes as the official IRIS and DIAMOND code draws and pads them."""

import random

import numpy as np
import pytest
import torch

from worldkit.agents.pixel_actor_critic.segments import SegmentsConfig, cut, places

from .pixels import MISSING, ROOT, arrays, close, config_of, folders, name_of

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)


class Python:
    """Draws as `random` gives them, one by one."""

    def __init__(self, seed):
        random.seed(seed)

    def choice(self, a, size, *, p):
        assert np.allclose(p, 1 / a)
        return random.choices(range(a), k=size)

    def integers(self, low, high, size):
        return [random.randint(int(a), int(b) - 1) for a, b in zip(np.broadcast_to(low, size), high, strict=True)]


class Numpy:
    """Draws of NumPy's global generator."""

    def __init__(self, seed):
        np.random.seed(seed)

    def choice(self, a, size, *, p):
        return np.random.choice(np.arange(a), size=size, replace=True, p=p)

    def integers(self, low, high, size):
        return np.random.randint(low, high) if np.ndim(high) else np.random.randint(low, high, size=size)


def episode(frames, **columns):
    """Rows as we store them: the frame that was reached is the last one, and nothing leaves it."""
    more = {name: np.append(np.asarray(values), 0) for name, values in columns.items()}
    rows = {"video": frames, "truncated": np.zeros(len(frames), bool), "reward": np.zeros(len(frames)),
            "terminated": np.zeros(len(frames), bool), "action": np.zeros(len(frames), int), **more}
    return Rows(rows)


class Rows(dict):
    def __len__(self):
        return len(self["video"])


@pytest.mark.parametrize("folder", folders("iris", "python_seed"), ids=name_of)
def test_iris_draws(folder):
    config, wanted = config_of(folder), arrays(folder / "tensors_f64.npz")
    lengths = config["episode_lengths"]
    times = [episode(np.zeros((n + 1, 1, 1, 1), np.uint8), action=np.arange(n)) for n in lengths]
    for from_start in (True, False):
        actions, mask = (wanted[f"sampled_{name}_from_start_{from_start}"] for name in ("actions", "mask"))
        options = SegmentsConfig(count=len(actions), length=actions.shape[1], anchor="start" if from_start else "end")
        batch = cut(times, places(lengths, options, Python(config["python_seed"])), columns={"action": "action"})
        assert (batch.conditions["action"] == actions).all()
        assert (batch.done_mask == mask).all()


@pytest.mark.parametrize("folder", folders("diamond", "numpy_seed"), ids=name_of)
def test_diamond_draws(folder):
    config, wanted = config_of(folder), arrays(folder / "tensors_f64.npz")
    lengths = config["episode_lengths"]
    for name, anchor, weights in (("weighted", "before", (0.1, 0.1, 0.1, 0.7)),
                                  ("weighted_beyond", "around", (0.1, 0.1, 0.1, 0.7)),
                                  ("by_length", "before", (1.0,) * (len(lengths) + 1))):
        rows = wanted[f"segments_{name}"].numpy()
        options = SegmentsConfig(count=len(rows), length=int(rows[0, 2] - rows[0, 1]), anchor=anchor, weights=weights)
        assert places(lengths, options, Numpy(config["numpy_seed"])).tolist() == rows.tolist()


@pytest.mark.parametrize("folder", folders("diamond", "numpy_seed"), ids=name_of)
def test_diamond_pads_with_grey(folder):
    config, wanted = config_of(folder), arrays(folder / "tensors_f64.npz")
    whole = wanted["segment3_rows"]  # reaches over both ends
    real = whole[3].bool()
    action, reward, ended = (whole[row][real].numpy() for row in range(3))
    seen = np.append(wanted["segment3_obs"][real].numpy(), -1.0)
    one = episode((seen + 1)[:, None, None, None] / 2 * 255, action=action, reward=reward, terminated=ended)
    for index, (start, stop) in enumerate(config["segments"]):
        batch = cut([one], np.array([[0, start, stop]]), columns={"action": "action"}, pad=0.5)
        rows, inside = wanted[f"segment{index}_rows"], batch.done_mask[0]
        assert (inside == rows[3].bool()).all()
        told = (batch.conditions["action"][0], batch.targets["reward"][0], batch.targets["terminated"][0])
        for ours, theirs in zip(told, rows[:3], strict=True):
            assert (ours.to(theirs.dtype)[inside] == theirs[inside]).all()
        reached = torch.zeros_like(inside)
        if len(reward) - start < len(inside):
            reached[len(reward) - start] = True  # upstream stores the frame that was reached elsewhere
        shown = (2 * batch.video[0, :, 0, 0, 0] - 1)[~reached]
        close(shown, wanted[f"segment{index}_obs"][~reached], f"segment {index}", rtol=1e-6)  # pictures are float32
