"""Mail as it is in the wild: every message ends in an answer or in "unreadable", whatever it holds.

Where the data lies beside the repository; it is not ours to ship.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

DATA = Path(__file__).parents[3] / "shared/data"
NUM_MESSAGES = 40
ENVELOPE = re.compile(rb"^From \S+.*\d\d:\d\d:\d\d", re.MULTILINE)


def digests(*files: Path) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def check(ended, num_messages: int) -> None:
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    assert "Token indices sequence length" not in ended.err
    messages = ended.document["messages"]
    assert [message["index"] for message in messages] == list(range(num_messages))
    for message in messages:
        if message["status"] == "unreadable":
            assert message["error"] and message["category"] is None
        else:
            assert message["error"] is None and message["reason"]
            assert (message["status"] == "decided") == (message["category"] is not None)


@pytest.mark.skipif(not (DATA / "real_mail/mail.mbox").exists(), reason="no real mail here")
def test_every_message_of_a_real_mailbox_is_accounted_for(mailroom, tmp_path):
    with (DATA / "real_mail/mail.mbox").open("rb") as file:
        whole = file.read(8_000_000)
    starts = [found.start() for found in ENVELOPE.finditer(whole)]
    starts = [at for at in starts if at == 0 or whole[at - 2 : at] == b"\n\n"]
    mbox = tmp_path / "first.mbox"
    mbox.write_bytes(whole[: starts[NUM_MESSAGES]])
    before = digests(mbox)

    ended = mailroom("triage", f"mbox:{mbox}", "--model", "base", "--json")

    check(ended, NUM_MESSAGES)
    assert digests(mbox) == before


@pytest.mark.skipif(not (DATA / "nasty_mime").exists(), reason="no nasty mail here")
def test_every_nasty_message_is_accounted_for(mailroom):
    files = sorted((DATA / "nasty_mime").glob("*.eml"))
    before = digests(*files)

    ended = mailroom("triage", *map(str, files), "--model", "base", "--json")

    check(ended, len(files))
    assert digests(*files) == before


def test_a_message_far_longer_than_any_context_is_read_without_a_warning(mailroom):
    mail = b"Subject: long\n\n" + b"word word, " * 20_000 + b"\n\n" + b"=" * 60_000

    ended = mailroom("triage", "-", "--model", "base", "--json", stdin=mail)

    check(ended, 1)
