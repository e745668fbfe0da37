"""Reference pages that cannot go stale: made of the commands' own help, the settings' own
docstrings and the table of losses."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tinsmith.nn.losses import Loss

WIDTH = 96
NOTE = "<!-- Written by `python docs/generate.py`; a test compares. Change the source instead. -->"


def cli_page() -> str:
    """Every command and option of both programs, as `--help` prints them."""
    parts = [
        "# Commands",
        NOTE,
        "What `--help` prints, for reading in one go. Results go to standard output, progress and "
        "everything else to standard error. Exit codes: 0 done, 1 failed, 2 misuse.",
    ]
    for program in ("mailroom", "tinsmith"):
        group = importlib.import_module(f"{program}.cli").main
        parts.append(f"## {program}")
        for name, command in _commands(program, group):
            if name != program:
                parts.append(f"### {name}")
            parts.append(f"```text\n{_help(name, command)}\n```")
    return "\n\n".join(parts) + "\n"


def _commands(program: str, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    yield program, group
    context = click.Context(group, info_name=program)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(f"{program} {name}", command)
        elif command is not None and not command.hidden:
            yield f"{program} {name}", command


def _help(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    # The help option is named by the group's settings, which a fresh context does not have.
    context.help_option_names = ["-h", "--help"]
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def settings_page() -> str:
    """Every setting of the server, and every setting of a training run."""
    import mailroom.training.plan
    import tinsmith.config
    from mailroom.training.plan import PRESETS

    server = tinsmith.config
    tables = {
        field.name: getattr(server, field.type)
        for field in dataclasses.fields(server.Config)
        if dataclasses.is_dataclass(getattr(server, field.type, None))
    }
    sections = [
        f"### `[{name}]`\n\n{_doc(table)}\n\n" + _table(table, server, prefix=f"{name}.")
        for name, table in tables.items()
    ]
    presets = [
        f"| `{name}` | "
        + " | ".join(_value(getattr(plan, f.name)) for f in dataclasses.fields(plan))
        + " |"
        for name, plan in PRESETS.items()
    ]
    names = [f.name for f in dataclasses.fields(next(iter(PRESETS.values())))]
    return (
        "\n\n".join(
            [
                "# Settings",
                NOTE,
                "## The server",
                "`tinsmith serve --config FILE.toml` reads a TOML file of the shape below. Each "
                "value has a default, an option on the command line goes before the file, and an "
                "unknown key is an error that names the nearest known one.",
                "```toml\n" + _toml_example() + "```",
                "### At the top of the file",
                _table(server.Config, server, skip=tuple(tables)),
                *sections,
                "## A training run",
                "Options of `mailroom train` set these; a preset is where they start from.",
                _table(mailroom.training.plan.Plan, mailroom.training.plan),
                "The presets:",
                "| preset | " + " | ".join(f"`{name}`" for name in names) + " |\n"
                "|" + "---|" * (len(names) + 1) + "\n" + "\n".join(presets),
            ]
        )
        + "\n"
    )


def losses_page() -> str:
    """Every loss of forward_backward: formula, inputs, settings, and what to know of it."""
    from tinsmith.nn.losses import LOSSES

    parts = [
        "# Losses",
        NOTE,
        "What `forward_backward(data, loss_fn, loss_fn_config)` can compute. A loss is a **sum** "
        "over tokens and datums, never a mean, and gradients add up until the next `optim_step`. "
        "`forward` computes the same number and leaves no gradient. Every answer carries "
        "`logprobs` in the shape of `target_tokens`, and the metric `loss:sum`.",
        "Every datum carries `target_tokens` (int64, as long as its input, already shifted: "
        "position i of the input predicts target i) and the inputs below (float32, in the same "
        "shape). An input or a setting that a loss does not know is refused, not ignored; so are "
        "NaN, infinities, and numbers out of range. No gradient comes from a position where the "
        "loss's gate is 0: a token that should not count, in a prompt for instance, has 0 there.",
        "In the formulas, for each token: `lp` is the log-probability of the target under the "
        "weights of now, `w` its `weights`, `q` its `logprobs` when it was sampled, `A` its "
        "`advantages`, `r = exp(lp - q)`, `low` and `high` the thresholds; `sg()` stops the "
        "gradient.",
        *(_loss_section(loss) for loss in LOSSES.values()),
        "## Others",
        "Any function of the logprobs: `forward_backward_custom` of the SDK runs it in your "
        "program, between a `forward` and a `forward_backward` with `cross_entropy`, whose "
        "`weights` are minus its derivative.",
        "Any other name is refused through its future, with this list. `stable_reinforce`, which "
        "some programs use by default, is among them: it has no public definition. Pass "
        "`importance_sampling` or `ppo` instead.",
    ]
    return "\n\n".join(parts) + "\n"


def _loss_section(loss: Loss) -> str:
    inputs = ", ".join(f"`{name}`" for name in sorted(loss.inputs))
    notes = [f"- Inputs: {inputs}"]
    notes += [f"- `{name}` holds 0 and 1 only" for name in sorted(loss.masks)]
    notes += [f"- Gate: `{loss.gate}`" if loss.gate else "- Gate: none; every position counts"]
    if loss.has_soft_targets:
        notes.append("- Targets: one for each position, or K of them (soft targets), dense or CSR")
    else:
        notes.append("- Targets: one for each position")
    parts = [
        f"## {loss.name}",
        f"```text\n{loss.formula}\n```",
        "\n".join(notes),
        " ".join((inspect.getdoc(loss.per_token) or "").split()),
    ]
    if loss.settings:
        rows = [
            f"| `{name}` | {setting.default:g} | {setting.low:g} to {setting.high:,.0f} |"
            for name, setting in loss.settings.items()
        ]
        parts.append("\n".join(["| setting | default | allowed |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _toml_example() -> str:
    return (
        'port = 8765\nmodels = ["Qwen/Qwen3-0.6B", "mine/small=models/small"]\n\n'
        '[engine]\ndtype = "bfloat16"\n\n[limits]\nmax_rank = 64\n'
    )


def _table(cls: type, module: ModuleType, *, prefix: str = "", skip: tuple[str, ...] = ()) -> str:
    docs = _field_docs(cls, module)
    rows = [
        f"| `{prefix}{field.name}` | {_default(field)} | {docs.get(field.name, '')} |"
        for field in dataclasses.fields(cls)
        if field.name not in skip
    ]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])


def _field_docs(cls: type, module: ModuleType) -> dict[str, str]:
    """The string under each field, which Python itself throws away."""
    tree = ast.parse(inspect.getsource(module))
    body = next(
        node.body
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    )
    docs = {}
    for field, after in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            docs[field.target.id] = " ".join(inspect.cleandoc(after.value.value).split())
    return docs


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return _value(field.default)
    if field.default_factory is dataclasses.MISSING:
        return "--"
    value = field.default_factory()
    return "the platform's place for data" if isinstance(value, Path) else _value(value)


def _value(value: object) -> str:
    if value in ("", ()):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _doc(cls: type) -> str:
    """A dataclass without a docstring gets its signature for one; that is nothing to print."""
    text = inspect.getdoc(cls) or ""
    return "" if text.startswith(f"{cls.__name__}(") else text
