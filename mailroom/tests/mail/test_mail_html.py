from __future__ import annotations

import pytest
from mailroom.mail.html import html_to_text
from mailroom.mail.limits import Budget
from mailroom.mail.markup import bound_markup
from selectolax.lexbor import LexborHTMLParser


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>one</p><p>two</p>", "one\n\ntwo"),
        ("one<br>two<br/>three", "one\ntwo\nthree"),
        ("<div>one</div><div>two</div>", "one\ntwo"),
        ("a  \n <b>b</b>\n c", "a b c"),
        ("<b>a</b><i>b</i> <u>c</u>", "ab c"),
        ("<ul><li>x<li>y</ul>", "- x\n- y"),
        ("<ul><li><p>x</p></li><li></li><li><div>y</div></ul>z", "- x\n\n- y\n\nz"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</table>", "a  b\nc"),
        ("<pre>  keep\n   this</pre>", "  keep\n   this"),
        ("<a href='https://example.org/x?y=1'>link</a>", "link"),
        ("<img alt='Our logo' src=x.png><img alt=''><img>", "[Our logo]"),
        ("&lt;b&gt; &amp;amp; &euro;&#8364;&nbsp;&#x1F600;", "<b> &amp; €€ 😀"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<![if !mso]>shown<![endif]><!doctype html>", "shown"),
        ("<p>unclosed <b>bold <p>next", "unclosed bold\n\nnext"),
        ('<p title="a > b">x</p>', "x"),
        ("<p title='it\"s'>x</p>", "x"),
        ('<p title="a>x</p><p>y', "x\n\ny"),
        ("just text", "just text"),
        ("", ""),
        ("<", "<"),
        ("a<b", "a"),
        ("\x00<p>a\ud800b</p>", "a\ufffdb"),
    ],
)
def test_html_reads_as_its_reader_sees_it(source: str, text: str):
    assert html_to_text(source, Budget()) == text


@pytest.mark.parametrize(
    "source",
    [
        "<script>SECRET</script>shown",
        "<SCRIPT type='x'>if (a < b) SECRET</SCRIPT >shown",
        "<style>p{SECRET}</style>shown",
        "<head><title>SECRET</title></head><body>shown",
        "<!-- SECRET -->shown",
        "<!-- <p>SECRET</p> <!-- -->shown",
        "shown<!-- SECRET",
        "shown<script>SECRET",
        "shown<select><option>SECRET</select>",
        "shown<textarea>SECRET</textarea>",
        "shown<noframes><p>SECRET</noframes>",
        "<template>SECRET</template>shown",
        "<p onclick='SECRET' data-x=SECRET>shown",
        "<?php SECRET ?>shown",
    ],
)
def test_scripts_styles_comments_and_attributes_are_no_text(source: str):
    assert html_to_text(source, Budget()) == "shown"


def test_markup_keeps_what_can_hide_text_for_the_tree():
    bounded = bound_markup(
        "<DIV style=\"display:none;content:'<'\" onclick=x hidden><font COLOR=white size='1'>",
        Budget(),
    )

    tree = LexborHTMLParser(bounded)
    div, font = tree.css_first("div"), tree.css_first("x-font")
    assert div is not None and font is not None
    assert div.attributes == {"style": "display:none;content:'<'", "hidden": ""}
    assert font.attributes == {"color": "white", "size": "1"}


def test_the_tree_has_no_more_tags_than_the_budget_gives():
    budget = Budget(html_tags=3)

    assert html_to_text("<p>a<p>b<p>c<p>d<p>e", budget) == "a\n\nb\n\nc"
    assert budget.html_tags == 0
    assert html_to_text("left <p>over", budget) == "left"


@pytest.mark.parametrize(
    "source",
    [
        "<!-- <a b=\" --><div c='\" > a1 a2 a3 <b '>x",
        "<x '=\"'>\" a1 a2 a3><y",
        '<a "> <div a1 a2 a3 ">z',
        "<style><!--</style><p a='</style>' b>--></style><p>q",
        "<svg><style><p>a</style></svg><math><![CDATA[<p>]]>",
        "<plaintext><p>b",
    ],
)
def test_the_tree_holds_only_tags_that_were_written_out(source: str):
    """Quotes, comments and raw text cannot make the parser see more than was counted."""
    bounded = bound_markup(source, Budget())

    root = LexborHTMLParser(bounded).root
    assert root is not None
    num_elements = sum(
        node.tag not in ("-text", "html", "head", "body") for node in root.traverse()
    )
    assert num_elements <= bounded.count("<")
    assert all(len(node.attributes) == 0 for node in root.traverse() if node.tag != "-text")
