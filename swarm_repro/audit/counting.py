"""From completions to a cell: how many answers, where they part, how far logprobs drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarm_repro.audit.experiments import Answers
from swarm_repro.canonical import encode_canonical
from swarm_repro.compare.parting import Parting, logprob_drift, part
from swarm_repro.completion import Completion


@dataclass(frozen=True, kw_only=True)
class Count:
    """What came of one experiment with one setting.

    Attributes:
        distinct: Distinct answers to the prompt that had the most.
        of: Answers to that prompt.
        worst_prompt: Its name.
        parting: Where its first answer and the first other one part; None with one answer.
        drift: Largest difference of a token's logprob between a prompt's first answer and another
            one, as far as their texts agree, in nats; None without logprobs.
    """

    distinct: int
    of: int
    worst_prompt: str
    parting: Parting | None
    drift: float | None


def count(answers: Answers) -> Count:
    """Count the answers of an experiment; the worst prompt stands for all.

    Args:
        answers: Completions by prompt; of each at least one.
    """
    drifts = {name: _drift(found) for name, found in answers.items()}
    worst = max(answers, key=lambda name: (_distinct(answers[name]), drifts[name] or 0.0))
    found = answers[worst]
    other = next((one for one in found if said(one) != said(found[0])), None)
    known = [drift for drift in drifts.values() if drift is not None]
    return Count(
        distinct=_distinct(found),
        of=len(found),
        worst_prompt=worst,
        parting=None if other is None else part(found[0], other),
        drift=max(known, default=None),
    )


def said(completion: Completion) -> str:
    """What a completion says: its text, and the tools it calls."""
    return completion.text + _tool_calls(completion)


def _tool_calls(completion: Completion) -> str:
    calls: list[object] = []
    for document in completion.documents:
        choices = document.get("choices") if isinstance(document, dict) else None
        for choice in choices or ():
            message = choice.get("message") or choice.get("delta") or {}
            calls.extend(call.get("function") for call in message.get("tool_calls") or ())
    # A stream cuts the arguments in pieces.
    return "".join(
        str(call.get("name") or "") + _text(call.get("arguments"))
        for call in calls
        if isinstance(call, dict)
    )


def _text(arguments: object) -> str:
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return encode_canonical(arguments).decode()


def _distinct(found: Sequence[Completion]) -> int:
    return len({said(completion) for completion in found})


def _drift(found: Sequence[Completion]) -> float | None:
    drifts = (logprob_drift(found[0], other) for other in found[1:])
    return max((drift for drift in drifts if drift is not None), default=None)
