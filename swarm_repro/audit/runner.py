"""Running an audit: every experiment with every setting, whatever fails in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from swarm_repro import __version__
from swarm_repro.audit.counting import count
from swarm_repro.audit.experiments import Experiment
from swarm_repro.audit.judge import (
    in_order_of_price,
    missing_from,
    notes_on,
    price_list,
    recommend,
    verdict,
)
from swarm_repro.audit.lab import Bench, Lab
from swarm_repro.audit.plan import AuditOptions, Plan, make_plan
from swarm_repro.audit.progress import Progress
from swarm_repro.audit.prompts import Prompt
from swarm_repro.audit.report import AuditReport, Cell, MeasuredSetting
from swarm_repro.audit.settings import Setting
from swarm_repro.completion import Completion
from swarm_repro.errors import BackendError, SwarmReproError
from swarm_repro.serving.state import StartedServer


def run_audit(
    options: AuditOptions,
    *,
    on_progress: Callable[[str, float, float], None] = lambda _what, _done, _total: None,
    on_server: Callable[[StartedServer], None] = lambda _server: None,
) -> AuditReport:
    """Measure a model on this machine.

    Servers are started for each experiment and ended after it, however it ends.

    Args:
        options: What to measure.
        on_progress: Called with what is being measured, the work done and all of it.
        on_server: Called with each server that is ready.

    Raises:
        UsageError: An option that cannot be honoured.
        ModelFileError: The model is missing, or is not GGUF.
        CassetteAccessError: The cassette is missing.
        CassetteDamagedError: The cassette is damaged.
        BackendError: No server could be started at all.
    """
    plan = make_plan(options)
    progress = Progress(plan.settings, plan.experiments, plan.bench, plan.rounds, on_progress)
    plan.bench.on_answer = progress.on_answer
    plan.bench.on_server = on_server
    cells: list[Cell] = []
    seconds: dict[str, float] = {}
    problems: list[str] = []
    for setting in plan.settings:
        lab = plan.bench.lab(setting)
        for experiment in plan.experiments:
            with progress.measuring(lab, experiment):
                cells.append(_measure(lab, experiment))
        with progress.timing(lab):
            try:
                seconds[setting.name] = _time(lab, plan.rounds)
            except SwarmReproError as error:
                problems.append(f"{setting.name}, price: {_one_line(error)}")
    if plan.bench.unknown is not None:
        problems.append(f"environment: {plan.bench.unknown}")
    if plan.bench.started == 0 and all(cell.status != "done" for cell in cells):
        raise BackendError(f"no server could be started: {_first_failure(cells, problems)}")
    return _report(plan, cells, seconds, problems)


def _measure(lab: Lab, experiment: Experiment) -> Cell:
    blank = Cell(setting=lab.setting.name, experiment=experiment.name, status="skipped")
    why_not = experiment.why_not(lab)
    if why_not is not None:
        return replace(blank, why=why_not)
    lab.take_seconds()
    try:
        answers = experiment.run(lab)
    except SwarmReproError as error:
        return replace(blank, status="failed", why=_one_line(error))
    counted = count(answers)
    return replace(
        blank,
        status="done",
        distinct=counted.distinct,
        of=counted.of,
        worst_prompt=counted.worst_prompt,
        divergence=counted.parting,
        logprob_drift=counted.drift,
        seconds=lab.take_seconds(),
    )


def _time(lab: Lab, rounds: int) -> float:
    """Seconds for the calls of a simulation in little, one after another, none asked twice."""
    lab.take_seconds()
    with lab.open() as asker:
        for turn in range(1, rounds + 1):
            for prompt in lab.bench.prompts:
                asker.ask(prompt.of_another_turn(turn))
    return lab.take_seconds()


def _report(
    plan: Plan, cells: Sequence[Cell], seconds: Mapping[str, float], problems: Sequence[str]
) -> AuditReport:
    bench = plan.bench
    prices = price_list(seconds)
    measured = [_measured(setting, bench) for setting in plan.settings]
    settings = in_order_of_price(measured, prices)
    recommended = recommend(settings, plan.experiments, cells, prices)
    files = bench.binding.identity.content["files"]
    return AuditReport(
        recorder=__version__,
        verdict=verdict(recommended, plan.experiments, cells),
        model_file=bench.model_path.name,
        model_sha256=str(files[0]) if isinstance(files, list) else "",
        environment=bench.environment.content if bench.environment else {},
        threads=bench.threads,
        n_ctx=bench.n_ctx,
        repeat=bench.repeat,
        prompts=_with_tokens(bench),
        settings=settings,
        experiments=plan.experiments,
        cells=tuple(cells),
        prices=prices,
        recommended=recommended,
        notes=notes_on(plan.experiments, cells),
        missing=missing_from(settings, plan.experiments, cells, (*problems, *plan.untried)),
    )


def _measured(setting: Setting, bench: Bench) -> MeasuredSetting:
    return MeasuredSetting(
        name=setting.name,
        what=setting.what,
        flags=setting.flags(threads=bench.threads, n_ctx=bench.n_ctx),
        request=setting.request,
        command=setting.start_command(
            model=bench.model_path.name, threads=bench.threads, n_ctx=bench.n_ctx
        ),
    )


def _with_tokens(bench: Bench) -> tuple[Prompt, ...]:
    """The prompts, with the number of tokens that a backend counted."""
    counted: dict[str, Completion] = {}
    for lab in bench.labs:
        counted.update(lab.known_reference)
    return tuple(
        replace(prompt, tokens=counted[prompt.name].usage.prompt)
        if prompt.name in counted
        else prompt
        for prompt in bench.prompts
    )


def _first_failure(cells: Sequence[Cell], problems: Sequence[str]) -> str:
    failed = [cell.why for cell in cells if cell.status == "failed" and cell.why]
    return next(iter((*failed, *problems)), "nothing was tried")


def _one_line(error: SwarmReproError) -> str:
    return " ".join(str(error).split())
