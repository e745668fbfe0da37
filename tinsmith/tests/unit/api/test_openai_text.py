"""Text of answers while they grow, and chat templates, against transformers and whole decodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinsmith.api.openai.chat_template import ChatTemplate
from tinsmith.api.openai.growing_text import AnswerText, GrowingText
from tinsmith.api.openai.model_text import ModelText, model_text_in
from tinsmith.base_models import BUILTIN_DIRECTORY
from tinsmith.domain.errors import InvalidInputError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

EOS = 0
UNDECODED = "\N{REPLACEMENT CHARACTER}"
SPELLED = "na\u00efve \U0001f600 \u65e5\u672c\u8a9e, fin"


def byte_level() -> Tokenizer:
    """A token for every byte, and one that ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: index for index, text in enumerate(["<|end|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


def word_pieces() -> Tokenizer:
    """As SentencePiece models are: a mark for spaces, tokens for bytes, no space in front."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["<unk>", "</s>", *byte_tokens, "\u2581a", "\u2581b", "c", "\u2581"]
    vocabulary = {text: index for index, text in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


BYTES = ModelText(byte_level(), frozenset({EOS}), None)
PIECES = ModelText(word_pieces(), frozenset({1}), None)


def grown(text: ModelText, tokens: list[int]) -> list[str]:
    growing = GrowingText(text)
    return [*(growing.add(token) for token in tokens), growing.rest()]


def test_characters_of_several_tokens_come_out_whole():
    tokens = BYTES.encode(SPELLED, add_special_tokens=False)
    parts = grown(BYTES, tokens)
    assert "".join(parts) == SPELLED
    assert not any(UNDECODED in part for part in parts)
    assert sum(part != "" for part in parts) == len(SPELLED)


@given(st.lists(st.integers(0, 256), max_size=40))
def test_any_bytes_grow_into_the_text_of_the_whole(tokens: list[int]):
    assert "".join(grown(BYTES, tokens)) == BYTES.decode(tokens)


@given(st.lists(st.sampled_from(["\u2581a", "\u2581b", "c", "\u2581", "\u00e9", "\U0001f600"])))
def test_word_pieces_keep_their_spaces_and_spelled_out_characters(words: list[str]):
    tokenizer = word_pieces()
    tokens: list[int] = []
    for word in words:
        whole = tokenizer.token_to_id(word)
        spelled = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in word.encode()]
        tokens += spelled if whole is None else [whole]
    parts = grown(PIECES, tokens)
    assert "".join(parts) == PIECES.decode(tokens)
    assert not any(UNDECODED in part for part in parts)


@given(
    st.text("abc\u00e9", max_size=25),
    st.lists(st.text("abc\u00e9", min_size=1, max_size=4), max_size=3),
)
def test_an_answer_ends_before_the_first_stop_and_never_shows_a_part_of_it(
    text: str, stops: list[str]
):
    answer = AnswerText(BYTES, stops)
    pieces = [answer.add(token, -1.0) for token in BYTES.encode(text, add_special_tokens=False)]
    pieces.append(answer.finish())
    shown = "".join(piece.text for piece in pieces)
    found = [text.index(stop) for stop in stops if stop in text]
    assert text.startswith(shown)
    if found:
        # The first to be completed cuts, at the place where it began.
        first = min(text.index(stop) + len(stop) for stop in stops if stop in text)
        done = text[:first]
        assert shown == done[: min(done.index(stop) for stop in stops if stop in done)]
    else:
        assert shown == text
    tokens = [token for piece in pieces for token in piece.tokens]
    assert [one.start for one in tokens] == sorted(one.start for one in tokens)
    assert len(tokens) == len(shown.encode())


def test_the_end_of_text_token_is_neither_text_nor_scored():
    answer = AnswerText(BYTES, ())
    tokens = [*BYTES.encode("ab", add_special_tokens=False), EOS]
    pieces = [answer.add(token, -1.0) for token in tokens] + [answer.finish()]
    assert "".join(piece.text for piece in pieces) == "ab"
    assert [one.token for piece in pieces for one in piece.tokens] == tokens[:2]


@pytest.mark.parametrize("text", [BYTES, PIECES])
def test_the_bytes_of_tokens_make_up_the_text(text: ModelText):
    tokens = text.encode("\u00e9c", add_special_tokens=False)
    assert b"".join(map(text.bytes_of, tokens)) == "\u00e9c".encode()
    assert text.bytes_of(10**6) == b""


def test_the_builtin_model_reads_and_writes_as_transformers_does():
    from transformers import AutoTokenizer

    ours = model_text_in(str(BUILTIN_DIRECTORY))
    theirs = AutoTokenizer.from_pretrained(BUILTIN_DIRECTORY)
    messages = [{"role": "user", "content": "Invoice 12 is due.\n\u20ac 30"}]
    prompt = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert ours.template is not None
    assert ours.template.render(messages) == prompt
    tokens = theirs.encode(prompt)
    assert ours.encode(prompt, add_special_tokens=True) == tokens
    assert ours.decode(tokens) == theirs.decode(tokens, skip_special_tokens=True)
    assert theirs.eos_token_id in ours.eos_ids


TEMPLATES = {
    "special tokens": "{{ bos_token }}{% for m in messages %}{{ m.content | trim }}{% endfor %}",
    "tools": "{% for tool in tools %}{{ tool | tojson(indent=2) }}\n{% endfor %}",
    "blocks": "{% for m in messages %}\n    {% if loop.first %}\n  {% continue %}\n    {% endif %}"
    "\n{{ m.role }}: {{ m.content }}\n{% endfor %}\n{% if add_generation_prompt %}>{% endif %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}",
    "settings": "{{ enable_thinking is defined and not enable_thinking }} {{ messages[0].role }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_templates_render_as_in_transformers(template: str, tmp_path: Path):
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), bos_token="<|end|>", chat_template=template
    )
    theirs.save_pretrained(tmp_path)
    ours = ChatTemplate.load(tmp_path)
    assert ours is not None
    messages = [
        {"role": "system", "content": " <b>\u00e9</b> "},
        {"role": "user", "content": "a & b"},
    ]
    tools = [{"type": "function", "function": {"name": "z", "parameters": {"b": 1, "a": "\u00e9"}}}]
    wanted = theirs.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert ours.render(messages, tools, {"enable_thinking": False}) == wanted


def test_what_a_template_refuses_is_said_in_its_words():
    template = ChatTemplate({"default": "{{ raise_exception('roles must alternate') }}"}, {})
    with pytest.raises(InvalidInputError, match="roles must alternate"):
        template.render([{"role": "user", "content": "x"}])


def test_a_template_sees_nothing_of_the_server():
    template = ChatTemplate({"default": "{{ messages.__class__.__mro__[1].__subclasses__() }}"}, {})
    with pytest.raises(InvalidInputError, match=r"unsafe|undefined"):
        template.render([{"role": "user", "content": "x"}])


def test_of_several_templates_the_one_for_tools_is_taken_for_tools(tmp_path: Path):
    named = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools | length }} tools"},
    ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    template = ChatTemplate.load(tmp_path)
    assert template is not None
    assert template.render([]) == "plain"
    assert template.render([], [{"type": "function"}]) == "1 tools"


def test_a_model_without_a_tokenizer_file_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"tokenizer\.json"):
        model_text_in(str(tmp_path))
