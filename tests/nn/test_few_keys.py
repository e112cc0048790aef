"""Attention of one query to a few keys: the same as the fused kernel's, where it pays and nowhere else."""

import pytest
import torch
import torch.nn.functional as F

from worldkit.nn import few_keys
from worldkit.nn.attention import Attention
from worldkit.nn.memory import Memory

ROWS = few_keys.FEWEST_NUMBERS // 8 + 1


@pytest.mark.parametrize("keys", [1, 2, few_keys.MOST_KEYS])
@torch.no_grad()
def test_it_is_attention(keys):
    torch.manual_seed(0)
    q, k, v = (3 * torch.randn(ROWS, 2, n, 4) for n in (1, keys, keys))
    assert few_keys.pays(q, k)
    want, kernel = (F.scaled_dot_product_attention(*x) for x in ((q.double(), k.double(), v.double()), (q, k, v)))
    error, usual = ((x - want).abs().max() for x in (few_keys.attend(q, k, v), kernel))
    assert error <= 2 * usual + 1e-6, f"off by {error}, the fused kernel by {usual}"


@torch.no_grad()
def test_nothing_is_written_into_what_is_remembered():
    v = torch.randn(ROWS, 2, 3, 4)
    before = v.clone()
    few_keys.attend(torch.randn(ROWS, 2, 1, 4), torch.randn(ROWS, 2, 3, 4), v)
    assert torch.equal(v, before)


def test_it_pays_for_many_queries_of_few_keys_without_a_graph():
    q, k = torch.randn(ROWS, 2, 1, 4), torch.randn(ROWS, 2, 3, 4)
    assert not few_keys.pays(q, k), "with a graph"
    with torch.no_grad():
        assert few_keys.pays(q, k)
        assert not few_keys.pays(q[:10], k[:10]), "few queries"
        assert not few_keys.pays(q, torch.randn(ROWS, 2, few_keys.MOST_KEYS + 1, 4)), "many keys"
        assert not few_keys.pays(q.expand(-1, -1, 3, -1), k), "several queries each"
        assert not few_keys.pays(q.double(), k.double()), "another precision"


@torch.no_grad()
def test_attention_takes_it_step_by_step_and_says_what_whole_clips_say(monkeypatch):
    torch.manual_seed(0)
    attention, x, memory, taken = Attention(8, 2), torch.randn(ROWS, 4, 8), Memory(), []
    real = few_keys.attend
    monkeypatch.setattr(few_keys, "attend", lambda q, k, v: taken.append(k.shape[-2]) or real(q, k, v))
    want, got = attention.attend(*attention.heads(x), causal=True), []
    for t in range(4):
        q, k, v = attention.heads(x[:, t : t + 1])
        got.append(attention.attend(q, *memory.extend(0, k, v, frames=1, limit=4), causal=True))
        memory.length += 1
    torch.testing.assert_close(torch.cat(got, 1), want, atol=1e-5, rtol=1e-5)
    assert taken == [1, 2, 3, 4]


@torch.no_grad()
def test_keys_of_one_frame_lie_together():
    memory = Memory()
    for _ in range(2):
        keys, _ = memory.extend(0, *torch.randn(2, 5, 3, 2, 1, 4), frames=1, limit=4)
        memory.length += 1
    assert all(frame.is_contiguous() for frame in keys.unbind(-2))
