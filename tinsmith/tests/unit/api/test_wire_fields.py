import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinsmith.api.wire.fields import Fields
from tinsmith.domain.errors import InvalidInputError

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"\xff\xfe\x00",
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": ' * 100_000,
        b'{"a": "\xff"}',
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body):
    with pytest.raises(InvalidInputError, match="body"):
        Fields.parse(body)


@given(any_json)
def test_a_field_of_any_type_is_read_or_refused_by_its_name(value):
    fields = Fields.parse(json.dumps({"field": value}).encode())
    for read in (
        fields.text,
        fields.integer,
        fields.metadata,
        lambda name: fields.number_or(name, 0.0),
        lambda name: fields.flag_or(name, False),
        lambda name: fields.items_or(name, []),
        lambda name: fields.object_or(name, None),
    ):
        try:
            read("field")
        except InvalidInputError as error:
            assert "field" in str(error)


def test_null_is_absent():
    fields = Fields.parse(b'{"seed": null}')
    assert fields.integer_or("seed", None) is None
    assert fields.text_or("path", "none") == "none"


def test_true_is_not_an_integer():
    with pytest.raises(InvalidInputError, match="seq_id must be an integer"):
        Fields.parse(b'{"seq_id": true}').integer("seq_id")


def test_half_surrogates_are_refused_as_no_database_takes_them():
    fields = Fields.parse(b'{"name": "\\ud800", "user_metadata": {"a": "\\udfff"}}')
    with pytest.raises(InvalidInputError, match="name"):
        fields.text("name")
    with pytest.raises(InvalidInputError, match="user_metadata"):
        fields.metadata("user_metadata")


def test_an_error_in_an_inner_object_names_the_path_and_shows_little():
    fields = Fields.parse(json.dumps({"lora_config": {"rank": "x" * 10_000}}).encode())
    inner = fields.object_or("lora_config", None)
    assert inner is not None
    with pytest.raises(InvalidInputError, match=r"lora_config\.rank must be an integer") as caught:
        inner.integer("rank")
    assert len(str(caught.value)) < 250
