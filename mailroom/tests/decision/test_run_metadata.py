import pytest
from mailroom.decision.model import check_reference
from mailroom.decision.run_metadata import (
    TEMPERATURE_KEY,
    metadata_for,
    prompt_digest,
    read_metadata,
    read_temperature,
)
from mailroom.errors import MailroomError
from mailroom.taxonomy import Taxonomy


@pytest.mark.parametrize("name", ["default", "reference"])
def test_taxonomy_and_settings_come_back_from_a_runs_metadata(name):
    taxonomy = Taxonomy.load(name)

    metadata = metadata_for(taxonomy, 300, {"rank": 8})
    found = read_metadata(metadata)

    assert all(isinstance(value, str) for value in metadata.values())
    assert found is not None
    assert found.taxonomy == taxonomy
    assert (found.max_prompt_tokens, found.training) == (300, {"rank": 8})
    assert found.prompt_digest == prompt_digest(taxonomy)


@pytest.mark.parametrize("metadata", [None, {}, {"owner": "me"}])
def test_a_run_that_mailroom_did_not_train_has_no_metadata_of_ours(metadata):
    assert read_metadata(metadata) is None


@pytest.mark.parametrize("prompt", ["{", "{}", '{"max_tokens": "many", "digest": "x"}'])
def test_damaged_metadata_is_named(prompt):
    metadata = metadata_for(Taxonomy.load("default"), 300, {}) | {"mailroom.prompt": prompt}

    with pytest.raises(MailroomError, match=r"mailroom\.prompt"):
        read_metadata(metadata)


@pytest.mark.parametrize("reference", ["base", "tinker://a:train:0/sampler_weights/final"])
def test_a_reference_is_base_or_a_path_of_sampler_weights(reference):
    assert check_reference(reference) == reference


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("", "is no model"),
        ("Base", "is no model"),
        ("tinker://a:train:0", "is no model"),
        ("tinker://a:train:0/sampler_weights/", "is no model"),
        ("tinker://a/b/c/d", "is no model"),
        ("tinker://a:train:0/weights/step-1", "to train on from"),
    ],
)
def test_other_references_are_refused_with_what_is_allowed(reference, said):
    with pytest.raises(MailroomError, match=said) as caught:
        check_reference(reference)
    assert "sampler_weights" in str(caught.value)


def test_a_temperature_comes_back_from_the_weights_metadata_and_1_where_there_is_none():
    assert read_temperature({TEMPERATURE_KEY: repr(1.7)}) == 1.7
    for metadata in (None, {}, {TEMPERATURE_KEY: "warm"}, {TEMPERATURE_KEY: "nan"}):
        assert read_temperature(metadata) == 1.0
    assert read_temperature({TEMPERATURE_KEY: "-2"}) == 1.0
