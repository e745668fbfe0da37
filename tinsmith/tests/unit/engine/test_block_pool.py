"""Who holds which block, and who finds it again."""

from __future__ import annotations

import numpy as np
import pytest
from tinsmith.engine.block_pool import BlockPool
from tinsmith.nn.kv_cache import BLOCK


def text(*blocks: int) -> np.ndarray:
    """A block full of each number."""
    return np.repeat(np.array(blocks, dtype=np.int32), BLOCK)


def keep(pool: BlockPool, tokens: np.ndarray, namespace: object = "a") -> list[int]:
    """What a sequence does: take over what there is, compute the rest, publish it."""
    found = pool.match(namespace, tokens, len(tokens))
    new = pool.take(len(tokens) // BLOCK - len(found))
    assert new is not None
    pool.publish(namespace, [*found, *new], tokens, len(found), len(found) + len(new))
    return [*found, *new]


def test_what_is_published_is_found_by_its_beginning_in_its_namespace() -> None:
    pool = BlockPool(10)
    first = keep(pool, text(1, 2, 3))
    assert pool.match("a", text(1, 2, 4), 3 * BLOCK) == first[:2]
    assert pool.match("a", text(1, 2, 3), 3 * BLOCK - 1) == first[:2]
    assert pool.match("a", text(2, 3), 2 * BLOCK) == []
    assert pool.match("b", text(1, 2, 3), 3 * BLOCK) == []


def test_a_block_in_use_is_never_given_away() -> None:
    pool = BlockPool(3)
    keep(pool, text(1, 2))
    assert pool.take(2) is None
    (last,) = pool.take(1) or []
    pool.release([last])
    assert pool.take(1) == [last]
    assert pool.take(1) is None
    assert pool.take(1, beyond=True) == [3]


def test_unused_blocks_stay_until_room_is_needed_and_ends_go_first() -> None:
    pool = BlockPool(4)
    old, new = keep(pool, text(1, 2)), keep(pool, text(3, 4))
    pool.release(old)
    pool.release(new)
    assert pool.num_used == 0
    assert pool.take(1) == [old[1]]
    assert pool.match("a", text(1, 2), 2 * BLOCK) == old[:1]
    pool.release(old[:1])
    assert pool.match("a", text(3, 4), 2 * BLOCK) == new
    assert pool.take(2) is None
    assert pool.take(1) == [old[0]]
    assert pool.match("a", text(1, 2), 2 * BLOCK) == []


def test_shared_blocks_live_as_long_as_their_last_user() -> None:
    pool = BlockPool(3)
    first = keep(pool, text(1, 2))
    second = keep(pool, text(1, 5))
    assert second[0] == first[0] and pool.num_used == 3
    pool.release(first)
    assert pool.take(2) is None
    pool.release(second)
    assert pool.num_used == 0


def test_equal_tokens_computed_twice_are_published_once_and_nothing_after_them() -> None:
    pool = BlockPool(6)
    first, second = pool.take(1) or [], pool.take(2) or []
    assert pool.publish("a", first, text(1), 0, 1) == 1
    assert pool.publish("a", second, text(1, 2), 0, 2) == 0
    pool.release(second)
    assert pool.match("a", text(1, 2), 2 * BLOCK) == first


@pytest.mark.parametrize("seed", range(3))
def test_no_block_is_lost_or_held_twice_whatever_comes(seed: int) -> None:
    rng, pool = np.random.default_rng(seed), BlockPool(12)
    holders: list[tuple[np.ndarray, list[int]]] = []
    content: dict[int, bytes] = {}
    for _ in range(600):
        if holders and rng.random() < 0.5:
            _, blocks = holders.pop(rng.integers(len(holders)))
            pool.release(blocks)
            continue
        tokens = text(*rng.integers(1, 4, rng.integers(1, 5)))
        found = pool.match("a", tokens, len(tokens))
        new = pool.take(len(tokens) // BLOCK - len(found))
        if new is None:
            pool.release(found)
            continue
        blocks = [*found, *new]
        for number, block in enumerate(blocks):
            before = tokens[: (number + 1) * BLOCK].tobytes()
            if number >= len(found):
                content[block] = before
            assert content[block] == before
        pool.publish("a", blocks, tokens, len(found), len(blocks))
        holders.append((tokens, blocks))
        assert pool.num_used == len({block for _, held in holders for block in held})
    for _, blocks in holders:
        pool.release(blocks)
    assert pool.num_used == 0 and pool.num_blocks <= 12
    assert pool.take(12) is not None
