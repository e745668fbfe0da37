from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tinsmith.config import Recovery
from tinsmith.engine.pruning import Kept, Plan, prune


def every(seq_ids: range, *, size: int = 10, engine_s: float = 1.0) -> list[Kept]:
    return [Kept(seq_id, size, engine_s * seq_id) for seq_id in seq_ids]


def payloads(first: int, last: int, size: int = 5) -> dict[int, int]:
    return {seq_id: size for seq_id in range(first, last + 1)}


ROOMY = Recovery(max_replay_s=1.5, keep_snapshots=2, history_bytes=10**6)


def test_with_room_for_all_nothing_goes():
    assert prune(every(range(2, 11, 2)), payloads(0, 10), ROOMY) == Plan((), -1)


def test_between_old_snapshots_those_go_that_a_replay_can_do_without():
    plan = prune(every(range(1, 8)), payloads(0, 7), Recovery(max_replay_s=3.0))

    assert plan == Plan((2, 3, 5), -1)  # 1 to 4, and 4 to 6, are at most three seconds apart


def test_the_newest_stay_whatever_they_take_and_what_is_before_them_goes():
    tight = Recovery(max_replay_s=1.5, keep_snapshots=2, history_bytes=0)

    assert prune(every(range(2, 11, 2)), payloads(0, 10), tight) == Plan((2, 4, 6), 8)


def test_the_oldest_goes_first_with_the_requests_before_it():
    settings = Recovery(max_replay_s=1.5, keep_snapshots=1, history_bytes=45)

    plan = prune(every(range(2, 11, 2)), payloads(0, 10), settings)

    assert plan == Plan((2, 4), 6)  # 8 and 6 take 10 each, the requests behind them 2 times 10


def test_a_run_is_whole_while_its_creation_is_kept():
    settings = Recovery(max_replay_s=100.0, keep_snapshots=1, history_bytes=70)

    assert prune([Kept(10, 10, 10.0)], payloads(0, 10), settings) == Plan((), -1)
    assert prune([Kept(10, 10, 10.0)], payloads(0, 20, size=8), settings) == Plan((), 10)


def test_the_snapshot_of_a_load_stays_between_its_neighbours():
    loads = [Kept(1, 1, 1.0), Kept(2, 1, 2.0, is_load=True), Kept(3, 1, 3.0), Kept(4, 1, 4.0)]

    assert prune(loads, {}, Recovery(max_replay_s=100.0, keep_snapshots=1)).drop == (3,)


def test_what_has_gone_already_is_not_asked_for_again():
    tight = Recovery(max_replay_s=1.5, keep_snapshots=1, history_bytes=0)

    assert prune([Kept(10, 10, 10.0)], payloads(11, 20), tight) == Plan((), -1)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=12),
    st.dictionaries(st.integers(0, 200), st.integers(1, 40), max_size=40),
    st.integers(0, 400),
    st.integers(1, 3),
    st.floats(0.0, 20.0),
)
def test_whatever_stays_can_be_replayed_from_its_oldest_place(
    gaps, payloads, history_bytes, keep, max_replay_s
):
    seq_id, snapshots = 0, []
    for gap, is_load in gaps:
        seq_id += gap
        snapshots.append(Kept(seq_id, gap, float(seq_id), is_load))
    settings = Recovery(max_replay_s=max_replay_s, keep_snapshots=keep, history_bytes=history_bytes)

    plan = prune(snapshots, payloads, settings)

    staying = [one for one in snapshots if one.seq_id not in plan.drop]
    assert staying[-keep:] == snapshots[-keep:]
    assert plan.payloads_up_to in (-1, staying[0].seq_id)
    is_whole = 0 in payloads and plan.payloads_up_to == -1
    oldest = [Kept(0, 0, 0.0)] * is_whole + staying
    older = oldest[: max(0, len(oldest) - keep)]
    taken = sum(one.size_bytes for one in older) + sum(
        size
        for seq, size in payloads.items()
        if older and older[0].seq_id < seq <= snapshots[-keep:][0].seq_id
    )
    assert taken <= history_bytes
    dropped_loads = [s for s in snapshots if s.is_load and s.seq_id in plan.drop]
    assert all(one.seq_id < staying[0].seq_id for one in dropped_loads)
