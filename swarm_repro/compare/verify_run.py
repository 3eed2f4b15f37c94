"""What ``run --verify`` found, reported as ``verify`` reports."""

from __future__ import annotations

from collections.abc import Sequence

from swarm_repro.cassette.store import CassetteStore
from swarm_repro.compare.environments import Changed, environment_changes
from swarm_repro.compare.verify_judge import judge_call
from swarm_repro.compare.verify_report import VerifyReport
from swarm_repro.ledger import Verified


def verify_report(verified: Sequence[Verified], store: CassetteStore) -> VerifyReport:
    """Group the calls that a simulation asked again.

    Args:
        verified: The calls, in the order of the run.
        store: The cassette.

    Raises:
        CassetteDamagedError: Recorded bytes are damaged.
    """
    numbers = {call_id: number for number, call_id in enumerate(store.calls())}
    calls = [
        judge_call(
            one.recorded,
            store.completion_of(one.recorded),
            [one.answer],
            number=numbers[one.recorded.id],
            sampling=one.request.sampling,
            prompt_differs=one.prompt_differs,
            failure=None,
            # The simulation waits, and its calls are not to be asked twice.
            ask_for_logprobs=lambda: None,
        )
        for one in verified
    ]
    return VerifyReport(
        cassette=store.path.name,
        repeat=1,
        order="recorded",
        environment=tuple(_environment_changes(verified, store)),
        calls=tuple(sorted(calls, key=lambda call: call.number)),
    )


def _environment_changes(verified: Sequence[Verified], store: CassetteStore) -> list[Changed]:
    """What is otherwise than in the environments that the calls were recorded in, each once."""
    recorded = store.base.envs if store.base is not None else {}
    found: dict[Changed, None] = {}
    for one in verified:
        if one.recorded.env != one.environment.sha256:
            changed = environment_changes(recorded[one.recorded.env], one.environment)
            found.update(dict.fromkeys(changed))
    return list(found)
