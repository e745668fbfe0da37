from __future__ import annotations

import torch
from tinsmith.nn.kv_cache import KVCache
from torch import Tensor

H, D = 2, 3


def filled(cache: KVCache, lengths: list[int], start: float) -> None:
    """Rows whose keys hold start + row + position / 100; values are the keys' negatives."""
    first = cache.add_rows(lengths)
    for i, length in enumerate(lengths):
        k = (start + i + torch.arange(length) / 100)[None, :, None].expand(H, length, D)
        cache.write_prompt(0, first + i, k, -k)


def step(cache: KVCache, value: float) -> tuple[Tensor, Tensor]:
    cache.begin_step()
    k = torch.full((cache.num_rows, H, D), value)
    return cache.write_step(0, k, -k)


def test_rows_keep_their_tokens_while_the_cache_grows() -> None:
    cache = KVCache(torch.device("cpu"))
    filled(cache, [2], 10)
    for value in (1.0, 2.0, 3.0):
        step(cache, value)
    filled(cache, [1, 9, 2], 20)
    keys, values = step(cache, 4.0)

    assert cache.lengths == [6, 2, 10, 3]
    assert keys.shape == (4, H, 10, D)
    torch.testing.assert_close(keys[0, 1, :6, 2], torch.tensor([10.0, 10.01, 1, 2, 3, 4]))
    torch.testing.assert_close(keys[1, 0, :2, 0], torch.tensor([20.0, 4.0]))
    assert keys[2, 0, 8, 0] == 21.08 and keys[2, 0, 9, 0] == 4
    torch.testing.assert_close(values, -keys)


def test_removal_moves_the_last_rows_into_the_holes() -> None:
    cache = KVCache(torch.device("cpu"))
    filled(cache, [2, 3, 4, 5, 6], 0)

    moves = cache.remove_rows([0, 3])

    assert moves == [(4, 0)]
    assert cache.lengths == [6, 3, 4]
    keys, _ = step(cache, 9.0)
    torch.testing.assert_close(keys[:, 0, 0, 0], torch.tensor([4.0, 1.0, 2.0]))
    torch.testing.assert_close(keys[0, 0, 5, 0], torch.tensor(4.05))
    assert keys[0, 0, 6, 0] == 9 and keys[1, 0, 3, 0] == 9


def test_a_copy_goes_on_independently_of_its_source() -> None:
    cache = KVCache(torch.device("cpu"))
    filled(cache, [3], 5)
    assert cache.copy_row(0, 2) == 1
    cache.begin_step()
    k = torch.arange(3.0)[:, None, None].expand(3, H, D)
    keys, _ = cache.write_step(0, k, k)
    assert cache.lengths == [4, 4, 4]
    torch.testing.assert_close(keys[2, 0, :, 0], torch.tensor([5.0, 5.01, 5.02, 2.0]))
    assert keys[0, 0, 3, 0] == 0


def test_masks_show_what_is_real_and_inside_the_window() -> None:
    cache = KVCache(torch.device("cpu"))
    filled(cache, [1, 3], 0)
    cache.begin_step()
    mask, window = cache.step_mask(None), cache.step_mask(2)
    assert mask is not None and window is not None
    assert mask[:, 0, 0].tolist() == [[True, True, False, False], [True] * 4]
    assert window[:, 0, 0].tolist() == [[True, True, False, False], [False, False, True, True]]


def test_no_mask_is_made_where_all_rows_are_equally_long() -> None:
    cache = KVCache(torch.device("cpu"))
    filled(cache, [3, 3], 0)
    cache.begin_step()
    assert cache.step_mask(None) is None and cache.step_mask(4) is None
    assert cache.step_mask(3) is not None


def test_an_emptied_cache_forgets_its_longest_row() -> None:
    cache = KVCache(torch.device("cpu"))
    filled(cache, [1000], 0)
    assert cache.remove_rows([0]) == []
    filled(cache, [2] * 5, 0)
    keys, _ = step(cache, 1.0)
    assert keys.untyped_storage().nbytes() == KVCache.capacity_tokens(5, 3) * H * D * 4
