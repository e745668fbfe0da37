from mailroom.config import absolute_choice, home_directory, served_name
from mailroom.service.remembered import recall, remember, remember_scores

PATH = "tinker://r:train:0/sampler_weights/final"


def test_facts_about_a_run_add_up(tmp_path):
    remember(tmp_path, "r:train:0", base_model="org/name")
    remember(tmp_path, "r:train:0", scores={"x": 1})
    remember(tmp_path, "other", base_model="b")

    assert recall(tmp_path, PATH) == {"base_model": "org/name", "scores": {"x": 1}}
    assert recall(tmp_path, "tinker://unknown/weights/x") == {}
    assert recall(tmp_path, "base") == {}


def test_scores_are_kept_for_each_of_a_runs_weights(tmp_path):
    remember_scores(tmp_path, PATH, {"after": 1})
    remember_scores(tmp_path, "tinker://r:train:0/sampler_weights/other", {"after": 2})
    remember_scores(tmp_path, PATH, {"after": 3})

    assert recall(tmp_path, PATH)["scores"] == {
        PATH: {"after": 3},
        "tinker://r:train:0/sampler_weights/other": {"after": 2},
    }


def test_a_damaged_or_missing_record_is_as_if_nothing_were_known(tmp_path):
    assert recall(tmp_path / "nowhere", PATH) == {}
    (tmp_path / "runs.json").write_text("{")

    assert recall(tmp_path, PATH) == {}


def test_base_models_are_named_as_the_service_names_them(tmp_path, monkeypatch):
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)

    assert served_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert served_name("org/name=./my-model") == "org/name"
    assert served_name("my-model") == served_name(str(tmp_path / "my-model")) == "local/my-model"
    assert absolute_choice("my-model") == str(tmp_path / "my-model")
    assert absolute_choice("org/name=my-model") == f"org/name={tmp_path / 'my-model'}"
    assert absolute_choice("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


def test_the_home_is_the_option_then_the_variable_then_the_platforms(tmp_path, monkeypatch):
    monkeypatch.setenv("MAILROOM_HOME", str(tmp_path / "variable"))
    assert home_directory(tmp_path / "option") == tmp_path / "option"
    assert home_directory() == tmp_path / "variable"

    monkeypatch.delenv("MAILROOM_HOME")
    assert home_directory().name == "mailroom"
