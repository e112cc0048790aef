"""Windows, collation, the resumable order of batches, splits, the format registry."""

import signal
import subprocess

import numpy as np
import pytest
import torch

from worldkit.data import (
    ArraySource,
    ClipDataset,
    ResumableSampler,
    collate,
    list_formats,
    make_loader,
    open_dataset,
    register_format,
)
from worldkit.data import registry as formats
from worldkit.data.splits import SPLITS, split_clips, split_time
from worldkit.errors import DataError, DuplicateComponentError


def episodes(*lengths, **extra):
    """Episodes whose frames are numbered by pixel value."""
    made = []
    for length in lengths:
        video = np.broadcast_to(np.arange(length, dtype=np.uint8)[:, None, None, None], (length, 3, 4, 4)).copy()
        made.append({"video": video, **{name: make(length) for name, make in extra.items()}})
    return ArraySource(made)


def frames_of(item):
    return item["video"][:, 0, 0, 0].tolist()


def test_sliding_windows_over_varying_lengths():
    dataset = ClipDataset(episodes(4, 2, 6), num_frames=3)
    windows = [(item["episode"], frames_of(item)) for item in (dataset[i] for i in range(len(dataset)))]
    assert windows == [(0, [0, 1, 2]), (0, [1, 2, 3]), *((2, [s, s + 1, s + 2]) for s in range(4))]
    assert dataset.skipped == 1
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_tiles_do_not_overlap():
    dataset = ClipDataset(episodes(7, 3), num_frames=3, mode="tile")
    assert [frames_of(dataset[i]) for i in range(len(dataset))] == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]


def test_stride_and_frame_skip():
    dataset = ClipDataset(episodes(9), num_frames=3, stride_between_windows=2, frame_skip=2)
    assert [frames_of(dataset[i]) for i in range(len(dataset))] == [[0, 2, 4], [2, 4, 6], [4, 6, 8]]
    with pytest.raises(DataError, match="frame_skip=1 with actions"):
        ClipDataset(episodes(9, action=lambda n: np.zeros((n, 2))), num_frames=3, frame_skip=2)[0]


def test_too_short_names_the_lengths():
    with pytest.raises(DataError, match=r"all 2 clip\(s\).*they have 4 to 6 frames.*num_frames=7.*Use num_frames=6"):
        ClipDataset(episodes(4, 6), num_frames=7)


@pytest.mark.parametrize("wrong", [{"num_frames": 0}, {"num_frames": 2.0}, {"frame_skip": 0}, {"mode": "random"}])
def test_wrong_window_arguments(wrong):
    with pytest.raises(DataError):
        ClipDataset(episodes(4), **{"num_frames": 2, **wrong})


def test_arrays_must_be_uint8_video():
    with pytest.raises(DataError, match="must be uint8"):
        ArraySource([{"video": np.zeros((4, 3, 8, 8), np.float32)}])
    with pytest.raises(DataError, match="no episodes"):
        ArraySource([])


def test_collate_keeps_uint8_and_routes_conditions():
    source = episodes(
        5,
        action=lambda n: np.arange(n, dtype=np.float32)[:, None],
        state=lambda n: {"position": np.zeros((n, 3, 2))},
        language=lambda n: "push the red ball",
        done_mask=lambda n: np.ones(n),
        masks=lambda n: {"action": np.ones(n, bool)},
    )
    dataset = ClipDataset(source, num_frames=3)
    batch = collate([dataset[0], dataset[2]])
    assert batch.video.dtype == torch.uint8 and batch.video.shape == (2, 3, 3, 4, 4)
    assert set(batch.conditions) == {"action", "language"}
    assert batch.conditions["action"][1, :, 0].tolist() == [2, 3, 4]
    assert batch.conditions["language"] == ["push the red ball"] * 2
    assert batch.masks["action"].shape == batch.done_mask.shape == (2, 3)


def test_views_are_cut_along_time():
    source = ArraySource([{"video": np.zeros((2, 5, 3, 4, 4), np.uint8)}])
    dataset = ClipDataset(source, num_frames=4)
    assert len(dataset) == 2 and collate([dataset[1]]).video.shape == (1, 2, 4, 3, 4, 4)


def test_collate_refuses_clips_that_differ():
    small, large = ({"video": torch.zeros(2, 3, size, size, dtype=torch.uint8)} for size in (4, 8))
    with pytest.raises(DataError, match="one shape"):
        collate([small, large])
    with pytest.raises(DataError, match="action"):
        collate([small, {**small, "action": torch.zeros(2, 1)}])


def test_sampler_resumes_in_the_middle_of_an_epoch():
    whole = ResumableSampler(23, 4, seed=5)
    epochs = [list(whole) for _ in range(3)]
    assert [sorted(sum(epoch, [])) for epoch in epochs] == [list(range(23))] * 3
    assert epochs[0] != epochs[1]
    resumed = ResumableSampler(23, 4, seed=5)
    resumed.set_state(epoch=1, start_batch=3)
    assert list(resumed) == epochs[1][3:] and list(resumed) == epochs[2]
    resumed.set_state(epoch=1, start_batch=6)  # stopped exactly at the end
    assert list(resumed) == []
    with pytest.raises(DataError, match="batch size changed"):
        resumed.set_state(epoch=1, start_batch=7)


