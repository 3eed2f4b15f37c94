"""``swarm-repro run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarm_repro.canonical import encode_json
from swarm_repro.cli.hash_seed import pin_hash_seed
from swarm_repro.cli.progress import RunProgress
from swarm_repro.cli.report import finish
from swarm_repro.cli.session_options import storing_options
from swarm_repro.errors import UsageError
from swarm_repro.mode import Mode

if TYPE_CHECKING:
    from swarm_repro.masking import Redact
    from swarm_repro.simulation.plan import RunOptions


@click.command("run")
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option("--seed", type=int, help="Seed of the run; the scenario's if not given.")
@click.option("--record", "mode", flag_value="record", help="Call the model, record every call.")
@click.option("--replay", "mode", flag_value="replay", help="Call nothing; a miss fails the run.")
@click.option("--auto", "mode", flag_value="auto", help="Replay what is recorded, record the rest.")
@click.option("--live", "mode", flag_value="live", help="Call the model, write no cassette.")
@click.option("--verify", "mode", flag_value="verify", help="Call, and compare with the recording.")
@click.option("--cassette", type=click.Path(path_type=Path), help="The cassette file.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for artifacts.")
@click.option("--epochs", type=int, help="Number of epochs; the scenario's if not given.")
@click.option("--steps", type=int, help="Steps per epoch; the scenario's if not given.")
@click.option("--discard", is_flag=True, help="Throw away an interrupted recording.")
@storing_options
@click.option("--update-artifacts", is_flag=True, help="Accept artifacts that differ.")
@click.option(
    "--check-model",
    type=click.Path(path_type=Path),
    help="Fail unless this GGUF file is the recorded model; a replay needs none.",
)
@click.option(
    "--survey",
    is_flag=True,
    help="List what the run asks otherwise than the recording; calls and writes nothing.",
)
@click.option("--html", type=click.Path(path_type=Path), help="With --survey: write it as HTML.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def command(
    scenario: Path,
    seed: int | None,
    mode: str | None,
    cassette: Path | None,
    out: Path | None,
    epochs: int | None,
    steps: int | None,
    discard: bool,
    cache: bool,
    fresh: bool,
    redact: Redact | None,
    update_artifacts: bool,
    check_model: Path | None,
    survey: bool,
    html: Path | None,
    as_json: bool,
) -> int:
    """Run unmodified SWARM on a SCENARIO file.

    Without a mode the cassette is replayed if there is one.
    """
    pin_hash_seed()
    from swarm_repro.simulation.plan import RunOptions, make_plan
    from swarm_repro.simulation.run import run_scenario

    options = RunOptions(
        scenario=scenario,
        seed=seed,
        mode=Mode(mode) if mode else None,
        cassette=cassette,
        out=out,
        epochs=epochs,
        steps=steps,
        discard=discard,
        cache=cache,
        fresh=fresh,
        redact=redact,
        update_artifacts=update_artifacts,
        check_model=check_model,
    )
    if survey:
        return _survey(options, html=html, as_json=as_json)
    if html is not None:
        raise UsageError("--html goes with --survey")
    plan = make_plan(options)
    with RunProgress(plan) as progress:
        outcome = run_scenario(
            options, plan=plan, on_call=progress.on_call, on_wait=progress.on_wait
        )
    return finish(outcome, as_json=as_json)


def _survey(options: RunOptions, *, html: Path | None, as_json: bool) -> int:
    from swarm_repro.compare.text import survey_lines
    from swarm_repro.simulation.plan import make_plan
    from swarm_repro.survey import survey

    if options.mode not in (None, Mode.REPLAY):
        raise UsageError(f"--survey is a replay: leave --{options.mode.value} out")
    for flag, given in (
        ("--update-artifacts", options.update_artifacts),
        ("--out", options.out),
        ("--check-model", options.check_model),
    ):
        if given:
            raise UsageError(f"--survey writes nothing and needs no model: leave {flag} out")
    with RunProgress(make_plan(options)) as progress:
        found = survey(options, on_call=progress.on_call)
    report = found.to_json()
    if html is not None:
        from swarm_repro.reporting.html import write_html

        write_html(report, html)
    if as_json:
        click.echo(encode_json(report))
    else:
        for line in survey_lines(report):
            click.echo(line)
    return int(found.exit_code)
