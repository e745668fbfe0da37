"""Real and nasty mail from file to report, where it lies beside this checkout. The model's part is
played by a rule; what is looked at is everything around it."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from mailroom.decision.prediction import Prediction
from mailroom.mail.message import Message
from mailroom.prompt.form import render_answer
from mailroom.sources.open import open_source
from mailroom.taxonomy import Taxonomy
from mailroom.triage.report import as_json, human_text
from mailroom.triage.triage import triage

DATA = Path(__file__).parents[4] / "shared" / "data"
PLACES = (DATA / "real_mail" / "mail.mbox", DATA / "nasty_mime")
TAXONOMY = Taxonomy.load("default")


class ByLength:
    """A category for each length of body: all of them occur, and each answer is well formed."""

    def stream(self, messages: Iterable[Message]) -> Iterator[Prediction]:
        for message in messages:
            key = TAXONOMY.keys[len(message.body) % len(TAXONOMY.keys)]
            answer = TAXONOMY.answer(key, message)
            yield Prediction(render_answer(TAXONOMY, answer), answer, 40, True, {key: 0.9})


def digest(place: Path) -> str:
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@pytest.mark.skipif(not all(p.exists() for p in PLACES), reason=f"no mail in {DATA}")
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_every_message_of_a_real_source_is_in_the_report_and_the_source_as_before(place: Path):
    before = digest(place)
    raw_messages = list(open_source(str(place), io.BytesIO()))

    triaged = list(triage(raw_messages, ByLength(), TAXONOMY))

    entries = json.loads(json.dumps(as_json(triaged), ensure_ascii=False).encode())["messages"]
    assert [entry["index"] for entry in entries] == list(range(len(raw_messages)))
    assert len(entries) == (45 if place.is_dir() else 336)
    for raw_message, entry, one in zip(raw_messages, entries, triaged, strict=True):
        assert entry["status"] in ("decided", "unreadable")
        assert (entry["error"] is None) == (entry["status"] == "decided")
        has_id = re.match(rb"(?is)(.*?\n)?message-id:\s*<", raw_message.raw.partition(b"\n\n")[0])
        assert not has_id or entry["message_id"] or entry["status"] == "unreadable"
        human_text(one, TAXONOMY).encode()
    assert digest(place) == before
