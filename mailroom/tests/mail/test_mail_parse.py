"""Whole messages, written by hand, one trap each."""

from __future__ import annotations

import base64
import binascii

import pytest
from mailroom.mail.message import Message, UnreadableMessageError
from mailroom.mail.parse import parse, read_message


def body(raw: str | bytes) -> str:
    return read_message(raw if isinstance(raw, bytes) else raw.encode()).body


def test_a_plain_message_gives_all_its_fields():
    raw = (
        b"From: Ann Lee <ann@example.org>\r\nTo: bo@example.org\r\nSubject: Lunch\r\n"
        b"Date: Mon, 2 Mar 2026 09:00:00 +0100\r\nMessage-ID: <1@example.org>\r\n"
        b"\r\nShall we?\r\n\r\nAnn\r\n"
    )

    assert parse(raw) == Message(
        subject="Lunch",
        body="Shall we?\n\nAnn",
        sender="Ann Lee <ann@example.org>",
        to="bo@example.org",
        date="Mon, 2 Mar 2026 09:00:00 +0100",
        message_id="<1@example.org>",
    )


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_line_ends_of_any_system_are_read_alike(newline: bytes):
    raw = newline.join([b"Subject: Hi", b"To: bo@example.org", b"", b"one", b"", b"two"])

    message = parse(raw)

    assert (message.subject, message.to, message.body) == ("Hi", "bo@example.org", "one\n\ntwo")


@pytest.mark.parametrize(
    "raw",
    [b"", b"\r\n\r\n", b"   \n\t\n", b"From: ann@example.org\nDate: today\n\n \n\x00\n"],
    ids=["no bytes", "blank lines", "spaces", "headers and nothing to read"],
)
def test_a_message_with_nothing_to_read_is_refused(raw: bytes):
    with pytest.raises(UnreadableMessageError):
        parse(raw)


def test_binary_data_is_not_taken_for_a_message():
    with pytest.raises(UnreadableMessageError, match="binary"):
        parse(bytes(range(256)) * 40)


def test_a_message_without_body_is_read_by_its_subject():
    assert parse(b"Subject: Call me\n") == Message(subject="Call me", body="")


def test_text_without_any_header_is_all_body():
    assert body("hello there\nnothing else\n") == "hello there\nnothing else"


def test_a_missing_blank_line_does_not_swallow_the_body():
    message = parse(b"Subject: Hi\nthis line is no header: it has spaces\nand so on\n")

    assert (message.subject, message.body) == (
        "Hi",
        "this line is no header: it has spaces\nand so on",
    )


def test_envelope_lines_and_a_byte_order_mark_above_the_headers_are_passed_over():
    assert (
        parse(b"\xef\xbb\xbf\nFrom ann Mon Mar 2 09:00:00 2026\nSubject: Hi\n\nx").subject == "Hi"
    )
    assert parse(b">From ann\nFrom bo\nSubject: Hi\n\nx").subject == "Hi"
    assert parse("\ufeffSubject: Hi\n\nx".encode("utf-16-le")).subject == "Hi"


def test_the_sender_field_stands_in_for_a_missing_from():
    assert parse(b"Sender: ann@example.org\nSubject: Hi\n\nx").sender == "ann@example.org"
    assert parse(b"Subject: Hi\n\nx").sender == ""


# Headers


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (b"=?utf-8?q?Gr=C3=BC=C3=9Fe_aus_K=C3=B6ln?=", "Grüße aus Köln"),
        (b"=?UTF-8?B?44GT44KT44Gr44Gh44Gv?=", "こんにちは"),
        (b"=?utf-8?q?one?=\n =?utf-8?q?_two?= three", "one two three"),
        (b"=?utf-8?b?w6Q=?=\n =?iso-8859-1?q?=F6?=", "äö"),
        (b"=?no-such-charset?b?VEVTVA=?=", "TEST"),
        (b"=?utf-8*en?q?caf=C3=A9?=", "café"),
        (b"=?utf-8?q?it is not encoded, really?=", "it is not encoded, really"),
        (b"=?utf-8?b?w6Q=", "ä"),
        (b"=?utf-8?x?abc?=", "=?utf-8?x?abc?="),
        ("Säying hello".encode(), "Säying hello"),
        ("Grüße".encode("latin-1"), "Grüße"),
        (b"a\n\tb\n \n\tc", "a b c"),
        (b"tab\tand\x00nul\x1b[31m", "tab andnul[31m"),
        (b"=?utf-8?q?=00=0D=0AX-Evil:_1?=", "X-Evil: 1"),
    ],
)
def test_a_header_is_decoded_to_one_clean_line(field: bytes, text: str):
    assert parse(b"Subject: " + field + b"\n\nbody").subject == text


