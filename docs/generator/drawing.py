"""The figures of the pages, as SVG files without scripts, fonts or outside references."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

CARD, INK, SOFT, LINE, ACCENT, WASH, FROZEN = (
    "#ffffff",
    "#1f2328",
    "#6a6f76",
    "#e4e1d9",
    "#b4451f",
    "#fbeee6",
    "#d9dde3",
)
WIDTH = 720
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


def svg(height: float, title: str, parts: Iterable[str]) -> str:
    """A drawing on a white card; the title is what a screen reader says."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        f'width="{WIDTH}" height="{height:g}" font-family="{SANS}" font-size="12" role="img">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{WIDTH}" height="{height:g}" rx="8" fill="{CARD}" stroke="{LINE}"/>\n'
        f"{body}\n</svg>\n"
    )


def text(
    x: float, y: float, words: str, *, anchor: str = "start", fill: str = INK, **more: object
) -> str:
    extra = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{extra}>'
        f"{escape(words)}</text>"
    )


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str = "none") -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{fill}" stroke="{stroke}"/>'
    )


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = LINE, width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" '
        f'stroke-width="{width:g}"/>'
    )


def token_words(token: str) -> str:
    """A token as one can see it: its spaces and line ends have a sign."""
    return token.replace("\n", "\u21b5").replace(" ", "\u00b7")


