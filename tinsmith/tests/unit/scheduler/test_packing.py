from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tinsmith.scheduler.packing import pack_in_order


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 100))
def test_packs_cover_the_list_in_order_within_the_budget(
    lengths: list[int], token_budget: int
) -> None:
    packs = pack_in_order(lengths, token_budget)
    assert [index for pack in packs for index in pack] == list(range(len(lengths)))
    for pack in packs:
        assert len(pack) == 1 or sum(lengths[i] for i in pack) <= token_budget
    for pack, after in pairwise(packs):
        assert sum(lengths[i] for i in pack) + lengths[after.start] > token_budget


def test_nothing_packs_into_nothing() -> None:
    assert pack_in_order([], 10) == []