def test_a_character_cut_between_two_encoded_words_is_joined():
    first, second = base64.b64encode(b"\xe2\x9c\x93\xe2"), base64.b64encode(b"\x9c\x97")
    subject = b"=?utf-8?b?" + first + b"?=\n =?utf-8?b?" + second + b"?="

    assert parse(b"Subject: " + subject + b"\n\nx").subject == "\u2713\u2717"


def test_the_first_of_several_fields_with_one_name_counts():
    types = b"Content-Type: text/html\ncontent-type: text/plain\n"
    raw = b"Subject: first\nSubject: second\n" + types + b"\n<p>x"

    assert parse(raw) == Message(subject="first", body="x")


def test_a_header_of_200_kilobytes_is_cut_and_the_body_still_read():
    message = parse(b"Subject: x\nTo: " + b"ann@example.org,\n " * 12_000 + b"\n\nbody")

    assert message.body == "body"
    assert 900 < len(message.to) <= 1_000


# Charsets and transfer encodings


@pytest.mark.parametrize(
    ("charset", "codec", "text"),
    [
        ("ks_c_5601-1987", "cp949", "안녕하세요"),
        ("gb2312", "gbk", "会议改期"),
        ("X-GBK", "gbk", "会议改期"),
        ("gbk", "gbk", "联通"),  # its bytes are valid UTF-8
        ("shift_jis", "cp932", "会議は明日です"),
        ("iso-2022-jp", "iso2022_jp", "すみません。"),
        ("us-ascii", "iso2022_jp", "すみません。"),
        ("koi8-r", "koi8_r", "Привет"),
        ("iso-8859-1", "cp1252", "“smart” quotes – and €"),
        ("iso-8859-1", "utf-8", "Grüße über die Brücke"),
        ("gbk", "utf-8", "Grüße über die Brücke"),
        ("iso-2022-jp", "utf-8", "送信できませんでした"),
        ("utf-8", "cp1252", "Grüße über die Brücke"),
        ("", "utf-8", "Grüße"),
        ("none", "cp1252", "Grüße"),
        ('"', "cp1252", "Grüße"),
        ("rot13", "ascii", "plain"),
        ("punycode", "ascii", "plain"),
        ("utf-7", "utf-7", "Grüße"),
        ("utf-16", "utf-16", "Grüße"),
    ],
)
def test_text_is_decoded_whatever_charset_is_claimed(charset: str, codec: str, text: str):
    head = f"Subject: x\nContent-Type: text/plain; charset={charset}\n"
    encoded = base64.encodebytes(text.encode(codec))

    assert body(head.encode() + b"Content-Transfer-Encoding: base64\n\n" + encoded) == text


@pytest.mark.parametrize(
    ("encoding", "content", "text"),
    [
        ("quoted-printable", b"a =3D b =\nand caf=E9\n", "a = b and café"),
        ("Quoted-Printable", b"100=% sure = ok\n", "100=% sure = ok"),
        ("base64", b"aGVs!!bG8\n=\n", "hello"),
        ("base64", b"aGVsbG8gd29ybGQ", "hello world"),
        ("x-uuencode", b"begin 644 a.txt\n#:&5L\n`\nend\n", "hel"),
        ("foobar", b"as it is\n", "as it is"),
    ],
)
def test_transfer_encodings_are_undone_even_if_damaged(encoding: str, content: bytes, text: str):
    head = f"Subject: x\nContent-Transfer-Encoding: {encoding}\n\n"

    assert body(head.encode() + content) == text


def test_binary_data_in_a_text_part_is_named_not_shown():
    assert body(b"Subject: x\n\n" + bytes(range(256)) * 10) == "[attachment: binary data]"


# Multiparts


def multipart(kind: str, *parts: str, boundary: str = "b", end: bool = True) -> str:
    cut = "".join(f"--{boundary}\n{part}\n" for part in parts)
    last = f"--{boundary}--\nepilogue" if end else ""
    return (
        f'Subject: x\nContent-Type: multipart/{kind}; boundary="{boundary}"\n\nprose\n{cut}{last}'
    )