def test_sampler_needs_one_batch():
    assert len(ResumableSampler(23, 4, drop_last=True)) == 5
    with pytest.raises(DataError, match="batch_size=3 or less"):
        ResumableSampler(3, 4, drop_last=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_resumes_with_any_number_of_workers(workers):
    dataset = ClipDataset(episodes(20), num_frames=2)

    def order(loader):
        return [batch.video[:, 0, 0, 0, 0].tolist() for batch in loader]

    reference = make_loader(dataset, 4, seed=3)
    epochs = [order(reference), order(reference)]
    loader = make_loader(dataset, 4, seed=3, num_workers=workers)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert [order(loader), order(loader)] == epochs
    assert torch.equal(before, torch.get_rng_state())
    loader.batch_sampler.set_state(1, 2)
    assert order(loader) == epochs[1][2:]


def test_a_worker_ends_by_its_parent_only():
    """Who stops a whole process group means the parent, which may want another batch before it leaves."""
    if not hasattr(signal, "sigwaitinfo"):
        pytest.skip("workers cannot tell who signals")
    loader = make_loader(ClipDataset(episodes(7), num_frames=4), 2, num_workers=1)
    batches = len(list(loader))
    (worker,) = loader._iterator._workers
    for name in ("TERM", "INT", "TERM"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert len(list(loader)) == batches and worker.is_alive()
    worker.terminate()
    worker.join(timeout=60)
    assert worker.exitcode == 0


def counts(names, seed=0):
    return [len(part) for part in split_clips(names, seed=seed).values()]


def which_split(names, seed=0):
    return {names[i]: SPLITS.index(name) for name, part in split_clips(names, seed=seed).items() for i in part}


def test_split_by_clip_keeps_the_ratio():
    """80/10/10 to the clip for few clips, whatever their names are, and near it for many; no split is empty."""
    few = {3: [1, 1, 1], 4: [2, 1, 1], 5: [3, 1, 1], 8: [6, 1, 1], 10: [8, 1, 1], 20: [16, 2, 2]}
    for seed in range(20):
        for count, expected in few.items():
            assert counts([f"push_{i}.mp4" for i in range(count)], seed) == expected
        for count in (50, 200, 1000):
            train, val, test = counts([f"push_{i}.mp4" for i in range(count)], seed)
            free = 0.02 * (count - 20) + 0.5
            assert train + val + test == count and val and test
            assert abs(train - 0.8 * count) <= free and abs(test - 0.1 * count) <= free
    with pytest.raises(DataError, match="at least 3"):
        split_clips(["a", "b"])


def test_split_by_clip_is_stable():
    """A clip that is added moves at most one other one across each border, to the neighbour; of many clips, none."""
    names = [f"clip{i}.mp4" for i in range(400)]
    before = which_split(names[:3])
    for count in range(4, 200):
        now = which_split(names[:count])
        moves = [(before[n], now[n]) for n in names[: count - 1] if before[n] != now[n]]
        assert len({tuple(sorted(move)) for move in moves}) == len(moves) <= 2, "one a border"
        assert all(abs(then - new) == 1 for then, new in moves), "to the neighbour"
        before = now
    assert which_split(names) == which_split(names[::-1]), "whatever the order"
    many = [f"clip{i}.mp4" for i in range(6000)]
    then, now = which_split(many[:3000]), which_split(many)
    assert all(now[name] == split for name, split in then.items())


@pytest.mark.parametrize("length", [1, 2, 9, 10, 101])
def test_split_in_time_covers_every_frame_once(length):
    blocks = [split_time(length, split) for split in SPLITS]
    assert blocks[0][0] == 0 and blocks[2][1] == length
    assert blocks[0][1] == blocks[1][0] and blocks[1][1] == blocks[2][0]


def test_a_format_of_somebody_else(monkeypatch):
    monkeypatch.setattr(formats, "_formats", dict(formats._formats))

    def opener(target, *, split, height=None, width=None, camera="front"):
        assert (split, height, width) == ("val", 8, 8)
        return ArraySource([{"video": np.full((4, 3, 8, 8), len(camera), np.uint8)}])

    register_format("log", matches=lambda t: t.endswith(".rlog"), opener=opener, description="a robot log (*.rlog)")
    dataset = open_dataset("run.rlog", split="val", num_frames=4, height=8, camera="wrist")
    assert dataset[0]["video"].unique().tolist() == [5]
    assert "log" in list_formats()
    with pytest.raises(DataError, match="no option 'camra'. Did you mean 'camera'"):
        open_dataset("run.rlog", split="val", num_frames=4, height=8, camra="wrist")
    with pytest.raises(DuplicateComponentError):
        register_format("log", matches=bool, opener=opener, description="again")
    assert open_dataset("run.txt", format="log", split="val", num_frames=1, height=8)
    with pytest.raises(DataError, match="Did you mean 'log'"):
        open_dataset("run.rlog", format="lgo", num_frames=1)


def test_unknown_source_lists_what_is_known():
    with pytest.raises(DataError, match="(?s)Did you mean 'balls'.*video.*hdf5.*shapes.*balls"):
        open_dataset("bals", num_frames=1)
