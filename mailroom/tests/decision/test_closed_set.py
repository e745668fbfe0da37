import math

import pytest
from mailroom.decision.closed_set import candidates, normalised


def test_scoring_starts_where_candidates_part_and_ends_where_one_is_left():
    found = {
        c.key: c for c in candidates({"a": [1, 2, 7, 9], "b": [1, 2, 8, 9], "c": [1, 2, 8, 5]})
    }

    assert found["a"].tokens == (1, 2, 7) and found["a"].num_scored == 1
    assert found["b"].tokens == (1, 2, 8, 9) and found["b"].num_scored == 2
    assert found["c"].tokens == (1, 2, 8, 5) and found["c"].num_scored == 2


def test_candidates_with_no_common_stem_are_scored_from_their_first_token():
    assert [c.num_shared for c in candidates({"a": [1, 3], "b": [2, 3]})] == [0, 0]


def test_a_candidate_that_begins_another_is_refused_by_name():
    with pytest.raises(ValueError, match="'a'"):
        candidates({"a": [1, 2], "b": [1, 2, 3]})


def test_a_choice_of_one_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        candidates({"a": [1]})


def test_probabilities_are_the_softmax_of_the_scores():
    found = normalised({"a": -1000.0, "b": -1000.0 + math.log(3)})

    assert found == pytest.approx({"a": 0.25, "b": 0.75})


def test_impossible_candidates_get_nothing_and_only_impossible_ones_share_alike():
    assert normalised({"a": -math.inf, "b": -5.0}) == {"a": 0.0, "b": 1.0}
    assert normalised({"a": -math.inf, "b": -math.inf}) == {"a": 0.5, "b": 0.5}
