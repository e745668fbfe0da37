from __future__ import annotations

import torch
from tinsmith.nn.kv_cache import BLOCK, KVCache
from torch import Tensor

K, D = 2, 3


def keys_of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None].expand(-1, K, D)


def write(cache: KVCache, slots: list[int], *values: float) -> None:
    k = keys_of(*values)
    cache.write(0, torch.tensor(slots), k, -k)


def read(cache: KVCache, table: list[int], length: int) -> Tensor:
    keys, values = cache.read(0, torch.tensor(table), length)
    assert keys.shape == (K, length, D)
    torch.testing.assert_close(values, -keys)
    return keys[1, :, 2]


def test_a_table_names_blocks_in_any_order() -> None:
    cache = KVCache(torch.device("cpu"))
    cache.reserve(3)
    write(cache, [2 * BLOCK + i for i in range(BLOCK)], *range(BLOCK))
    write(cache, [0, 1], 100.0, 101.0)
    assert read(cache, [2, 0], BLOCK + 2).tolist() == [*range(BLOCK), 100, 101]


def test_blocks_keep_what_they_hold_while_the_cache_grows() -> None:
    cache = KVCache(torch.device("cpu"))
    cache.reserve(1)
    write(cache, [0, 1], 4.0, 5.0)
    before = cache.layer(0)[0].shape[0]
    cache.reserve(before + 1)
    assert cache.layer(0)[0].shape == (2 * before, K, BLOCK, D)
    assert read(cache, [0], 2).tolist() == [4, 5]
    cache.reserve(2)
    assert cache.layer(0)[0].shape[0] == 2 * before


def test_a_copy_goes_on_independently_of_its_source() -> None:
    cache = KVCache(torch.device("cpu"))
    cache.reserve(2)
    write(cache, [0, 1], 5.0, 6.0)
    cache.copy(0, 1)
    write(cache, [BLOCK + 1], 7.0)
    assert read(cache, [0], 2).tolist() == [5, 6]
    assert read(cache, [1], 2).tolist() == [5, 7]


def test_a_cleared_cache_holds_no_memory_and_starts_anew() -> None:
    cache = KVCache(torch.device("cpu"))
    cache.reserve(1000)
    write(cache, [0], 5.0)
    cache.clear()
    cache.reserve(1)
    write(cache, [0], 6.0)
    assert cache.layer(0)[0].shape[0] < 1000
