from __future__ import annotations

import base64

import pytest
from mailroom.mail.plain import clean, one_line, without_markup


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\r\nb\rc\x0bd\x85e\u2028f", "a\nb\nc\nd\ne\nf"),
        ("a\x00\x07\x1b[1mb\x7f", "a[1mb"),
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
        ("soft\u00adhyphen zero\u200bwidth \ufeffmark", "softhyphen zerowidth mark"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("a\u00a0b\u3000c", "a b c"),
        ("pad\u200c \u200c \u034f\u200cend", "pad  end"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("\n\n\na  \n\n\n\n\nb\t\n", "a\n\nb"),
        ("\ttab stays\tinside", "\ttab stays\tinside"),
    ],
)
def test_clean_text_shows_everything_that_is_in_it(text: str, cleaned: str):
    assert clean(text) == cleaned
    assert clean(cleaned) == cleaned
    cleaned.encode()


def test_one_line_is_one_line_of_bounded_length():
    assert one_line("  a\n b\t c  ") == "a b c"
    assert one_line("x" * 50, 10) == "x" * 10


BLOB = base64.encodebytes(bytes(range(256)) * 2).decode().rstrip()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"before\n{BLOB}\nafter", "before\n[encoded data]\nafter"),
        ("> " + BLOB.replace("\n", "\n> "), "[encoded data]"),
        ("-----BEGIN PGP SIGNATURE-----\nVersion: 2\n\niQEz\n=abcd\n-----END PGP SIGNATURE-----\nx",
         "[PGP signature]\nx"),
        ("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA1\n\nwords", "[PGP signed]\n\nwords"),
        ("-----BEGIN PGP MESSAGE-----\n" + BLOB, "[PGP encoded data]"),
        ("-----BEGIN SOMETHING ELSE-----\nwords", "-----BEGIN SOMETHING ELSE-----\nwords"),
        ("begin 644 a.bin\nM" + "A" * 60 + "\n`\nend", "[attachment: a.bin]"),
        ("begin 644 times over", "begin 644 times over"),
        ("begin here\nand go on", "begin here\nand go on"),
        ("A" * 70 + "\n" + "B" * 70, "A" * 70 + "\n" + "B" * 70),
        ('<a href="https://example.org">Click</a> <A HREF=x>here</A >', "Click here"),
        ("1 <a 2 and <about> and <br>", "1 <a 2 and <about> and <br>"),
    ],
)  # fmt: skip
def test_encoded_blocks_and_link_tags_give_way_to_words(text: str, shown: str):
    assert without_markup(text) == shown
