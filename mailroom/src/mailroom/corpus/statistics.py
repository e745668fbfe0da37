"""The statistics page of a corpus: one HTML file that asks nothing of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from mailroom.corpus.example import Example
from mailroom.taxonomy import Taxonomy

TRAIN_COLOUR, TEST_COLOUR = "#2f6f8f", "#e0a030"
WORD_BINS = (0, 10, 20, 40, 80, 160, 320)
"""Lower edges; the last bin is open."""
MAX_SHOWN_BAD = 50
MAX_SHOWN_CHARS = 400

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
       max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { padding: .25rem .8rem; text-align: left;
       border-bottom: 1px solid #ddd; vertical-align: top; } td.n, th.n { text-align: right; }
pre { background: #f5f5f2; padding: .6rem .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.warn { background: #fff4d6; padding: .4rem .8rem; } svg text { font: 12px system-ui, sans-serif; }
"""


def render_statistics(
    source: str,
    taxonomy: Taxonomy,
    train: Sequence[Example],
    test: Sequence[Example],
    bad: Sequence[Mapping[str, Any]],
    counts: Mapping[str, Any],
    warnings: Sequence[str],
) -> str:
    """The whole page. `counts` is the build's summary; mail text is escaped, never markup."""
    facts = (
        ("training examples", counts["train"]),
        ("test examples", counts["test"]),
        ("of these apart: neither masked subject nor masked body in training", counts["apart"]),
        ("near-duplicates: rows that repeat an earlier one but for digits, codes, URLs",
         counts["near_duplicates"]),
        ("left out: a near-duplicate stands on the other side", counts["left_out"]),
        ("unused: both parts were full", counts["unused"]),
        ("rejected rows", counts["rejected"]),
        ("groups of near-duplicates whose labels disagree", counts["disagreements"]),
    )  # fmt: skip
    sections = [
        "".join(f'<p class="warn">{escape(warning)}</p>' for warning in warnings),
        _table(("what", "rows"), facts),
        "<h2>Categories</h2>",
        _category_table(taxonomy, counts),
        "<h2>Words in a message</h2>",
        _histogram(train, test),
        "<h2>One example of each category</h2>",
        *(_shown(train, category.key, category.name) for category in taxonomy.categories),
        *_rejected(bad),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Corpus: {escape(source)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>Corpus from {escape(source)}</h1>\n"
        f"<p>Taxonomy {escape(taxonomy.name)}, seed {counts['seed']}.</p>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def cells(tag: str, values: Sequence[object]) -> str:
        return "".join(
            f"<{tag}{'' if isinstance(value, str) and value not in head[1:] else ' class=n'}>"
            f"{escape(str(value))}</{tag}>"
            for value in values
        )

    lines = [f"<tr>{cells('th', head)}</tr>", *(f"<tr>{cells('td', row)}</tr>" for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def _category_table(taxonomy: Taxonomy, counts: Mapping[str, Any]) -> str:
    rows = [
        (
            category.name,
            counts["categories_train"][category.key],
            counts["categories_test"][category.key],
        )
        for category in taxonomy.categories
    ]
    rows.append(("all", counts["train"], counts["test"]))
    return _table(("category", "training", "test"), rows)


def _histogram(train: Sequence[Example], test: Sequence[Example]) -> str:
    """Share of each part by number of words, as an SVG of fixed size."""
    width, height, left, bottom = 640, 240, 40, 40
    shares = [_word_shares(train), _word_shares(test)]
    top = max(max(part) for part in shares) or 1.0
    slot = (width - left) / len(WORD_BINS)
    bars = []
    for part, (share_of_bin, colour) in enumerate(
        zip(shares, (TRAIN_COLOUR, TEST_COLOUR), strict=True)
    ):
        for n, share in enumerate(share_of_bin):
            tall = (height - bottom - 20) * share / top
            x = left + n * slot + slot * (0.12 + 0.38 * part)
            bars.append(
                f'<rect x="{x:.1f}" y="{height - bottom - tall:.1f}" width="{slot * 0.36:.1f}" '
                f'height="{tall:.1f}" fill="{colour}"><title>{share:.1%}</title></rect>'
            )
    edges = [*(f"{a}-{b - 1}" for a, b in pairwise(WORD_BINS))]
    edges.append(f"{WORD_BINS[-1]}+")
    labels = "".join(
        f'<text x="{left + (n + 0.5) * slot:.1f}" y="{height - 22}" text-anchor="middle">{edge}'
        "</text>"
        for n, edge in enumerate(edges)
    )
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Words in a message, share of each part">{"".join(bars)}{labels}'
        f'<line x1="{left}" y1="{height - bottom}" x2="{width}" y2="{height - bottom}" '
        'stroke="#888"/>'
        f'<text x="2" y="14">{top:.0%}</text>'
        f'<rect x="{left}" y="{height - 12}" width="10" height="10" fill="{TRAIN_COLOUR}"/>'
        f'<text x="{left + 14}" y="{height - 3}">training</text>'
        f'<rect x="{left + 90}" y="{height - 12}" width="10" height="10" fill="{TEST_COLOUR}"/>'
        f'<text x="{left + 104}" y="{height - 3}">test</text></svg>'
    )


def _word_shares(examples: Sequence[Example]) -> list[float]:
    counts = [0] * len(WORD_BINS)
    for example in examples:
        words = len(f"{example.message.subject} {example.message.body}".split())
        counts[max(n for n, edge in enumerate(WORD_BINS) if words >= edge)] += 1
    return [count / max(1, len(examples)) for count in counts]


def _shown(train: Sequence[Example], key: str, name: str) -> str:
    example = next((example for example in train if example.category == key), None)
    if example is None:
        return f"<h3>{escape(name)}</h3><p>None in training.</p>"
    text = f"Subject: {example.message.subject}\n\n{example.message.body}"
    if len(text) > MAX_SHOWN_CHARS:
        text = f"{text[:MAX_SHOWN_CHARS]} ..."
    return (
        f"<h3>{escape(name)}</h3><pre>{escape(text)}</pre><pre>{escape(example.completion)}</pre>"
    )


def _rejected(bad: Sequence[Mapping[str, Any]]) -> list[str]:
    if not bad:
        return []
    rows = [(str(row["source"]), row["line"], str(row["reason"])) for row in bad[:MAX_SHOWN_BAD]]
    more = f"<p>and {len(bad) - MAX_SHOWN_BAD} more</p>" if len(bad) > MAX_SHOWN_BAD else ""
    return ["<h2>Rejected rows</h2>", _table(("source", "line", "reason"), rows), more]
