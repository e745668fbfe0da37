from html.parser import HTMLParser

from mailroom.corpus.example import Example
from mailroom.decision.model import BASE, Model
from mailroom.decision.prediction import Prediction
from mailroom.evaluation.evaluate import Evaluation, score
from mailroom.evaluation.figures import loss_curve, running_mean
from mailroom.evaluation.report import render_report, write_report
from mailroom.evaluation.token_picture import Token, TokenPicture
from mailroom.mail.message import Message
from mailroom.prompt.form import parse_answer, render_answer
from mailroom.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load("default")
HOSTILE = "</pre><script>alert('x')</script><img src=//evil.example onerror=alert(1)>{{ 7*7 }}"


def example(category: str, subject: str, *, apart: bool = False) -> Example:
    message = Message(subject=subject, body=f"body {HOSTILE}")
    answer = render_answer(TAXONOMY, TAXONOMY.answer(category, message))
    return Example(message, category, answer, "group", 1, apart)


def written(found: Example, category: str | None) -> Prediction:
    if category is None:
        return Prediction(HOSTILE, None, 160, False)
    text = render_answer(TAXONOMY, TAXONOMY.answer(category, found.message))
    probabilities = dict.fromkeys(TAXONOMY.keys, 0.05) | {category: 0.7}
    return Prediction(text, parse_answer(text, TAXONOMY), 60, True, probabilities)


EXAMPLES = (
    example("spam", HOSTILE, apart=True),
    example("updates", "Your parcel"),
    example("personal", "Hello"),
)
BEFORE = score(TAXONOMY, EXAMPLES, [written(e, None) for e in EXAMPLES])
GIVEN = ("spam", "updates", "spam")
AFTER = score(
    TAXONOMY, EXAMPLES, [written(e, given) for e, given in zip(EXAMPLES, GIVEN, strict=True)]
)
PICTURE = TokenPicture(
    (
        Token(1, "> mail", 0.0),
        Token(2, "<|im_end|>", 0.0),
        Token(3, "Step", 1.0),
        Token(4, "<", 1.0),
    )
)


def evaluation(*, trained: bool = True) -> Evaluation:
    model = Model("tinker://r:train:0/sampler_weights/final", "org/model", TAXONOMY, 512)
    if not trained:
        model = Model(BASE, "org/model", TAXONOMY, 512)
    return Evaluation(model, EXAMPLES, BEFORE, AFTER if trained else None, {}, PICTURE)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data) -> None:
        self.text += data


def test_hostile_text_is_shown_and_never_obeyed():
    page = Page(render_report(evaluation(), corpus=HOSTILE))

    assert not {"script", "img"} & set(page.tags)
    assert not {"src", "href", "onerror"} & page.attributes
    assert page.text.count("<script>alert('x')</script>") >= 3
    assert "{{ 7*7 }}" in page.text and "49" not in page.text


def test_the_page_forbids_what_it_does_not_hold():
    assert "default-src 'none'" in render_report(evaluation(), corpus="data")


def test_a_mail_that_went_wrong_is_among_those_shown_with_what_was_expected():
    page = Page(render_report(evaluation(), corpus="data"))

    assert "after: wrong" in page.text and "expected" in page.text


def test_only_some_mails_apart_get_a_table_of_their_own():
    text = render_report(evaluation(), corpus="data")

    assert "Mails unlike any in training" in text


def test_before_any_training_there_is_no_after():
    page = Page(render_report(evaluation(trained=False), corpus="data"))

    assert "before any training" in page.text and "after:" not in page.text


def test_weights_and_the_shift_are_shown_token_by_token():
    positions = PICTURE.positions

    assert [(p.input.id, p.target.id, p.weight) for p in positions] == [
        (1, 2, 0.0),
        (2, 3, 1.0),
        (3, 4, 1.0),
    ]
    assert PICTURE.num_weighted == 2
    assert [p.weight for p in PICTURE.around_the_seam(1, 1)] == [0.0, 1.0]


def test_writing_replaces_the_page_whole(tmp_path):
    path = tmp_path / "deep" / "report.html"

    write_report(path, evaluation(), corpus="corpus one")
    write_report(path, evaluation(), corpus="corpus two")

    assert "corpus two" in path.read_text() and "corpus one" not in path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_loss_curve_needs_two_points_that_can_be_drawn():
    assert loss_curve([]) == loss_curve([(1, 2.0)]) == ""
    assert loss_curve([(1, 2.0), (2, float("nan")), (3, 0.0)]) == ""
    assert loss_curve([(1, 7.0), (2, 0.7), (3, 0.07)]).count("<path") == 2
    assert "nan" not in loss_curve([(1, 1.0), (2, 1.0)])


def test_the_running_mean_of_a_constant_is_that_constant():
    assert [round(loss, 12) for _, loss in running_mean([(n, 3.0) for n in range(50)])] == [
        3.0
    ] * 50
