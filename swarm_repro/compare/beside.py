"""What differs in two answers that say the same: tool calls, embeddings, logprobs."""

from __future__ import annotations

from swarm_repro.compare.parting import logprob_drift
from swarm_repro.completion import Completion
from swarm_repro.dialects import stable_document
from swarm_repro.difference import Difference, differences

_LOGPROBS = frozenset({"logprobs", "completion_probabilities"})


def beside_text(one: Completion, other: Completion) -> float | Difference | None:
    """Compare two answers with the same tokens or text.

    Args:
        one: An answer.
        other: Another one.

    Returns:
        Where nothing but logprobs differs, the largest difference of a token's, in nats; else the
        first member that differs; None where only the form of the answers does.

    Raises:
        orjson.JSONDecodeError: A body is not JSON.
    """
    a, b = ([stable_document(document) for document in answer.documents] for answer in (one, other))
    drift = logprob_drift(one, other)
    if drift is not None and _without_logprobs(a) == _without_logprobs(b):
        return drift
    single = len(a) == len(b) == 1
    found = differences(a[0], b[0]) if single else differences(a, b, field="event")
    return found[0] if found else None


def describe_beside(found: float | Difference | None, *, sides: tuple[str, str]) -> str:
    """One line on what ``beside_text`` found.

    Args:
        found: What it found.
        sides: What each value comes after, such as ``recorded`` and ``now``.
    """
    if isinstance(found, float):
        return f"the same tokens; their logprobs differ by up to {found:.4f} nats"
    if found is None:
        return "the text is the same, other members differ"
    return (
        f"the text is the same; {found.field}: {sides[0]} {found.recorded}, "
        f"{sides[1]} {found.asked}"
    )


def _without_logprobs(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_logprobs(v) for k, v in value.items() if k not in _LOGPROBS}
    return [_without_logprobs(item) for item in value] if isinstance(value, list) else value
