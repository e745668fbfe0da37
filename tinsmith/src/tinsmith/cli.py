"""The `tinsmith` command. Results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tinsmith.commands.audit import audit
from tinsmith.commands.backups import backup, restore
from tinsmith.commands.checkpoints import checkpoints
from tinsmith.commands.disk import disk
from tinsmith.commands.keys import keys
from tinsmith.commands.options import (
    config_option,
    configured,
    database_option,
    home_option,
    json_option,
)
from tinsmith.commands.projects import projects
from tinsmith.commands.runs import runs
from tinsmith.config import DTYPES, LOG_FORMATS, QUANTIZATIONS
from tinsmith.domain.errors import TinsmithError
from tinsmith.telemetry import log_to_stderr


class _CleanErrors(click.Group):
    """Our own errors end a command with one line and exit code 1, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TinsmithError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_CleanErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tinsmith")
def main() -> None:
    """An open, self-hosted server for the Tinker API."""


main.add_command(checkpoints)
main.add_command(runs)
main.add_command(disk)
main.add_command(keys)
main.add_command(projects)
main.add_command(audit)
main.add_command(backup)
main.add_command(restore)


@main.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="ID_OR_DIR",
    help="A base model to serve: a hub id, a folder, or NAME=FOLDER; repeatable. "
    "Default: the built-in one.",
)
@home_option
@database_option
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="0 picks a free one and prints it.")
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="A web page that may call from a browser, such as http://localhost:3000; repeatable.",
)
@click.option(
    "--tls-cert",
    metavar="FILE",
    help="Serve HTTPS with this PEM certificate chain; a renewed file is taken up by itself.",
)
@click.option("--tls-key", metavar="FILE", help="The certificate's PEM key.")
@click.option(
    "--public-url", metavar="URL", help="The address from outside, if a proxy is in between."
)
@click.option("--device", help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Of the frozen base model; auto takes what the device multiplies fast.",
)
@click.option(
    "--quantize",
    type=click.Choice(QUANTIZATIONS),
    help="Keep the base model's linear layers in so many bits.",
)
@click.option(
    "--trust-remote-code",
    "trust_remote_code",
    multiple=True,
    metavar="NAME",
    help="Run the Python code that this base model comes with; read it first. Repeatable.",
)
@config_option
@click.option("--log-level", default="info", type=click.Choice(["debug", "info", "warning"]))
@click.option("--log-format", type=click.Choice(LOG_FORMATS), help="json: an object in each line.")
@click.option("--json", "as_json", is_flag=True, help="When ready, one JSON document.")
def serve(
    models: tuple[str, ...],
    home: Path | None,
    database: str | None,
    host: str | None,
    port: int | None,
    cors_origins: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    public_url: str | None,
    device: str | None,
    dtype: str | None,
    quantize: str | None,
    trust_remote_code: tuple[str, ...],
    config_file: Path | None,
    log_level: str,
    log_format: str | None,
    as_json: bool,
) -> None:
    """Serve the Tinker API until Ctrl-C."""
    from tinsmith.app import serve_until_stopped

    config = configured(config_file, home, database)
    config = replace(config, log_format=log_format or config.log_format)
    log_to_stderr(log_level, config.log_format)
    engine = replace(
        config.engine,
        device=device or config.engine.device,
        dtype=dtype or config.engine.dtype,
        quantize=quantize or config.engine.quantize,
        trust_remote_code=trust_remote_code or config.engine.trust_remote_code,
    )
    http = replace(
        config.http,
        tls_cert=tls_cert or config.http.tls_cert,
        tls_key=tls_key or config.http.tls_key,
        public_url=public_url or config.http.public_url,
    )
    origins = cors_origins or config.service.cors_origins
    config = replace(
        config,
        host=host or config.host,
        port=config.port if port is None else port,
        models=models or config.models,
        engine=engine,
        http=http,
        service=replace(config.service, cors_origins=origins),
    )
    sys.exit(serve_until_stopped(config, as_json=as_json))


@main.command(hidden=True)
@click.argument("spec")
def engine(spec: str) -> None:
    """Run one engine; `serve` starts these."""
    from tinsmith.engine.process import run_engine
    from tinsmith.engines import engine_spec

    served, config = engine_spec(spec)
    log_to_stderr("info", config.log_format)
    sys.exit(run_engine(served, config))


@main.command()
@home_option
@database_option
@click.option(
    "--quantize",
    type=click.Choice(QUANTIZATIONS),
    help="Also load a base model with and without it, and compare their loss on a short text.",
)
@click.option(
    "--model", metavar="ID_OR_DIR", help="The model for --quantize. Default: the built-in one."
)
@config_option
@json_option
def doctor(
    home: Path | None,
    database: str | None,
    quantize: str | None,
    model: str | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """What this machine offers, and what would be in the way."""
    from tinsmith.base_models import BUILTIN_NAME
    from tinsmith.doctor import examine, measure_quantization

    if model and not quantize:
        raise click.UsageError("--model is what --quantize is measured on; give that too")
    config = configured(config_file, home, database)
    facts = examine(config)
    if quantize:
        config = replace(config, engine=replace(config.engine, quantize=quantize))
        facts["quantization"] = measure_quantization(config, model or BUILTIN_NAME)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        for name, value in facts.items():
            if name != "problems" and not isinstance(value, dict):
                click.echo(f"{name.replace('_', ' '):20}{value}")
        for name, gflops in facts["product_gflops"].items():
            click.echo(f"{f'product {name}':20}{gflops:,.0f} GFLOP/s")
        for name, value in {**facts["device_facts"], **facts["packages"]}.items():
            click.echo(f"{name:20}{value}")
        if quantize:
            found = facts["quantization"]
            click.echo(
                f"{found['model']} in {quantize}: loss {found['quantized_loss']:.4f} instead of "
                f"{found['loss']:.4f} on {found['num_tokens']} tokens ({found['gap']:+.4f})"
            )
        for problem in facts["problems"]:
            click.echo(f"problem: {problem}")
    sys.exit(1 if facts["problems"] else 0)


if __name__ == "__main__":
    main()
