"""How far an audit is, by the weight of the requests that were answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from swarm_repro.audit.experiments import Experiment
from swarm_repro.audit.lab import Bench, Lab
from swarm_repro.audit.settings import Setting


class Progress:
    """Counts up to what was planned: an experiment that fails counts as done."""

    def __init__(
        self,
        settings: Sequence[Setting],
        experiments: Sequence[Experiment],
        bench: Bench,
        rounds: int,
        on_progress: Callable[[str, float, float], None],
    ) -> None:
        """Add up what is planned.

        Args:
            settings: The settings.
            experiments: The experiments.
            bench: What settings share.
            rounds: How often the prompts are asked to time a setting.
            on_progress: Called with what is being measured, the weight done, and all of it.
        """
        self._tell = on_progress
        self._lock = threading.Lock()
        self._what = ""
        self._done = self._planned = 0.0
        self._prompts = sum(prompt.weight for prompt in bench.prompts)
        self._rounds = rounds
        labs = [bench.lab(setting) for setting in settings]
        self._total = sum(
            self._timing_weight + sum(self._weight(lab, one) for one in experiments) for lab in labs
        )

    @property
    def _timing_weight(self) -> float:
        return self._rounds * self._prompts

    @staticmethod
    def _weight(lab: Lab, experiment: Experiment) -> float:
        return 0.0 if experiment.why_not(lab) else experiment.weight(lab)

    def on_answer(self, weight: float) -> None:
        """One more request was answered."""
        with self._lock:
            self._done = min(self._done + weight, self._planned)
            self._tell(self._what, self._done, self._total)

    @contextmanager
    def measuring(self, lab: Lab, experiment: Experiment) -> Iterator[None]:
        """An experiment, for the length of a ``with`` block."""
        with self._stage(f"{lab.setting.name}, {experiment.name}", self._weight(lab, experiment)):
            yield

    @contextmanager
    def timing(self, lab: Lab) -> Iterator[None]:
        """The timing of a setting, for the length of a ``with`` block."""
        with self._stage(f"{lab.setting.name}, price", self._timing_weight):
            yield

    @contextmanager
    def _stage(self, what: str, weight: float) -> Iterator[None]:
        self._what = what
        self._planned += weight
        self._tell(what, self._done, self._total)
        yield
        # Requests that were not made count too, or the estimate would never come right.
        self._done = self._planned
        self._tell(what, self._done, self._total)
