"""What is to be run: options, checked against the scenario and the files that are there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from swarm_repro import __version__
from swarm_repro.cassette.header import Header
from swarm_repro.errors import CassetteAccessError, UsageError
from swarm_repro.masking import Redact
from swarm_repro.mode import Mode
from swarm_repro.simulation.scenario import Scenario, load_scenario


@dataclass(frozen=True)
class Served:
    """Where calls go, instead of where the scenario says; nothing of it is in a key or a prompt.

    Attributes:
        base_url: The server of agents that call one; None as written.
        model_path: The file of agents that have their model in process, of the same name as the
            one that is written; None as written.
        threads: Threads of a model in process; None as written.
    """

    base_url: str | None = None
    model_path: Path | None = None
    threads: int | None = None


@dataclass(frozen=True)
class RunOptions:
    """What the user asked for.

    Attributes:
        scenario: The scenario file.
        seed: Seed of the run; None takes the scenario's.
        mode: What to do with calls; None replays if there is a cassette.
        cassette: The cassette; None takes the scenario's, or the default path.
        out: Folder for artifacts; None makes a fresh one under ``runs/``.
        epochs: Number of epochs; None takes the scenario's.
        steps: Steps per epoch; None takes the scenario's.
        discard: Throw away an interrupted recording.
        cache: Take answers from the machine-wide cache while recording, and add to it.
        fresh: Add to it, and take none.
        redact: The user's own redaction of what is stored.
        update_artifacts: Accept artifacts that differ from the recorded ones.
        check_model: A GGUF file that must be one the cassette was recorded with.
        served: Where calls go, where that is not what the scenario says.
    """

    scenario: Path
    seed: int | None = None
    mode: Mode | None = None
    cassette: Path | None = None
    out: Path | None = None
    epochs: int | None = None
    steps: int | None = None
    discard: bool = False
    cache: bool = False
    fresh: bool = False
    redact: Redact | None = None
    update_artifacts: bool = False
    check_model: Path | None = None
    served: Served = Served()


@dataclass(frozen=True)
class Plan:
    """A run that has been checked and can begin.

    Attributes:
        scenario: What is run.
        mode: What is done with calls.
        seed: Seed of the run.
        epochs: Number of epochs.
        steps: Steps per epoch.
        cassette: The cassette, which need not exist when it is recorded.
        out: Folder for artifacts.
        served: Where calls go, where that is not what the scenario says.
    """

    scenario: Scenario
    mode: Mode
    seed: int
    epochs: int
    steps: int
    cassette: Path
    out: Path
    served: Served = Served()

    @property
    def header(self) -> Header:
        """Header of a cassette that this run records."""
        return Header(
            recorder=__version__,
            scenario=self.scenario.id,
            seed_policy=self.scenario.seed_policy,
            strict=self.scenario.strict,
            requests=self.scenario.requests,
        )


def make_plan(options: RunOptions) -> Plan:
    """Check the options against the scenario and the files that are there.

    Raises:
        ScenarioError: The scenario cannot be run.
        UsageError: No seed, a seed out of range, or no cassette to replay.
    """
    scenario = load_scenario(options.scenario)
    seed = options.seed if options.seed is not None else scenario.seed
    if seed is None:
        raise UsageError(f"scenario {scenario.path} sets no seed; give one with --seed")
    if not 0 <= seed < 2**32 - 1:
        raise UsageError(f"seed {seed} is out of range: use 0 to 4294967294")
    for name, count in (("--epochs", options.epochs), ("--steps", options.steps)):
        if count is not None and count < 1:
            raise UsageError(f"{name} must be at least 1, not {count}")
    cassette = (
        options.cassette
        or scenario.cassette
        or Path("cassettes") / f"{scenario.id}.seed{seed}.jsonl"
    )
    mode = options.mode
    if mode is None:
        if not cassette.exists():
            raise CassetteAccessError(
                f"there is no cassette at {cassette}; record one with: swarm-repro run "
                f"{scenario.path} --seed {seed} --record"
            )
        mode = Mode.REPLAY
    if options.update_artifacts and mode is not Mode.REPLAY:
        raise UsageError("--update-artifacts goes with --replay")
    if options.discard and not mode.writes:
        raise UsageError("--discard goes with --record or --auto")
    return Plan(
        scenario=scenario,
        mode=mode,
        seed=seed,
        epochs=options.epochs or scenario.epochs,
        steps=options.steps or scenario.steps,
        cassette=cassette,
        out=options.out or _fresh_folder(scenario.id, seed),
        served=options.served,
    )


def _fresh_folder(scenario_id: str, seed: int) -> Path:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / f"{scenario_id}.seed{seed}.{stamp}"
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{scenario_id}.seed{seed}.{stamp}.{number}")
    return folder
