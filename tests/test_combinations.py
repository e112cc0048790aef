"""docs/combinations.md: the whole product of encoders, dynamics and objectives, a part of it built again."""

import importlib.util
import json
from itertools import combinations
from pathlib import Path

import pytest

import worldkit as wk

ROOT = Path(__file__).parents[1]
AGAIN = 24
"""Combinations that the default suite builds again; the slow one builds 400."""


def script():
    spec = importlib.util.spec_from_file_location("combinations", ROOT / "benchmarks/combinations.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stored():
    return json.loads((ROOT / "docs/combinations.json").read_text(encoding="utf-8"))


@pytest.mark.slow  # the table takes minutes to make, a new part need not wait for it
def test_the_product_knows_every_part(stored):
    """A new part is missing here until python benchmarks/combinations.py has run again."""
    tables = script()
    assert stored["encoders"] == tables.encoders()
    assert stored["dynamics"] == [*wk.list_dynamics(), "none"] and stored["objectives"] == wk.list_objectives()


def test_the_page_is_made_of_the_file(stored):
    page = (ROOT / "docs/combinations.md").read_text(encoding="utf-8")
    assert script().page(stored) in page


def test_every_part_goes_with_something(stored):
    why = {(e, d, o): stored["why"][e][d][n] for e in stored["encoders"] for d in stored["dynamics"]
           for n, o in enumerate(stored["objectives"])}
    for place, names in enumerate((stored["encoders"], stored["dynamics"], stored["objectives"])):
        for name in names:
            if name not in ("first-frames", "inverse-forward", "latent-action", "one-step"):  # need more parts
                assert any(number == 0 for key, number in why.items() if key[place] == name), name


def test_refusals_are_refusals(stored):
    """No combination ends in an error that says nothing."""
    faults = ("Error: ", "Exception: ")
    assert not [reason for reason in stored["reasons"] if any(fault in reason for fault in faults)]


def check(stored, keys):
    tables = script()
    for encoder, dynamics, objective in keys:
        number = stored["why"][encoder][dynamics][stored["objectives"].index(objective)]
        expected = stored["reasons"][number - 1] if number else ""
        assert tables.tried(encoder, dynamics, objective) == expected, (encoder, dynamics, objective)


def spread(stored, count):
    """Combinations all over the product, always the same."""
    every = [(e, d, o) for e in stored["encoders"] for d in stored["dynamics"] for o in stored["objectives"]]
    step = len(every) / count
    return [every[int(number * step + number) % len(every)] for number in range(count)]


def test_a_part_of_the_product_again(stored):
    keys = spread(stored, AGAIN)
    assert len({pair for key in keys for pair in combinations(key, 2)}) > 2 * AGAIN
    check(stored, keys)


@pytest.mark.slow
def test_more_of_the_product_again(stored):
    check(stored, spread(stored, 400))
