from __future__ import annotations

import math

import pytest
from tinsmith.service.token_bucket import TokenBucket


def test_a_minutes_worth_is_there_at_once_and_then_as_time_goes_by():
    bucket = TokenBucket(60, now=0.0)

    assert bucket.take(60, 60, 0.0) == 0
    assert bucket.take(1, 60, 0.0) == pytest.approx(1.0)
    assert bucket.take(1, 60, 1.0) == 0
    assert bucket.take(1, 60, 1.0) > 0


def test_a_large_request_goes_into_debt_and_the_next_one_waits_for_it():
    bucket = TokenBucket(60, now=0.0)

    assert bucket.take(180, 60, 0.0) == 0
    wait_s = bucket.take(1, 60, 0.0)
    assert wait_s == pytest.approx(121.0)
    assert bucket.take(1, 60, wait_s - 1.5) > 0
    assert bucket.take(1, 60, wait_s + 0.001) == 0


def test_the_mean_rate_holds_whatever_the_sizes():
    bucket, had, now = TokenBucket(600, now=0.0), 0, 0.0
    sizes = [1, 50, 900, 7]
    while now < 3600:
        size = sizes[had % len(sizes)]
        wait_s = bucket.take(size, 600, now)
        if wait_s == 0:
            had += size
        now += math.ceil(wait_s)  # as clients wait

    assert 600 * 60 <= had <= 600 * 61 + max(sizes)


def test_nothing_is_saved_up_for_longer_than_a_minute_nor_kept_of_a_higher_rate():
    bucket = TokenBucket(60, now=0.0)

    assert bucket.take(60, 60, 3600.0) == 0
    assert bucket.take(1, 60, 3600.0) > 0

    rich = TokenBucket(1000, now=0.0)
    assert rich.take(10, 10, 0.0) == 0
    assert rich.take(1, 10, 0.0) > 0


def test_what_is_given_back_can_be_taken():
    bucket = TokenBucket(60, now=0.0)
    bucket.take(60, 60, 0.0)

    bucket.give_back(60)

    assert bucket.take(60, 60, 0.0) == 0
