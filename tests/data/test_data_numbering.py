"""Missing frames told from the names of images: counters, clocks, and what does not belong."""

import tracemalloc

import numpy as np
import pytest

from worldkit.data import validate
from worldkit.data.numbering import find_gaps

image = pytest.importorskip("PIL.Image")


def problems(stems):
    return [(gap.frame, gap.problem, gap.sure) for gap in find_gaps(stems)]


def clock(count, period, jitter, seed=0):
    rng = np.random.default_rng(seed)
    late = rng.uniform(-jitter, jitter, count)
    return (np.arange(count) * period + late).round().astype(np.int64) + 1403636579764186707


@pytest.mark.parametrize("stems, gaps", [
    (["0", "1", "2", "4"], [(3, "3")]),
    (["f_0000", "f_0005", "f_0010", "f_0025"], [(3, "15 to 20")]),
    ([f"{n}" for n in range(20) if n not in (3, 10, 11)], [(3, "3"), (9, "10 to 11")]),
    (["0.0", "0.1", "0.2", "0.4", "0.5"], [(3, "0.3")]),
    (["0", "2", "3"], [(1, "1")]),
    (["7", "8"], []),
    (["one", "two"], []),
    (["a1_2", "a2_1", "a3_1"], []),
])
def test_counters(stems, gaps):
    told = [(frame, f"missing in the numbering of the images: {which}", True) for frame, which in gaps]
    assert problems(stems) == told


def test_a_clock_that_is_not_exact_has_no_gaps():
    assert problems(list(map(str, clock(48, 5e7, 2e5)))) == []  # nanoseconds, 20 Hz
    assert problems([str(round(1000 * n / 30)) for n in range(60)]) == []  # milliseconds, 30 Hz: steps of 33 and 34
    assert problems([str(round(1000 * n / 60)) for n in range(60)]) == []
    assert problems([f"{n / 30:.4f}" for n in range(60)]) == []
    assert problems(["0", "5", "7", "12", "20", "21"]) == []  # frames that somebody chose


def test_a_pause_of_a_clock_is_told_once_as_a_warning():
    stems = [str(t) for n, t in enumerate(clock(48, 5e7, 2e5)) if n not in (20, 21, 30)]
    [(frame, problem, sure)] = problems(stems)
    assert (frame, sure) == (20, False)
    assert "a step of 3 times the usual one, and 1 more" in problem


def test_a_stray_number_is_one_finding_in_little_memory():
    stems = [f"{n:06d}" for n in range(12)] + ["20240105102231"]
    tracemalloc.start()
    [(frame, problem, sure)] = problems(stems)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    assert (frame, sure) == (12, True)
    assert problem.startswith("the numbering of the images jumps from 11 to 20240105102231")


def test_validate_tells_them(tmp_path):
    for folder, names in {"good": [*map(str, clock(10, 5e7, 2e5))], "stray": [*map(str, range(9)), "20240105102231"],
                          "gap": [str(n) for n in range(10) if n != 4]}.items():
        (tmp_path / folder).mkdir()
        for number, name in enumerate(names):
            image.fromarray(np.full((8, 8, 3), 9 * number, np.uint8)).save(tmp_path / folder / f"{name}.png")
    found = validate(str(tmp_path))
    faults = {finding.path.rsplit("/", 1)[-1]: finding for finding in found.faults}
    assert len(found.faults) == 2
    assert faults.keys() == {"stray", "gap"}
    assert "jumps from 8 to 20240105102231" in faults["stray"].problem
    assert faults["gap"].problem.endswith("images: 4")
