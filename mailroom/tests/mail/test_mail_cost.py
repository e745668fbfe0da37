"""The worst messages that we could think of stay cheap. Each one broke some mail program once,
or would break a straightforward reader by time, memory or recursion."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

import pytest
from mailroom.mail.message import UnreadableMessageError
from mailroom.mail.parse import read_message

MIB = 2**20
MAX_SECONDS = 2.0
"""Of processor time. The worst take half of it and real mail a thousandth."""


def nested_multiparts(depth: int, filling: bytes) -> bytes:
    heads = [
        b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (i, i) for i in range(depth)
    ]
    return b"".join(heads) + b"\n" + filling


def html(body: str) -> bytes:
    return b"Subject: x\nContent-Type: text/html\n\n" + body.encode()


def part(header: str, body: bytes) -> bytes:
    return b"Subject: x\n" + header.encode() + b"\n\n" + body


def parts(num: int, one: bytes) -> bytes:
    return b"Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n" + (b"--b\n" + one) * num


HOSTILE: dict[str, Callable[[], bytes]] = {
    "2,000 multiparts in one another": lambda: nested_multiparts(2_000, b"x\n" * 100_000),
    "20 multiparts around 20 MB of short lines": lambda: nested_multiparts(20, b"--\n" * 7_000_000),
    "40 MB of one line": lambda: b"Subject: x\n\n" + b"x" * (40 * MIB),
    "a million parts": lambda: parts(1_000_000, b"\nx\n"),
    "100 parts of 300 KB of headers": lambda: parts(100, b"a: b\n" * 60_000 + b"\nx\n"),
    "200,000 header fields": lambda: b"a: b\n" * 200_000 + b"\nx",
    "a header folded 200,000 times": lambda: b"Subject: x\n" + b" y\n" * 200_000 + b"\nx",
    "encoded words without end": lambda: b"Subject: " + b"=?utf-8?q?a" * 50_000 + b"\n\nx",
    "encoded words by the thousand": lambda: (
        b"Subject: " + b"=?utf-8?b?w6Q=?= " * 50_000 + b"\n\nx"
    ),
    "a Content-Type of semicolons and quotes": lambda: part(
        'Content-Type: text/plain;"' + ';"' * 50_000, b"x"
    ),
    "RFC 2231 continuations": lambda: part(
        "Content-Disposition: attachment; " + "; ".join(f"filename*{i}*=a" for i in range(20_000)),
        b"x",
    ),
    "messages in messages": lambda: (
        b"Content-Type: message/rfc822\n\n" * 100_000 + b"Subject: x\n\nx"
    ),
    "messages in base64 in messages": lambda: (
        b"Content-Type: message/rfc822\n"
        b"Content-Transfer-Encoding: base64\n\n" + base64.b64encode(b"Subject: x\n\n" + b"y" * MIB)
    ),
    "20 MB of base64 noise": lambda: part("Content-Transfer-Encoding: base64", b"a.=-" * (5 * MIB)),
    "20 MB of soft line breaks": lambda: part(
        "Content-Transfer-Encoding: quoted-printable", b"=\n" * (10 * MIB)
    ),
    "uuencoded lines of one character": lambda: part(
        "Content-Transfer-Encoding: x-uuencode", b"begin 644 a\n" + b"!\n" * (4 * MIB)
    ),
    "uuencode begun again and again": lambda: b"Subject: x\n\n" + b"begin 644 a\n" * 200_000,
    "PGP blocks without end": lambda: b"Subject: x\n\n" + b"-----BEGIN PGP MESSAGE-----\n" * 50_000,
    "base64 lines in the text": lambda: b"Subject: x\n\n" + (b"A" * 76 + b"\n") * 50_000,
    "a million spaces before a letter": lambda: b"Subject: x\n\n" + b" " * MIB + b"x",
    "half a million joiners": lambda: b"Subject: x\n\na" + "\u200d".encode() * 500_000 + b"b",
    "a million anchors opened": lambda: b"Subject: x\n\n" + b"<a " * 300_000,
    "control characters only": lambda: parts(90, b"\n" + b"\x0c" * 300_000 + b"\n"),
    "elements nested 100,000 deep": lambda: html("<div>" * 100_000 + "x"),
    "elements that close others": lambda: html("<span>" * 6_000 + "</q>" * 6_000),
    "lists in lists": lambda: html("<ul><li>" * 100_000),
    "formatting opened in every paragraph": lambda: html(
        "<p>" + "".join(f"<b a={i}>" for i in range(5_000)) + "<p>x" * 5_000
    ),
    "100,000 attributes": lambda: html(
        "<div " + " ".join(f"a{i}=1" for i in range(100_000)) + ">x"
    ),
    "attributes behind quotes and comments": lambda: html(
        '<!-- <a b=" --><div c=\'" > ' + " ".join(f"a{i}" for i in range(100_000)) + "'>x"
    ),
    "attributes on one html tag after another": lambda: html(
        "".join(f'<html style="{i}" a{i}>' for i in range(50_000))
    ),
    "comments, scripts and quotes that never end": lambda: html(
        "<!--<script><a b='<a b=\"" * 50_000
    ),
    "scripts opened and closed": lambda: html("<script></script>" * 60_000),
    "tables in tables": lambda: html("<table><tr><td>" * 30_000),
    "text with a tag for every letter": lambda: html("<i>x</i>" * 120_000),
    "5 MB of entities": lambda: html("&amp;" * MIB),
    "a calendar of a million lines": lambda: part(
        "Content-Type: text/calendar", b"BEGIN:VEVENT\n" * MIB
    ),
    "a calendar line of quotes": lambda: part(
        "Content-Type: text/calendar", b'A;"' + b'"' * 90_000 + b":x"
    ),
    "the start of a boundary, over and over": lambda: part(
        "Content-Type: multipart/mixed; boundary=" + "-" * 70, b"-" * (20 * MIB)
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_messages_are_read_in_bounded_time_and_size(name: str):
    raw = HOSTILE[name]()
    start = time.process_time()
    try:
        message = read_message(raw)
    except UnreadableMessageError:
        message = None
    seconds = time.process_time() - start

    assert seconds < MAX_SECONDS
    assert message is None or len(message.body) <= 210_000
