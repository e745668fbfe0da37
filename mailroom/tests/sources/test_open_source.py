from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path

import pytest
from mailroom.sources.open import open_source
from mailroom.sources.raw_message import RawMessage, SourceError

ENVELOPE = b"From ann@example.org Mon Mar  2 09:00:00 2026\n"
NOTHING = io.BytesIO()


def message(name: str) -> bytes:
    return f"Subject: {name}\n\nwords\n".encode()


def subjects(messages: list[RawMessage]) -> list[str]:
    return [one.raw.split(b"\n")[0].decode().removeprefix("Subject: ") for one in messages]


def state(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Everything below a folder: digest, mode and time of change of each file and folder."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mode,
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    box = tmp_path / "Mail"
    for folder in ("cur", "new", "tmp", ".Sent/cur", ".Sent/new", "cur/folder"):
        (box / folder).mkdir(parents=True)
    (box / "cur" / "20.M2.host:2,S").write_bytes(message("second"))
    (box / "cur" / "3.M1.host:2,RS").write_bytes(message("first"))
    (box / "new" / "100.M3.host").write_bytes(message("third"))
    (box / "new" / ".hidden").write_bytes(message("hidden"))
    (box / "tmp" / "101.M4.host").write_bytes(message("half delivered"))
    (box / ".Sent" / "cur" / "1.M5.host:2,S").write_bytes(message("sent"))
    return box


def test_several_places_come_in_the_order_they_were_named(tmp_path: Path, maildir: Path):
    (tmp_path / "b.eml").write_bytes(message("b"))
    (tmp_path / "box").write_bytes(ENVELOPE + message("x") + b"\n" + ENVELOPE + message("y"))
    stdin = io.BytesIO(message("typed"))
    places = [str(tmp_path / "b.eml"), f"mbox:{tmp_path / 'box'}", "-", f"maildir:{maildir}"]

    messages = list(open_source(places, stdin))

    assert subjects(messages) == ["b", "x", "y", "typed", "first", "second", "third"]
    assert [one.index for one in messages] == list(range(7))
    assert messages[0].origin == str(tmp_path / "b.eml")
    assert messages[2].origin == f"{tmp_path / 'box'}#2"
    assert messages[3].origin == "standard input"


def test_a_plain_path_is_recognised_by_what_is_there(tmp_path: Path, maildir: Path):
    (tmp_path / "box").write_bytes(
        b"\n" + ENVELOPE + message("x") + b"\n" + ENVELOPE + message("y")
    )
    (tmp_path / "note").write_bytes(message("note"))
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "b.eml").write_bytes(message("b"))
    (letters / "a.EML").write_bytes(message("a"))
    (letters / "readme.txt").write_bytes(b"no mail")

    def read(path: Path) -> list[str]:
        return subjects(list(open_source(str(path), NOTHING)))

    assert read(tmp_path / "box") == ["x", "y"]
    assert read(tmp_path / "note") == ["note"]
    assert read(letters) == ["a", "b"]
    assert read(maildir) == ["first", "second", "third"]


def test_an_eml_file_is_one_message_even_below_an_envelope(tmp_path: Path):
    raw = ENVELOPE + message("x") + b"\n" + ENVELOPE + message("y")
    (tmp_path / "a.eml").write_bytes(raw)

    (only,) = open_source(str(tmp_path / "a.eml"), NOTHING)

    assert only.raw == raw


def test_standard_input_may_be_an_mbox():
    box = io.BytesIO(ENVELOPE + message("x") + b"\n" + ENVELOPE + message("y"))

    assert subjects(list(open_source("-", box))) == ["x", "y"]


def test_what_is_empty_is_still_a_message_unless_it_is_said_to_be_a_mailbox(tmp_path: Path):
    (tmp_path / "a.eml").touch()
    (tmp_path / "box").touch()
    (tmp_path / "Mail" / "new").mkdir(parents=True)

    def read(place: str) -> list[bytes]:
        return [one.raw for one in open_source(place, io.BytesIO())]

    assert read(str(tmp_path / "a.eml")) == read(str(tmp_path / "box")) == read("-") == [b""]
    assert read(f"mbox:{tmp_path / 'box'}") == read(f"maildir:{tmp_path / 'Mail'}") == []


def test_a_pipe_is_read_once_and_not_opened_before(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(
        target=lambda: pipe.write_bytes(ENVELOPE + message("x") + b"\n" + ENVELOPE + message("y"))
    )
    messages = open_source(f"mbox:{pipe}", NOTHING)
    writer.start()

    assert subjects(list(messages)) == ["x", "y"]
    writer.join()


def test_reading_a_maildir_changes_nothing_in_it(maildir: Path):
    before = state(maildir)

    assert len(list(open_source(f"maildir:{maildir}", NOTHING))) == 3

    assert state(maildir) == before


def test_a_message_that_is_flagged_or_moved_meanwhile_is_found(maildir: Path):
    messages = open_source(f"maildir:{maildir}", NOTHING)
    first = next(messages)
    (maildir / "new" / "100.M3.host").rename(maildir / "cur" / "100.M3.host:2,S")
    (maildir / "cur" / "20.M2.host:2,S").rename(maildir / "cur" / "20.M2.host:2,FS")

    assert subjects([first, *messages]) == ["first", "second", "third"]


def test_a_message_that_goes_meanwhile_is_accounted_for(maildir: Path):
    messages = open_source(f"maildir:{maildir}", NOTHING)
    next(messages)
    (maildir / "cur" / "20.M2.host:2,S").unlink()

    gone, third = messages

    assert gone.index == 1
    assert gone.error == "cannot read the file: No such file or directory"
    assert subjects([third]) == ["third"]


def test_a_tilde_behind_a_scheme_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "box").write_bytes(ENVELOPE + message("x"))

    assert subjects(list(open_source("mbox:~/box", NOTHING))) == ["x"]


def test_a_path_with_a_colon_is_a_path_if_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("note:1.eml").write_bytes(message("note"))

    assert subjects(list(open_source("note:1.eml", NOTHING))) == ["note"]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("missing.eml", "there is no file or folder 'missing.eml'"),
        ("mbox:missing", "there is no file or folder 'missing'"),
        ("maildir:", "names no path"),
        ("mbox:empty", "is a folder"),
        ("mbox:note", "is no mbox"),
        ("maildir:empty", "is no Maildir"),
        ("maildir:note", "is no Maildir"),
        ("empty", "neither a Maildir"),
        ("imaps://ann@example.org", "cannot read imaps: sources"),
        ("a\x00b", "there is no file"),
    ],
)
def test_a_wrong_place_is_refused_before_any_message_is_read(
    place: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("note").write_bytes(message("note"))

    with pytest.raises(SourceError, match=says):
        open_source(["note", place], NOTHING)


def test_no_place_and_standard_input_twice_are_refused():
    with pytest.raises(SourceError, match="no source"):
        open_source([], NOTHING)
    with pytest.raises(SourceError, match="only once"):
        open_source(["-", "-"], NOTHING)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path):
    (tmp_path / "a.eml").write_bytes(message("a"))
    (tmp_path / "a.eml").chmod(0)

    with pytest.raises(SourceError, match="Permission denied"):
        open_source(str(tmp_path / "a.eml"), NOTHING)
