from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from tinsmith.nn.sequences import LEAST_SHARED, PackedSequences

CPU = torch.device("cpu")


@st.composite
def batches(draw: st.DrawFn) -> list[np.ndarray]:
    """Sequences over two tokens, many of them continuations of one another."""
    tokens = st.lists(st.integers(0, 1), min_size=1, max_size=40)
    sequences = [draw(tokens)]
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.booleans()):
            parent = draw(st.sampled_from(sequences))
            sequences.append(parent[: draw(st.integers(0, len(parent)))] + draw(tokens))
        else:
            sequences.append(draw(tokens))
    return [np.array(sequence, dtype=np.int32) for sequence in sequences]


@given(batches())
def test_every_sequence_is_its_spans_from_the_first_token_to_its_last(
    sequences: list[np.ndarray],
) -> None:
    pack = PackedSequences.sharing(sequences, CPU)
    tokens = pack.token_ids(sequences).numpy()
    positions = pack.position_ids[0].numpy()

    assert sum(span.length for span in pack.spans) == len(tokens) == pack.num_tokens
    for sequence, place in zip(sequences, pack.places, strict=True):
        assert np.array_equal(tokens[place], sequence)
        assert np.array_equal(positions[place], np.arange(len(sequence)))
    for span in pack.spans:
        above = [pack.spans[i] for i in span.ancestors]
        assert sum(one.length for one in above) == span.position
        assert all(one.stop <= span.start for one in above)


@given(batches())
def test_only_heads_of_a_worthwhile_length_are_shared_and_then_once(
    sequences: list[np.ndarray],
) -> None:
    pack = PackedSequences.sharing(sequences, CPU)
    for number, one in enumerate(sequences):
        for other_number in range(number):
            other = sequences[other_number]
            same = np.intersect1d(pack.places[number], pack.places[other_number])
            length = min(len(one), len(other))
            differs = np.nonzero(one[:length] != other[:length])[0]
            common = int(differs[0]) if len(differs) else length
            if np.array_equal(one, other):
                assert len(same) == len(one)
            else:
                assert len(same) <= common
                assert len(same) > common - LEAST_SHARED


def test_a_common_instruction_stands_in_the_pack_once() -> None:
    instruction = np.arange(100)
    mails = [np.concatenate([instruction, [i], np.full(20 + i, 7)]) for i in range(4)]
    pack = PackedSequences.sharing(mails, CPU)
    assert pack.num_tokens == 100 + sum(len(mail) - 100 for mail in mails)
    assert [span.ancestors for span in pack.spans] == [(), (0,), (0,), (0,), (0,)]


def test_a_sequence_that_another_one_continues_ends_inside_it() -> None:
    short, long = np.arange(30), np.arange(50)
    pack = PackedSequences.sharing([long, short], CPU)
    assert pack.num_tokens == 50
    assert np.array_equal(pack.places[1], pack.places[0][:30])


def test_asked_places_are_told_span_by_span() -> None:
    pack = PackedSequences([4, 2, 3], CPU)
    queries = pack.queries_of(np.array([1, 3, 6, 7, 8]))
    assert queries[2] is None
    first, second = queries[0], queries[1]
    assert first is not None and first.tolist() == [1, 3]
    assert second is not None and second.tolist() == []
