"""An audit's outcome as values.

Source of the JSON form: docs/reference/schemas/audit.schema.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from swarm_repro.audit.experiments import Experiment, Kind
from swarm_repro.audit.prompts import Prompt
from swarm_repro.compare.parting import Parting

Status = Literal["done", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One experiment with one setting.

    Attributes:
        setting: The setting's name.
        experiment: The experiment's name.
        status: Whether there is a result.
        why: Why not, in one line.
        distinct: Distinct answers to the prompt that had the most; None unless done.
        of: Answers to that prompt; None unless done.
        worst_prompt: Its name.
        divergence: Where two of its answers part, if they do.
        logprob_drift: Largest difference of a token's logprob where texts agree, in nats; None
            without logprobs.
        seconds: Spent asking, without starting servers; None unless done.
    """

    setting: str
    experiment: str
    status: Status
    why: str | None = None
    distinct: int | None = None
    of: int | None = None
    worst_prompt: str | None = None
    divergence: Parting | None = None
    logprob_drift: float | None = None
    seconds: float | None = None

    @property
    def is_one_answer(self) -> bool:
        """Whether all texts were the same."""
        return self.status == "done" and self.distinct == 1

    @property
    def is_exact(self) -> bool:
        """Whether all texts were the same, and all logprobs to the bit."""
        return self.is_one_answer and not self.logprob_drift

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        return {
            "setting": self.setting,
            "experiment": self.experiment,
            "status": self.status,
            "why": self.why,
            "distinct": self.distinct,
            "of": self.of,
            "worst_prompt": self.worst_prompt,
            "divergence": None if self.divergence is None else self.divergence.to_json(),
            "logprob_drift": self.logprob_drift,
            "seconds": None if self.seconds is None else round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True)
class MeasuredSetting:
    """A setting as it was measured.

    Attributes:
        name: Its name.
        what: One line on it.
        flags: llama-server's flags, to copy; empty in process.
        request: Fields that every request had.
        command: The ``swarm-repro`` command that starts such a server; empty in process.
    """

    name: str
    what: str
    flags: tuple[str, ...]
    request: Mapping[str, object]
    command: str

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        return {
            "name": self.name,
            "what": self.what,
            "flags": list(self.flags),
            "request": dict(self.request),
            "command": self.command,
        }


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a setting costs.

    Attributes:
        setting: Its name.
        seconds: For the requests that all settings were timed with.
        relative: To the default's seconds; None where that was not measured.
    """

    setting: str
    seconds: float
    relative: float | None

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        return {
            "setting": self.setting,
            "seconds": round(self.seconds, 3),
            "relative": None if self.relative is None else round(self.relative, 3),
        }


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The setting to take.

    Attributes:
        setting: The setting.
        relative_price: Its seconds relative to the default's; None where not measured.
        is_exact: Whether logprobs agreed to the bit, too, in every experiment that showed them.
    """

    setting: MeasuredSetting
    relative_price: float | None
    is_exact: bool

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        price = self.relative_price
        return {
            "setting": self.setting.name,
            "flags": list(self.setting.flags),
            "request": dict(self.setting.request),
            "command": self.setting.command,
            "relative_price": None if price is None else round(price, 3),
            "exact": self.is_exact,
        }


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What an audit found.

    Attributes:
        recorder: Version of this package.
        verdict: One line.
        model_file: Name of the GGUF.
        model_sha256: Its digest.
        environment: Content of the environment record of this machine and build.
        threads: Threads of every server, but where an experiment changes them.
        n_ctx: Context of every server, in tokens.
        repeat: Answers compared in an experiment that repeats.
        prompts: What was asked.
        settings: What was measured, the cheapest first.
        experiments: What was tried with each setting.
        cells: One for each setting and experiment.
        prices: The settings that could be timed, the cheapest first.
        recommended: The cheapest setting with one answer in every experiment within it.
        notes: What a reader should know beside the cells, a line each.
        missing: What did not finish or was not tried, a line each.
    """

    recorder: str
    verdict: str
    model_file: str
    model_sha256: str
    environment: Mapping[str, object]
    threads: int
    n_ctx: int
    repeat: int
    prompts: tuple[Prompt, ...]
    settings: tuple[MeasuredSetting, ...]
    experiments: tuple[Experiment, ...]
    cells: tuple[Cell, ...]
    prices: tuple[Price, ...]
    recommended: Recommendation | None
    notes: tuple[str, ...]
    missing: tuple[str, ...]

    def cell(self, setting: str, experiment: str) -> Cell:
        """The cell of a setting and an experiment.

        Raises:
            KeyError: There is none.
        """
        for cell in self.cells:
            if (cell.setting, cell.experiment) == (setting, experiment):
                return cell
        raise KeyError((setting, experiment))

    def of_kind(self, kind: Kind) -> Sequence[Experiment]:
        """The experiments of a kind, in order."""
        return [experiment for experiment in self.experiments if experiment.kind == kind]

    def to_json(self) -> dict[str, object]:
        """The report as JSON."""
        recommended = self.recommended
        return {
            "report": "audit",
            "version": 1,
            "recorder": self.recorder,
            "verdict": self.verdict,
            "model": {"file": self.model_file, "sha256": self.model_sha256},
            "environment": dict(self.environment),
            "threads": self.threads,
            "n_ctx": self.n_ctx,
            "repeat": self.repeat,
            "prompts": [
                {"name": prompt.name, "tokens": prompt.tokens, "source": prompt.source}
                for prompt in self.prompts
            ],
            "settings": [setting.to_json() for setting in self.settings],
            "experiments": [
                {"name": one.name, "what": one.what, "kind": one.kind} for one in self.experiments
            ],
            "cells": [cell.to_json() for cell in self.cells],
            "price": [price.to_json() for price in self.prices],
            "recommended": None if recommended is None else recommended.to_json(),
            "notes": list(self.notes),
            "missing": list(self.missing),
        }
