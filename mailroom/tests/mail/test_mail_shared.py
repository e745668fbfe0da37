"""Public mail that broke other parsers, where it lies beside this checkout (it is not ours to
ship): 336 real messages and 45 nasty ones."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

import pytest
from mailroom.mail.message import UnreadableMessageError
from mailroom.mail.parse import read_message
from mailroom.sources.open import open_source

DATA = Path(__file__).parents[4] / "shared" / "data"
NASTY = sorted((DATA / "nasty_mime").glob("*.eml"))
MBOX = DATA / "real_mail" / "mail.mbox"
MAX_SECONDS = 2.0
LEFTOVERS = {
    "a soft line break": re.compile(r"[a-z]{3}=\n[a-z]{3}"),
    "quoted-printable": re.compile(r"=20$|=3D|=E2=80|=C3=[89AB]", re.MULTILINE),
    "base64": re.compile(r"(?:^[A-Za-z0-9+/]{60,}$\n?){3}", re.MULTILINE),
    "an HTML tag": re.compile(r"</(?:td|font|table|div|body|html|p|a|span|script|style)>", re.I),
    "an entity": re.compile(r"&(?:nbsp|quot|#\d{2,5});"),
    "an encoded word": re.compile(r"=\?[A-Za-z0-9-]+\?[bBqQ]\?"),
    "a boundary": re.compile(r"^--\S*(?:NextPart|=_)\S*$", re.MULTILINE),
}


def text_of(raw: bytes) -> str:
    start = time.process_time()
    try:
        message = read_message(raw)
    except UnreadableMessageError as error:
        assert str(error)
        return ""
    finally:
        assert time.process_time() - start < MAX_SECONDS
    text = f"{message.subject}\n{message.body}"
    text.encode()
    return text


@pytest.mark.skipif(not NASTY, reason=f"no messages in {DATA / 'nasty_mime'}")
@pytest.mark.parametrize("path", NASTY, ids=lambda path: path.stem)
def test_a_nasty_message_ends_in_text_or_a_refusal(path: Path):
    raw = path.read_bytes()

    assert text_of(raw).strip()
    assert path.read_bytes() == raw


@pytest.mark.skipif(not MBOX.exists(), reason=f"there is no {MBOX}")
def test_real_mail_reads_without_leftovers_of_its_encoding():
    digest = hashlib.sha256(MBOX.read_bytes()).hexdigest()
    ids: list[str] = []
    marked: dict[str, list[str]] = {what: [] for what in LEFTOVERS}

    with MBOX.open("rb") as unused_stdin:
        for raw_message in open_source(f"mbox:{MBOX}", unused_stdin):
            assert raw_message.error is None
            found = re.search(rb"^X-Sample-Id: (\S+)\r?$", raw_message.raw, re.MULTILINE)
            assert found is not None
            ids.append(found[1].decode())
            text = text_of(raw_message.raw)
            assert text.strip()
            for what, pattern in LEFTOVERS.items():
                if pattern.search(text):
                    marked[what].append(ids[-1])

    assert len(ids) == len(set(ids)) == 336
    assert marked == {what: [] for what in LEFTOVERS}
    assert hashlib.sha256(MBOX.read_bytes()).hexdigest() == digest
