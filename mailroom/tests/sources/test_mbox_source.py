from __future__ import annotations

import hashlib
import io
import mailbox
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mailroom.sources import mbox, raw_message
from mailroom.sources.mbox import read_stream, unquote

ENVELOPE = b"From ann@example.org Mon Mar  2 09:00:00 2026\n"


def read(data: bytes) -> list[bytes]:
    messages = list(read_stream(io.BytesIO(data), "box"))
    assert all(message.error is None for message in messages)
    return [message.raw for message in messages]


def written(*messages: bytes) -> bytes:
    """An mbox in the way of mboxrd writers (mutt, Dovecot)."""
    box = b""
    for message in messages:
        quoted = (
            b">" + line if line.lstrip(b">").startswith(b"From ") else line
            for line in message.splitlines(keepends=True)
        )
        box += ENVELOPE + b"".join(quoted) + b"\n"
    return box


def test_messages_come_out_as_they_went_in():
    one = b"Subject: one\n\nwords\n\n\nmore\n"
    two = b"Subject: two\n\nFrom here on\n>From there\n\n"

    assert read(written(one, two)) == [one, two]


LINE = st.sampled_from(
    (b"", b"words", b"From ann", b">From ann", b">>From ann", b"> quoted", b">", ENVELOPE.strip())
)


