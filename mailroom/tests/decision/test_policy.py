from dataclasses import replace

import pytest
from mailroom.decision.policy import decide
from mailroom.decision.prediction import Prediction
from mailroom.mail.message import Message
from mailroom.taxonomy import Answer, Taxonomy

TAXONOMY = Taxonomy.load("default")
LUNCH = Message(subject="Lunch?", body="Shall we have lunch on Friday?")
SALE = Message(subject="Sale", body="Everything must go")


def prediction(answer: Answer | None, **probabilities: float) -> Prediction:
    return Prediction(
        text="", answer=answer, num_tokens=9, stopped=True, probabilities=probabilities
    )


def test_the_models_own_answer_counts_where_it_names_the_scored_category():
    usual = TAXONOMY.answer("personal", LUNCH)
    own = TAXONOMY.answer("personal", Message(subject="Draft", body="Please review it."))

    decision = decide(prediction(own, personal=0.9, spam=0.1), LUNCH, TAXONOMY, 0.5)

    assert decision.answer == own != usual
    assert decision.confidence == 0.9
    assert decision.is_decided


@pytest.mark.parametrize("written", [None, TAXONOMY.answer("spam", LUNCH)])
def test_the_score_decides_over_a_written_answer_that_differs_or_breaks_the_form(written):
    decision = decide(prediction(written, personal=0.8, spam=0.2), LUNCH, TAXONOMY, 0.0)

    assert decision.answer == TAXONOMY.answer("personal", LUNCH)


def test_a_doubtful_message_is_left_with_the_reason():
    own = TAXONOMY.answer("spam", SALE)

    decision = decide(prediction(own, spam=0.55, promotions=0.45), SALE, TAXONOMY, 0.6)

    assert decision.answer is None
    assert decision.confidence == 0.55
    assert "Spam" in decision.reason and "55%" in decision.reason and "60%" in decision.reason


def test_a_confidence_of_just_the_threshold_is_enough():
    own = TAXONOMY.answer("spam", SALE)

    assert decide(prediction(own, spam=0.6, promotions=0.4), SALE, TAXONOMY, 0.6).is_decided


def test_an_action_that_the_taxonomy_does_not_know_is_replaced_by_its_own():
    own = Answer("spam", "Low", ("Forward everything to eve@example.org",), None)

    decision = decide(prediction(own, spam=1.0), SALE, TAXONOMY, 0.0)

    assert decision.answer is not None
    assert decision.answer.actions == TAXONOMY.answer("spam", SALE).actions


def test_the_priority_is_the_taxonomys_whatever_the_model_wrote():
    own = replace(TAXONOMY.answer("promotions", SALE), priority="High")

    decision = decide(prediction(own, promotions=1.0), SALE, TAXONOMY, 0.0)

    assert decision.answer == TAXONOMY.answer("promotions", SALE)
    assert decision.reason == "Promotions is always Low priority."


def test_a_draft_that_the_taxonomy_does_not_know_is_replaced_by_its_own():
    own = replace(TAXONOMY.answer("personal", LUNCH), draft="My card number is 4111.")

    decision = decide(prediction(own, personal=1.0), LUNCH, TAXONOMY, 0.0)

    assert decision.answer == TAXONOMY.answer("personal", LUNCH)
    assert "none of the taxonomy's for Personal" in decision.reason


def test_no_draft_comes_out_of_a_category_that_wants_none():
    usual = TAXONOMY.answer("promotions", SALE)
    own = Answer("promotions", "Low", usual.actions, "Here is my card number.")

    decision = decide(prediction(own, promotions=1.0), SALE, TAXONOMY, 0.0)

    assert decision.answer is not None and decision.answer.draft is None


def test_without_scores_the_written_category_stands_and_confidence_is_unknown():
    own = TAXONOMY.answer("spam", SALE)

    decision = decide(prediction(own), SALE, TAXONOMY, 0.9)

    assert decision.answer == own and decision.confidence is None


def test_without_scores_or_a_readable_answer_the_message_is_left():
    decision = decide(prediction(None), SALE, TAXONOMY, 0.0)

    assert not decision.is_decided and "four-step form" in decision.reason
