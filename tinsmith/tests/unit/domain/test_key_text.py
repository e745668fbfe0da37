from __future__ import annotations

import re

import pytest
from tinsmith.domain.key_text import PATTERN, digest_of, is_key, key_id_of, new_key


def test_a_new_key_is_spelled_as_the_pattern_says_and_no_two_are_alike():
    keys = {new_key() for _ in range(50)}

    assert len(keys) == 50
    for key in keys:
        assert re.fullmatch(PATTERN, key)
        assert is_key(key)


@pytest.mark.parametrize("place", [14, 30, 48, -1])
def test_one_wrong_character_is_noticed(place: int):
    key = new_key()
    other = "a" if key[place] != "a" else "b"

    assert not is_key(f"{key[:place]}{other}{key[place:][1:]}")


@pytest.mark.parametrize("text", ["", "tml-", "tml-any", "tml-tinsmith-" + "0" * 42, "\udcff"])
def test_other_text_is_no_key(text: str):
    assert not is_key(text)


def test_the_id_is_the_same_each_time_and_holds_nothing_of_the_key():
    key = new_key()
    key_id = key_id_of(digest_of(key))

    assert key_id == key_id_of(digest_of(key))
    assert re.fullmatch("key-[0-9a-f]{16}", key_id)
    assert key_id != key_id_of(digest_of(new_key()))