def mask(example: Mapping[str, Any]) -> str:
    """Every position of one example as a square; those that the loss counts are filled."""
    columns, size = 44, 15
    rows = math.ceil(example["num_positions"] / columns)
    parts = [
        box(
            24 + (place % columns) * size,
            40 + (place // columns) * size,
            size - 3,
            size - 3,
            ACCENT if position["weight"] else FROZEN,
        )
        for place, position in enumerate(example["positions"])
    ]
    parts.append(
        text(
            24,
            26,
            f"{example['num_positions']} positions: weight 0 for what predicts the prompt, "
            f"weight 1 for what predicts the {example['num_completion']} tokens of the answer",
            fill=SOFT,
        )
    )
    return svg(56 + rows * size, "The loss mask of one example", parts)


def shift(example: Mapping[str, Any], num_before: int = 4, num_after: int = 8) -> str:
    """The positions around the seam: what each one sees last, and what it is asked for."""
    positions = example["positions"]
    seam = next(i for i, position in enumerate(positions) if position["weight"])
    last = len(positions)
    shown = [*range(seam - num_before, seam + num_after), last - 2, last - 1]
    words = [[token_words(positions[n][key]) for key in ("input", "target")] for n in shown]
    # A column is as wide as its longer token.
    room = [max(2, *map(len, pair)) + 2 for pair in words]
    left, unit = 76.0, (WIDTH - 76 - 16) / sum(room)
    edges = [left + unit * sum(room[:column]) for column in range(len(shown) + 1)]
    parts = [
        text(left - 12, y, name, anchor="end", fill=SOFT)
        for y, name in ((58, "position"), (90, "input"), (124, "target"), (154, "weight"))
    ]
    for column, place in enumerate(shown):
        x, width = edges[column], edges[column + 1] - edges[column]
        middle, weight = x + width / 2, positions[place]["weight"]
        fill = ACCENT if weight else INK
        parts.append(text(middle, 58, str(place), anchor="middle", fill=SOFT, font_size=10))
        parts.append(box(x + 1.5, 72, width - 3, 26, CARD, LINE))
        parts.append(box(x + 1.5, 106, width - 3, 26, WASH if weight else CARD, LINE))
        for y, token, ink in ((89, words[column][0], INK), (123, words[column][1], fill)):
            parts.append(
                text(middle, y, token, anchor="middle", fill=ink, font_size=8.5, font_family=MONO)
            )
        parts.append(text(middle, 154, f"{weight:g}", anchor="middle", fill=fill))
    for column, stroke, name in (
        (num_before, ACCENT, "here the answer begins"),
        (num_before + num_after, SOFT, "its end"),
    ):
        parts.append(line(edges[column], 46, edges[column], 162, stroke, 1.5))
        parts.append(text(edges[column] + 6, 36, name, fill=stroke))
    return svg(176, "Inputs, targets and weights around the beginning of the answer", parts)


def product(shape: Mapping[str, Any]) -> str:
    """W, B and A of one layer, drawn to scale."""
    layer, rank = shape["layer"], shape["rank"]
    outputs, inputs = layer["num_outputs"], layer["num_inputs"]
    scale = 190 / max(outputs, inputs, 1)
    height, width, thin = outputs * scale, inputs * scale, max(8.0, rank * scale)
    top, parts = 52, []

    def matrix(x: float, y: float, w: float, h: float, fill: str, name: str, size: str) -> None:
        parts.append(box(x, y, w, h, fill, SOFT))
        parts.append(text(x + w / 2, y + h + 18, name, anchor="middle", font_weight=600))
        parts.append(text(x + w / 2, y + h + 34, size, anchor="middle", fill=SOFT, font_size=11))

    x, middle = 40.0, top + height / 2
    matrix(x, top, width, height, FROZEN, "W", f"{outputs} x {inputs}, frozen")
    x += width + 24
    parts.append(text(x, middle + 6, "+", anchor="middle", font_size=20))
    parts.append(text(x + 20, middle + 5, "alpha / rank", font_size=13))
    x += 112
    matrix(x, top, thin, height, ACCENT, "B", f"{outputs} x {rank}")
    x += thin + 44
    matrix(x, top, width, thin, WASH, "A", f"{rank} x {inputs}")
    parts.append(
        text(
            x,
            top + thin + 70,
            f"{shape['layer_b']:,} + {shape['layer_a']:,} numbers are trained",
            fill=SOFT,
        )
    )
    parts.append(text(x, top + thin + 88, f"instead of {shape['layer_weights']:,} in W", fill=SOFT))
    parts.append(text(40, 30, f"One layer, {layer['path']}, to scale", fill=SOFT))
    return svg(top + max(height, thin) + 52, "A frozen matrix and its low-rank update", parts)


def kinds(trained: Mapping[str, Any]) -> str:
    """How large the learned change is beside the frozen weights, by kind of layer."""
    ratios = trained["kinds"]
    widest, parts, y = max(ratios.values()), [], 54.0
    for kind, ratio in ratios.items():
        length = 500 * ratio / widest
        parts.append(text(120, y + 13, kind, anchor="end", font_family=MONO))
        parts.append(box(130, y, length, 18, ACCENT))
        parts.append(text(138 + length, y + 13, f"{100 * ratio:.1f} %", fill=SOFT))
        y += 27
    parts.append(
        text(24, 30, "Norm of alpha/rank B A as a share of the norm of W, mean by kind", fill=SOFT)
    )
    return svg(y + 12, "The size of the learned change", parts)


def steps(adam: Mapping[str, Any]) -> str:
    """|step| over |gradient| for entries of B, after the first update and after the third."""
    shown = [(0, "the first step"), (len(adam["scatter"]) - 1, f"step {len(adam['scatter'])}")]
    rate = adam["learning_rate"]
    panels = []
    for panel, (place, name) in enumerate(shown):
        points = [(g, s) for g, s in adam["scatter"][place] if g > 0 and s > 0]
        left, right, top, bottom = 60 + panel * 340, 350 + panel * 340, 50, 230
        low = math.floor(math.log10(min(g for g, _ in points)))
        high = math.ceil(math.log10(max(g for g, _ in points)))
        x = _axis(low, high, left, right)
        y = _linear(0.0, 1.6 * rate, bottom, top)
        panels += [line(left, bottom, right, bottom, SOFT), line(left, top, left, bottom, SOFT)]
        panels += [line(left, y(rate), right, y(rate), ACCENT)]
        panels += [
            f'<circle cx="{x(g):.1f}" cy="{y(min(s, 1.6 * rate)):.1f}" r="1.8" fill="{INK}" '
            'fill-opacity="0.55"/>'
            for g, s in points
        ]
        panels.append(text(left, 34, name, font_weight=600))
        for exponent in (low, high):
            words = f"1e{exponent}"
            panels.append(text(x(10.0**exponent), bottom + 16, words, anchor="middle", fill=SOFT))
        middle = (left + right) / 2
        panels.append(text(middle, bottom + 34, "|gradient|", anchor="middle", fill=SOFT))
        panels.append(text(left - 6, y(rate) + 4, f"{rate:g}", anchor="end", fill=ACCENT))
        panels.append(text(left - 6, bottom + 4, "0", anchor="end", fill=SOFT))
        panels.append(text(left - 6, top + 4, "|step|", anchor="end", fill=SOFT))
    return svg(282, "Adam's steps against the gradients that caused them", panels)


def losses(curve: Sequence[tuple[int, float]], title: str) -> str:
    """Loss by step on a logarithmic axis, each step and the mean of the last ten."""
    low = math.floor(math.log10(min(loss for _, loss in curve)))
    high = math.ceil(math.log10(max(loss for _, loss in curve)))
    left, right, top, bottom = 64, WIDTH - 24, 44, 250
    x = _linear(curve[0][0], curve[-1][0], left, right)
    y = _axis(low, high, bottom, top)
    parts = [text(left, 28, title, fill=SOFT)]
    for exponent in range(low, high + 1):
        value = 10.0**exponent
        parts.append(line(left, y(value), right, y(value)))
        parts.append(text(left - 8, y(value) + 4, f"{value:g}", anchor="end", fill=SOFT))
    for step in (curve[0][0], curve[len(curve) // 2][0], curve[-1][0]):
        parts.append(text(x(step), bottom + 18, str(step), anchor="middle", fill=SOFT))
    window = [
        (step, sum(loss for _, loss in curve[max(0, i - 9) : i + 1]) / min(10, i + 1))
        for i, (step, _) in enumerate(curve)
    ]
    for points, width, opacity in ((curve, 1, 0.35), (window, 2.2, 1)):
        path = "L".join(f"{x(step):.1f} {y(loss):.1f}" for step, loss in points)
        parts.append(
            f'<path d="M{path}" fill="none" stroke="{ACCENT}" stroke-width="{width}" '
            f'stroke-opacity="{opacity}" stroke-linejoin="round"/>'
        )
    return svg(282, title, parts)


def _linear(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    return lambda value: start + (stop - start) * (value - low) / (high - low)


def _axis(low: int, high: int, start: float, stop: float) -> Callable[[float], float]:
    """Logarithmic, from 10**low to 10**high."""
    place = _linear(low, max(high, low + 1), start, stop)
    return lambda value: place(math.log10(value))