PLAIN = "Content-Type: text/plain\n\nplain words"
HTML = "Content-Type: text/html\n\n<p>marked-up words</p>"
PDF = (
    'Content-Type: application/pdf; name="q.pdf"\nContent-Disposition: attachment\n'
    "Content-Transfer-Encoding: base64\n\nJVBERi0xLjQK"
)


def test_plain_text_is_preferred_to_html_wherever_it_stands():
    assert body(multipart("alternative", PLAIN, HTML)) == "plain words"
    assert body(multipart("alternative", HTML, PLAIN)) == "plain words"


def test_html_is_read_where_plain_text_is_missing_or_blank():
    blank = "Content-Type: text/plain\n\n \n"

    assert body(multipart("alternative", HTML)) == "marked-up words"
    assert body(multipart("alternative", blank, HTML)) == "marked-up words"


def test_attachments_are_named_by_file_and_type_and_not_opened():
    text = body(multipart("mixed", PLAIN, PDF))

    assert text == "plain words\n\n[attachment: q.pdf (application/pdf)]"


def test_an_attached_text_file_is_named_but_a_nameless_one_is_the_text():
    named = "Content-Disposition: attachment; filename=notes.txt\n\nsecret"
    nameless = "Content-Disposition: attachment\n\nreally the message"

    assert body(multipart("mixed", PLAIN, named)).endswith("[attachment: notes.txt (text/plain)]")
    assert body(multipart("mixed", nameless)) == "really the message"


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("attachment; filename*=utf-8''na%C3%AFve.pdf", "naïve.pdf"),
        ("attachment; filename*0*=utf-8''na%C3; filename*1*=%AFve.pdf", "naïve.pdf"),
        ("attachment; filename==?utf-8?q?na=C3=AFve.pdf?=", "naïve.pdf"),
        ('attachment; filename="../../etc/naïve.pdf"', "naïve.pdf"),
        ('attachment; filename="C:\\\\temp\\\\naive.pdf"', "naive.pdf"),
        ("attachment; filename*=nonsense'%FF%FE.pdf", None),
        ("attachment; filename*x*=1; filename*1*0=2", None),
    ],
)
def test_file_names_are_decoded_and_lose_their_folders(disposition: str, name: str | None):
    part = f"Content-Type: application/pdf\nContent-Disposition: {disposition}\n\nx"

    text = body(multipart("mixed", part))

    assert text.startswith("[attachment: ")
    assert name is None or text == f"[attachment: {name} (application/pdf)]"


def test_pictures_of_a_page_and_signatures_are_left_out():
    png = "Content-Type: image/png\nContent-ID: <1>\n\nxxxx"
    signature = "Content-Type: application/pgp-signature\n\n-----BEGIN PGP SIGNATURE-----"

    assert body(multipart("related", HTML, png)) == "marked-up words"
    assert body(multipart("signed", PLAIN, signature)) == "plain words"


@pytest.mark.parametrize(
    "raw",
    [
        multipart("mixed", PLAIN, end=False),
        multipart("mixed", PLAIN, boundary="--- odd --"),
        multipart("mixed", PLAIN).replace('boundary="b"', "boundary=b;"),
        multipart("mixed", PLAIN).replace('boundary="b"', "charset=utf-8"),
        multipart("mixed", PLAIN).replace('boundary="b"', 'boundary="another"'),
        multipart("mixed", PLAIN, boundary="=_a?(b)+").replace('"', ""),
        multipart("mixed", PLAIN).replace("--b\n", "--b   \n"),
    ],
    ids=["no end", "dashes", "unquoted", "not given", "wrong", "illegal", "trailing spaces"],
)
def test_broken_boundaries_still_give_the_text(raw: str):
    assert body(raw) == "plain words"


def test_a_multipart_that_is_none_is_read_as_text():
    raw = "Subject: x\nContent-Type: multipart/mixed; boundary=b\n\njust words\n"

    assert body(raw) == "just words"


def test_a_part_without_headers_is_text():
    assert body(multipart("mixed", "\njust words")) == "just words"


def test_nested_messages_show_who_wrote_them_and_what():
    inner = "From: Cy <cy@example.org>\nSubject: =?utf-8?q?Caf=C3=A9?=\n\nsee you there"
    text = body(multipart("mixed", PLAIN, f"Content-Type: message/rfc822\n\n{inner}"))

    assert text == (
        "plain words\n\n--- Attached message ---\nFrom: Cy <cy@example.org>\nSubject: Café\n\n"
        "see you there"
    )