@given(st.lists(st.lists(LINE, min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_number_of_messages_and_their_ends_survive_any_text(bodies: list[list[bytes]]):
    messages = [b"Subject: x\n\n" + b"\n".join(lines) + b"\nend\n" for lines in bodies]

    out = read(written(*messages))

    assert len(out) == len(messages)
    for raw, message in zip(out, messages, strict=True):
        # Where quoting is ambiguous a ">" may differ, nothing else may.
        assert raw.replace(b">", b"") == message.replace(b">", b"")


def test_quoting_of_either_dialect_is_undone_in_the_company_of_a_reply():
    sent = (
        b"Subject: x\n\nFrom here on I agree.\n\n> one\n>From two\n> three\n\n"
        b">> deep\n>>From deeper\n>> down\n\nFrom Ann, later:\n> four\n"
    )
    mboxrd = re.sub(rb"(?m)^(>*From )", rb">\1", sent)
    mboxo = re.sub(rb"(?m)^From ", b">From ", sent)

    assert mboxrd != mboxo
    assert unquote(mboxrd) == sent
    assert unquote(mboxo) == sent


def test_quoting_that_stands_alone_loses_one_mark():
    assert unquote(b"a\n\n>From b\n\n>>From c\n") == b"a\n\nFrom b\n\n>From c\n"
    assert unquote(b">From b") == b"From b"


@pytest.mark.parametrize(
    "box",
    [
        ENVELOPE + b"Subject: x\n\nwords",
        ENVELOPE + b"Subject: x\n\nwords\n",
        ENVELOPE + b"Subject: x\n\nwords\n\n",
        b"\n\n" + ENVELOPE + b"Subject: x\n\nwords\n",
        (ENVELOPE + b"Subject: x\n\nwords\n\n").replace(b"\n", b"\r\n"),
    ],
    ids=["no newline", "no empty line", "usual", "empty lines above", "CRLF"],
)
def test_one_message_is_read_however_the_file_ends(box: bytes):
    (raw,) = read(box)

    assert raw.replace(b"\r", b"").rstrip(b"\n") == b"Subject: x\n\nwords"


def test_crlf_files_are_split_like_others():
    box = written(b"Subject: one\n\n1\n", b"Subject: two\n\nFrom 2\n").replace(b"\n", b"\r\n")

    assert read(box) == [b"Subject: one\r\n\r\n1\r\n", b"Subject: two\r\n\r\nFrom 2\r\n"]


@pytest.mark.parametrize("data", [b"", b"\n\n"])
def test_nothing_is_one_empty_message_but_no_message_of_an_mbox(data: bytes):
    assert read(data) == [data]
    assert list(read_stream(io.BytesIO(data), "box", is_mbox=True)) == []


def test_an_envelope_alone_is_an_empty_message():
    assert read(ENVELOPE) == [b""]
    assert read(ENVELOPE + b"\n" + ENVELOPE + b"\n") == [b"\n", b"\n"]


@pytest.mark.parametrize(
    "line",
    [
        b"From what I hear it is fine.",
        b"From Monday on, Mar 2 at 09:00 is the time.",
        b"From ann@example.org",
        b"From: ann@example.org",
        b"From x on Tue it goes at 10:30",
    ],
)
def test_a_sentence_that_starts_with_from_does_not_split_a_message(line: bytes):
    message = b"Subject: x\n\nabove\n\n" + line + b"\nbelow\n"

    assert read(ENVELOPE + message + b"\n") == [message]


def test_an_envelope_in_the_middle_of_a_paragraph_is_text():
    message = b"Subject: x\n\nhe wrote:\n" + ENVELOPE + b"and so on\n"

    assert read(ENVELOPE + message) == [message]


@pytest.mark.parametrize(
    "envelope",
    [
        b"From - Mon Mar 02 09:00:00 2026",
        b"From MAILER-DAEMON Fri Jul  8 12:08:34 2011",
        b"From mrc@example.org Mon Feb  8 02:53:47 PST 1993",
        b"From ann@example.org  Fri Nov 26 21:40:36 2004",
        b"From ann@example.org Mon, 2 Mar 2026 09:00:00 +0100",
        b"From ???@??? Tue Mar 03 10:15:00 1998",
        b"From \"Ann Lee\"@example.org Mon Mar  2 09:00 2026 remote from uucp",
    ],
)  # fmt: skip
def test_envelopes_of_many_writers_split_messages(envelope: bytes):
    box = envelope + b"\nSubject: one\n\n1\n\n" + envelope + b"\nSubject: two\n\n2\n"

    assert read(box) == [b"Subject: one\n\n1\n", b"Subject: two\n\n2\n"]


def test_a_file_that_begins_with_a_bare_envelope_is_split_at_bare_ones():
    box = b"From ann\nSubject: one\n\nFrom here on\n\nFrom bo\nSubject: two\n\n2\n"

    assert read(box) == [b"Subject: one\n\nFrom here on\n", b"Subject: two\n\n2\n"]


def test_anything_else_is_one_message():
    raw = b"Subject: x\n\nabove\n\n" + ENVELOPE + b"below\n"

    assert read(raw) == [raw]


def test_python_and_we_agree_on_a_box_that_python_wrote(tmp_path: Path):
    box = mailbox.mbox(tmp_path / "box")
    messages = [f"Subject: {n}\n\nwords {n}\nFrom {n}\n\nend\n".encode() for n in range(5)]
    for message in messages:
        box.add(message)
    box.close()
    data = (tmp_path / "box").read_bytes()

    assert read(data) == messages
    assert (tmp_path / "box").read_bytes() == data


class Generated(io.RawIOBase):
    """A box of any size that is made as it is read, and knows how much was read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""
        self.num_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        self._held = self._held or next(self._pieces, b"")
        size = min(len(buffer), len(self._held))
        buffer[:size], self._held = self._held[:size], self._held[size:]
        self.num_read += size
        return size


def test_a_box_is_read_only_as_far_as_it_is_asked_for():
    one = ENVELOPE + b"Subject: x\n\n" + b"words\n" * 1_000 + b"\n"
    source = Generated(one for _ in range(10_000))

    messages = read_stream(cast(BinaryIO, io.BufferedReader(source)), "box")
    for _ in range(3):
        next(messages)

    assert source.num_read < 10 * len(one)


def test_a_message_past_the_limit_is_named_and_the_next_one_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mbox, "MAX_MESSAGE_BYTES", 1_000)
    monkeypatch.setattr(raw_message, "MAX_MESSAGE_BYTES", 1_000)
    box = written(b"Subject: big\n\n" + b"x" * 2_000 + b"\n", b"Subject: small\n\nx\n")

    big, small = read_stream(io.BytesIO(box), "box")

    assert (big.raw, big.origin) == (b"", "box#1")
    assert big.error is not None and "larger than" in big.error
    assert (small.raw, small.error) == (b"Subject: small\n\nx\n", None)
    (alone,) = read_stream(io.BytesIO(b"Subject: big\n\n" + b"x" * 2_000), "file")
    assert alone.error is not None and "larger than" in alone.error


def test_a_disk_that_fails_on_the_way_leaves_what_came_before():
    def pieces() -> Iterator[bytes]:
        yield written(b"Subject: one\n\n1\n", b"Subject: two\n\n2\n")
        raise OSError(5, "Input/output error")

    stream = cast(BinaryIO, io.BufferedReader(Generated(pieces()), buffer_size=64))
    messages = list(read_stream(stream, "box"))

    assert messages[0].raw == b"Subject: one\n\n1\n"
    assert messages[-1].error == "reading stopped here: Input/output error"


def test_reading_leaves_the_file_as_it_is(tmp_path: Path):
    path = tmp_path / "box"
    path.write_bytes(written(b"Subject: one\n\nFrom 1\n", b"Subject: two\n\n2\n"))
    path.chmod(0o400)
    before = (hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns)

    with path.open("rb") as stream:
        assert len(list(read_stream(stream, "box"))) == 2

    assert (hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns) == before
    assert [file.name for file in tmp_path.iterdir()] == ["box"]
