"""The report's drawings as inline SVG: they follow the page's colours, light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 28


def loss_curve(losses: Sequence[tuple[int, float]]) -> str:
    """Loss by step on a logarithmic axis, with a running mean; empty for fewer than two points."""
    points = [(step, loss) for step, loss in losses if math.isfinite(loss) and loss > 0]
    if len(points) < 2:
        return ""
    first, last = points[0][0], points[-1][0]
    low = math.floor(math.log10(min(loss for _, loss in points)) * 2) / 2
    high = math.ceil(math.log10(max(loss for _, loss in points)) * 2) / 2
    high = max(high, low + 0.5)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / max(1, last - first)

    def y(loss: float) -> float:
        share = (math.log10(loss) - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def path(values: Sequence[tuple[int, float]]) -> str:
        return "M" + "L".join(f"{x(step):.1f} {y(loss):.1f}" for step, loss in values)

    marks = [10.0**exponent for exponent in range(math.ceil(low), math.floor(high) + 1)]
    if len(marks) < 2:
        marks = [10.0**low, 10.0**high]
    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(m):.1f}" y2="{y(m):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(m) + 4:.1f}" text-anchor="end">{m:.3g}</text>'
        for m in marks
    )
    steps = "".join(
        f'<text x="{x(step):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{step}</text>'
        for step, anchor in ((first, "start"), ((first + last) // 2, "middle"), (last, "end"))
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Loss by step, from '
        f'{points[0][1]:.3g} to {points[-1][1]:.3g}">{grid}{steps}'
        f'<path class="thin" d="{path(points)}"/>'
        f'<path class="thick" d="{path(running_mean(points))}"/></svg>'
    )


def running_mean(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Exponential mean of the losses, without the pull towards 0 at its start."""
    decay = 1.0 - 1.0 / max(2.0, len(points) / 40)
    smooth, total, weight = [], 0.0, 0.0
    for step, loss in points:
        total = decay * total + (1 - decay) * loss
        weight = decay * weight + (1 - decay)
        smooth.append((step, total / weight))
    return smooth