def test_a_digest_holds_messages_even_where_no_part_says_so():
    text = body(multipart("digest", "\nFrom: cy@example.org\nSubject: one\n\nfirst"))

    assert "From: cy@example.org\nSubject: one\n\nfirst" in text


def test_nesting_past_the_bound_ends_with_a_note():
    raw = "Content-Type: message/rfc822\n\n" * 60 + "Subject: deep\n\nbottom"

    assert "[more, not shown]" in body(raw)
    assert "bottom" not in body(raw)


def test_a_delivery_report_shows_what_failed():
    report = (
        "Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.org\n\n"
        "Final-Recipient: rfc822; bo@example.org\nAction: failed\nStatus: 5.1.1"
    )
    returned = (
        "Content-Type: text/rfc822-headers\n\nReceived: from a\nFrom: ann@example.org\nSubject: Hi"
    )

    text = body(multipart("report", "\nIt did not arrive.", report, returned))

    assert text.startswith("It did not arrive.\n\nReporting-MTA")
    assert "Action: failed\nStatus: 5.1.1" in text
    assert text.endswith("--- Headers of the message ---\nFrom: ann@example.org\nSubject: Hi")


def test_a_calendar_invitation_is_told_in_words():
    calendar = (
        "Content-Type: text/calendar; method=REQUEST; charset=utf-8\n\n"
        "BEGIN:VCALENDAR\nBEGIN:VTIMEZONE\nDTSTART:19700101T000000\nEND:VTIMEZONE\nBEGIN:VEVENT\n"
        'DTSTART;TZID="Europe/Berlin":20260302T090000\nDTEND:20260302T100000Z\n'
        "SUMMARY:Plan\\, then\n  act\nLOCATION:Room 5\n"
        'ORGANIZER;CN="Ann Lee":mailto:ann@example.org\nBEGIN:VALARM\nEND:VALARM\n'
        "END:VEVENT\nEND:VCALENDAR"
    )

    assert body(multipart("alternative", PLAIN, HTML, calendar)) == (
        "plain words\n\n[calendar: request]\nWhat: Plan, then act\n"
        "Begins: 2026-03-02 09:00 Europe/Berlin\nEnds: 2026-03-02 10:00 UTC\nWhere: Room 5\n"
        "Organizer: Ann Lee <ann@example.org>"
    )


def test_a_calendar_without_an_event_is_only_named():
    assert body("Subject: x\nContent-Type: text/calendar\n\nnot a calendar") == "[calendar: event]"


def test_an_external_body_is_named():
    raw = (
        'Subject: x\nContent-Type: message/external-body; name="a.txt"\n\nContent-Type: text/plain'
    )

    assert body(raw) == "[attachment: a.txt (message/external-body)]"


def test_a_nested_message_in_base64_is_read_too():
    inner = base64.encodebytes(b"Subject: inside\n\nwords").decode()
    raw = f"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n{inner}"

    assert body(raw) == "--- Attached message ---\nSubject: inside\n\nwords"


def test_html_that_claims_to_be_plain_is_converted():
    assert body("Subject: x\n\n<!DOCTYPE html><html><body><p>Hello</p>") == "Hello"


def test_rich_text_loses_its_commands():
    raw = (
        "Subject: x\nContent-Type: text/enriched\n\n"
        "<bold>Now</bold> <color><param>red</param>1 << 2</color>"
    )

    assert body(raw) == "Now 1 < 2"


def test_a_file_pasted_as_uuencode_becomes_its_name():
    lines = b"".join(binascii.b2a_uu(bytes(45)) for _ in range(30)).decode()
    raw = f"Subject: x\n\nsee below\nbegin 644 photo of us.jpg\n{lines}`\nend\nbye"

    assert body(raw) == "see below\n[attachment: photo of us.jpg]\nbye"


def test_no_more_text_than_the_bound_is_given():
    assert len(body(b"Subject: x\n\n" + b"word " * 200_000)) <= 200_000


def test_an_unexpected_failure_of_a_library_is_an_unreadable_message(
    monkeypatch: pytest.MonkeyPatch,
):
    def fail(*_: object) -> None:
        raise RuntimeError("a parser gave up")

    monkeypatch.setattr("mailroom.mail.parse.read_entity", fail)

    with pytest.raises(UnreadableMessageError, match="RuntimeError"):
        parse(b"Subject: x\n\ny")
