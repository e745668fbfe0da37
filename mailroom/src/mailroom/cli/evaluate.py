"""mailroom evaluate: before and after on the test part, and the report."""

from __future__ import annotations

from pathlib import Path

import click

from mailroom.cli.options import (
    base_model_option,
    corpus_option,
    free_option,
    home_option,
    json_option,
    model_option,
    taxonomy_option,
)
from mailroom.cli.terminal import terminal


@click.command("evaluate")
@corpus_option
@model_option
@base_model_option
@taxonomy_option
@click.option("--limit", default=0, type=click.IntRange(0), metavar="N", help="First N test mails.")
@click.option("--no-scoring", is_flag=True, help="Skip the closed set by logprob; implies --free.")
@free_option
@click.option(
    "--compare-free",
    is_flag=True,
    help="Ask a second time with --free, and report the share of texts that are the same.",
)
@click.option("--report", metavar="FILE", help="The page to write (default: DIR/report.html).")
@home_option
@json_option
def command(
    corpus: str,
    reference: str,
    base_model: str | None,
    taxonomy: str | None,
    limit: int,
    no_scoring: bool,
    free: bool,
    compare_free: bool,
    report: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Compare a trained model with its base model and with word-count models.

    With `--model base` only the base model is asked.
    """
    from mailroom.config import BUILTIN_BASE_MODEL, home_directory
    from mailroom.corpus.corpus import Corpus
    from mailroom.decision.model import BASE, check_reference, find_model
    from mailroom.service.connect import open_service
    from mailroom.service.remembered import recall, remember_scores
    from mailroom.taxonomy import Taxonomy

    with terminal(as_json) as screen:
        loaded = Corpus.load(corpus)
        check_reference(reference)
        chosen = Taxonomy.load(taxonomy) if taxonomy else None
        if reference == BASE and chosen is None:
            chosen = loaded.taxonomy
        place = home_directory(home)
        wanted = base_model or recall(place, reference).get("base_model") or BUILTIN_BASE_MODEL
        with open_service(place, wanted, screen.say) as service:
            from mailroom.evaluation.evaluate import evaluate
            from mailroom.evaluation.report import (
                baseline_lines,
                detail_lines,
                scores_line,
                write_report,
            )
            from mailroom.training.run_directory import find_run

            model = find_model(
                service, reference, base_model=wanted, taxonomy=chosen, say=screen.say
            )
            with screen.progress("mail") as progress:
                evaluation = evaluate(
                    service,
                    model,
                    loaded,
                    limit=limit,
                    num_train=int(model.training.get("num_examples", 0)),
                    scores=not no_scoring,
                    free=free,
                    compare_free=compare_free,
                    on_done=lambda what, done, total: progress(done, total, what),
                )
        run = find_run(loaded.directory, reference, recall(place, reference).get("run"))
        losses = [(step.step, step.loss) for step in run.metrics()] if run else []
        if reference != BASE:
            remember_scores(place, reference, evaluation.scores_as_json())
        page = Path(report) if report else Path(corpus) / "report.html"
        write_report(page, evaluation, corpus=str(loaded.directory), losses=losses)
        lines = [f"before  {scores_line(evaluation.before)}"]
        if evaluation.after is not None:
            lines.append(f"after   {scores_line(evaluation.after)}")
        lines += detail_lines(evaluation.latest)
        lines += baseline_lines(evaluation.baselines)
        screen.result({**evaluation.as_json(), "report": str(page)}, "\n".join([*lines, str(page)]))
