from mailroom.decision.model import Model
from mailroom.export.card import model_card
from mailroom.prompt.form import parse_answer
from mailroom.taxonomy import Taxonomy

PATH = "tinker://0b:train:0/sampler_weights/final"
SCORES = {
    "before": {"examples": 210, "category": 0.0, "format": 0.0, "priority": 0.0},
    "after": {"examples": 210, "category": 0.957, "format": 1.0, "priority": 0.98},
    "baselines": {"tfidf": {"examples": 210, "category": 0.99, "format": None, "priority": None}},
}


def card(base_model: str, **more) -> str:
    taxonomy = Taxonomy.load("default")
    model = Model(PATH, base_model, taxonomy, 512, more.get("training", {}))
    return model_card(model, more.get("scores", {}), 32, 32.0)


def test_the_card_begins_with_front_matter_that_names_base_model_and_library():
    lines = card("Qwen/Qwen3-0.6B").splitlines()

    end = lines.index("---", 1)
    assert lines[0] == "---"
    assert "base_model: Qwen/Qwen3-0.6B" in lines[1:end] and "library_name: peft" in lines[1:end]


def test_figures_stand_beside_the_yardstick_and_what_it_lacks_is_left_empty():
    text = card("Qwen/Qwen3-0.6B", scores=SCORES)

    assert "| with this adapter | 210 | 95.7% | 100.0% | 98.0% |" in text
    assert "| tfidf | 210 | 99.0% |  |  |" in text


def test_a_model_that_was_not_evaluated_says_so_instead_of_a_table():
    assert "Not evaluated yet" in card("Qwen/Qwen3-0.6B")


def test_the_answer_on_the_card_has_the_exact_form():
    text = card("Qwen/Qwen3-0.6B")
    answer = text[text.index("Step 1:") :].split("\n```")[0]

    assert parse_answer(answer, Taxonomy.load("default")) is not None


def test_three_ways_to_use_it_are_there_and_name_the_path():
    text = card("Qwen/Qwen3-0.6B")

    assert PATH in text and "PeftModel.from_pretrained" in text and "--merged" in text


def test_only_the_built_in_base_model_gets_the_honest_warning():
    assert "shows the mechanics" in card("tinsmith/tiny")
    assert "shows the mechanics" not in card("Qwen/Qwen3-0.6B")


def test_training_settings_are_told():
    text = card("Qwen/Qwen3-0.6B", training={"corpus": "builtin", "learning_rate": 0.002})

    assert "- data: builtin" in text and "- learning rate: 0.002" in text
