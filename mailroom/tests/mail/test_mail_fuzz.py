"""Messages that the standard library writes are read back; damaged ones never end in anything but
a message or a clear refusal, and give only text that can be shown and stored."""

from __future__ import annotations

import contextlib
import mailbox
import random
import re
import unicodedata
from dataclasses import astuple
from email.message import EmailMessage

from hypothesis import given, settings
from hypothesis import strategies as st
from mailroom.mail.message import Message, UnreadableMessageError
from mailroom.mail.parse import read_message

SEEDS = (
    b"From: Ann <ann@example.org>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nTo: bo@example.org\r\n"
    b"Content-Type: text/plain; charset=iso-8859-1\r\n"
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\nIch gr=FC=DFe dich=\r\n und alle\r\n",
    b'Subject: parts\nContent-Type: multipart/mixed; boundary="a b"\n\nprose\n--a b\n'
    b"Content-Type: multipart/alternative; boundary=c\n\n--c\n\nplain\n--c\n"
    b"Content-Type: text/html\n\n<p style='color:red'>marked <b>up</b><!-- no --><script>\n--c--\n"
    b'--a b\nContent-Type: application/pdf; name*=utf-8\'\'na%C3%AFve.pdf\nContent-Disposition: '
    b"attachment\nContent-Transfer-Encoding: base64\n\nJVBERi0xLjQK\n--a b--\n",
    b"Content-Type: message/rfc822\n\nSubject: inner\nContent-Type: text/calendar; method=REQUEST\n"
    b"\nBEGIN:VEVENT\nSUMMARY:Plan\nDTSTART;TZID=UTC:20260302T090000\nEND:VEVENT\n",
    b"Subject: =?iso-2022-jp?B?GyRCJDkkXyReGyhC?=\nContent-Type: text/plain; charset=shift_jis\n\n"
    b"\x82\xa0\x82\xa2\nbegin 644 x\n#:&5L\n`\nend\n-----BEGIN PGP SIGNATURE-----\n\nabcd\n",
    b"Subject: report\nContent-Type: multipart/report; boundary=--\n\n----\n\nfailed\n----\n"
    b"Content-Type: message/delivery-status\n\nAction: failed\n\n------\n",
)  # fmt: skip
SPLICES = (
    b"\x00", b"\xff\xfe", b"\n", b"\n\n", b"\r", b"--", b"--c--\n", b"=?", b"?=", b"?b?", b"=",
    b";", b'"', b"<", b">", b"<!--", b"<div ", b"&#x110000;", b"charset=utf-7",
    b"charset=unicode_escape", b"\x1b$B", b"Content-Type: multipart/mixed\n",
    b"Content-Transfer-Encoding: base64\n",
    b"Content-Transfer-Encoding: x-uuencode\n", b"filename*1*=%FF; ", b"+2AA-", b"\xed\xa0\x80",
)  # fmt: skip


def damaged(seed: int) -> bytes:
    """A seed message with a few random wounds: cut, doubled, moved, overwritten or spliced."""
    rng = random.Random(seed)
    raw = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randint(1, 12)):
        at, end = sorted(rng.randrange(len(raw) + 1) for _ in range(2))
        match rng.randrange(5):
            case 0:
                del raw[at : min(end, at + 40)]
            case 1:
                raw[at:at] = raw[at:end]
            case 2:
                raw[at:at] = rng.choice(SPLICES)
            case 3:
                raw[at : at + 1] = bytes([rng.randrange(256)])
            case _:
                other = rng.choice(SEEDS)
                raw[at:at] = other[rng.randrange(len(other)) :]
    return bytes(raw)


def check(message: Message) -> None:
    for value in astuple(message):
        value.encode()
        assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in value)
    for value in (message.subject, message.sender, message.to, message.date, message.message_id):
        assert "\n" not in value and "\t" not in value
    assert message.subject or message.body


def test_damaged_messages_end_in_a_message_or_a_refusal():
    num_read = 0
    for seed in range(1_500):
        try:
            check(read_message(damaged(seed)))
            num_read += 1
        except UnreadableMessageError:
            pass

    assert num_read > 1_350


@settings(deadline=None)
@given(st.binary(max_size=2_000))
def test_any_bytes_end_in_a_message_or_a_refusal(raw: bytes):
    with contextlib.suppress(UnreadableMessageError):
        check(read_message(raw))


LINES = st.lists(st.text("abc äöü 你好 .,-=?<&", min_size=1, max_size=60), min_size=1, max_size=5)


@settings(deadline=None)
@given(
    subject=st.text("abcdefghij äöü你好 =?_", min_size=1, max_size=90).map(lambda s: f"Re: {s}"),
    lines=LINES,
    html=st.booleans(),
    charset=st.sampled_from(["utf-8", "gb18030"]),
    encoding=st.sampled_from(["base64", "quoted-printable", "8bit"]),
    attachment=st.one_of(st.none(), st.binary(max_size=100)),
    is_forwarded=st.booleans(),
)
def test_what_the_standard_library_writes_is_read_back(
    subject: str,
    lines: list[str],
    html: bool,
    charset: str,
    encoding: str,
    attachment: bytes | None,
    is_forwarded: bool,
):
    subject = " ".join(subject.split())
    written = EmailMessage()
    written["Subject"] = subject
    written["From"] = "Ann <ann@example.org>"
    written.set_content("\n".join(lines) + "\n", charset=charset, cte=encoding)
    if html:
        written.add_alternative("<p>other words</p>", subtype="html")
    if attachment is not None:
        written.add_attachment(attachment, maintype="image", subtype="png", filename="ä b.png")
    if is_forwarded:
        outer = EmailMessage()
        outer["Subject"] = "outer"
        outer.set_content("outer words")
        outer.add_attachment(written)
        written = outer

    message = read_message(written.as_bytes())

    shown = "\n".join(line.rstrip() for line in lines).strip("\n")
    shown = re.sub(r"\n{3,}", "\n\n", shown)  # several empty lines are shown as one
    if is_forwarded:
        assert message.subject == "outer"
        assert f"Subject: {subject}" in message.body
    else:
        assert message.subject == subject
        assert message.body.startswith(shown)
    assert shown in message.body
    assert "other words" not in message.body or not shown
    assert ("[attachment: ä b.png (image/png)]" in message.body) == (attachment is not None)


def test_a_message_of_the_standard_library_mailbox_is_read(tmp_path):
    box = mailbox.mbox(tmp_path / "box")
    box.add(b"From: ann@example.org\nSubject: one\n\nwords\n")
    box.close()

    raw = (tmp_path / "box").read_bytes()

    assert read_message(raw) == Message(subject="one", body="words", sender="ann@example.org")
