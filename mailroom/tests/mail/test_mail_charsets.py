from __future__ import annotations

import pytest
from mailroom.mail.charsets import CODECS, decode_text


@pytest.mark.parametrize("codec", sorted(set(CODECS.values())))
def test_every_codec_in_the_table_exists_and_never_raises(codec: str):
    charset = next(name for name, value in CODECS.items() if value == codec)

    assert isinstance(decode_text(bytes(range(256)) * 3, charset), str)
    assert isinstance(decode_text(b"plain \x1b$B !", charset), str)


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("cp932", "明日の会議は十時からです。よろしくお願いします"),
        ("euc_jp", "明日の会議は十時からです。よろしくお願いします"),
        ("cp949", "안녕하세요. 회의는 내일 오전 10시에 있습니다"),
        ("koi8_r", "Здравствуйте! Встреча завтра в десять часов"),
        ("cp1251", "Здравствуйте! Встреча завтра в десять часов"),
        ("gb2312", "你好,会议明天上午十点开始,请准时参加"),
        ("cp950", "您好,會議明天上午十點開始,請準時參加"),
        ("cp1252", "Größe über Käse – naïve façade, c’est ça"),
        ("utf-8", "Grüße und 你好"),
    ],
)
def test_text_without_a_charset_is_guessed_from_its_letters(codec: str, text: str):
    assert decode_text(text.encode(codec)) == text
    assert decode_text(text.encode(codec), "x-unknown") == text


def test_a_cut_character_does_not_turn_utf8_into_something_else():
    assert decode_text("Grüße aus Köln ä".encode()[:-1], "utf-8") == "Grüße aus Köln \ufffd"
