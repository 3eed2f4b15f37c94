"""The group that a call's live answers put it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from swarm_repro.cassette.records import CallRecord
from swarm_repro.compare.beside import beside_text, describe_beside
from swarm_repro.compare.parting import NOISE_CEILING, Parting, part, part_beside
from swarm_repro.compare.verify_report import CallVerdict, Group
from swarm_repro.completion import Completion, same_but_volatile
from swarm_repro.request import Request

#: How many likely tokens of each place a live backend is asked for; as many as OpenAI's API allows.
_TOP = 20


@dataclass(frozen=True)
class _Difference:
    """How one answer differs from the recorded one."""

    group: Group
    parting: Parting | None
    why: str | None
    answer: Completion


def judge_call(
    record: CallRecord,
    recorded: Completion,
    answers: Sequence[Completion],
    *,
    number: int,
    sampling: Mapping[str, object],
    prompt_differs: bool,
    failure: str | None,
    ask_for_logprobs: Callable[[], Completion | str | None],
) -> CallVerdict:
    """Compare a call's live answers with the recorded one.

    Args:
        record: The call.
        recorded: Its recorded answer.
        answers: What came when it was asked again.
        number: Its number in the cassette.
        sampling: Its effective sampling fields.
        prompt_differs: Whether the backend renders another prompt.
        failure: Why an answer did not come, or None.
        ask_for_logprobs: Asks the call once more with logprobs; gives the answer, why there is
            none, or None where the backend has no such thing.
    """
    differing = [answer for answer in answers if not same_but_volatile(recorded, answer)]
    distinct = {answer.stable_sha256: answer for answer in answers}
    group: Group = "same"
    parting: Parting | None = None
    why: str | None = failure
    if failure is not None:
        group = "failed"
    elif prompt_differs:
        group, why = "prompt", "the backend renders another prompt from the same messages"
    if differing and failure is None:
        others = dict.fromkeys(answer.stable_sha256 for answer in differing)
        worst = _worst(
            recorded, [distinct[sha256] for sha256 in others], sampling, ask_for_logprobs
        )
        parting = worst.parting
        if group == "same":
            group, why = worst.group, worst.why
    return CallVerdict(
        number=number,
        scope=record.scope,
        i=record.i,
        n=record.n,
        at=record.at,
        kind=record.kind,
        group=group,
        differing=len(differing),
        of=len(answers),
        distinct=len(distinct),
        parting=parting,
        why=why,
        recorded_text=recorded.text,
        live_text=differing[0].text if differing else None,
    )


def logprob_request(request: Request) -> Request | None:
    """The same call with logprobs, which change no token; None where they cannot be asked for.

    In process they need a model that was loaded for them.
    """
    if request.binding.backend != "llama-server":
        return None
    if request.endpoint == "chat":
        fields: dict[str, object] = {"logprobs": True, "top_logprobs": _TOP}
    elif request.endpoint == "completion":
        fields = {"logprobs" if request.path.startswith("/v1/") else "n_probs": _TOP}
    else:
        return None
    # A stream leaves out the token that ends the text.
    body = {k: v for k, v in request.body.items() if k not in ("stream", "stream_options")}
    return Request(request.endpoint, request.binding, request.path, {**body, **fields})


def _worst(
    recorded: Completion,
    others: Sequence[Completion],
    sampling: Mapping[str, object],
    ask_for_logprobs: Callable[[], Completion | str | None],
) -> _Difference:
    """The first answer that noise does not explain, or the first."""
    found = [_compare(recorded, other, sampling) for other in others]
    if any(one.parting is not None and not one.parting.b_candidates for one in found):
        witness = ask_for_logprobs()
        found = [_with_logprobs(recorded, one, witness) for one in found]
    return next((one for one in found if one.group == "change"), found[0])


def _compare(
    recorded: Completion, other: Completion, sampling: Mapping[str, object]
) -> _Difference:
    parting = part(recorded, other)
    if parting is None:
        group, why = _beside_text(recorded, other)
        return _Difference(group, None, why, other)
    return _Difference(_group(parting), parting, _drawn(sampling), other)


def _with_logprobs(
    recorded: Completion, found: _Difference, witness: Completion | str | None
) -> _Difference:
    if found.parting is None or found.parting.b_candidates or witness is None:
        return found
    if isinstance(witness, str):
        why = f"{found.why}; {witness}" if found.why else witness
        return _Difference(found.group, found.parting, why, found.answer)
    parting = part_beside(recorded, found.answer, witness) or found.parting
    return _Difference(_group(parting), parting, found.why, found.answer)


def _group(parting: Parting) -> Group:
    return "near_tie" if parting.near_tie else "change"


def _drawn(sampling: Mapping[str, object]) -> str | None:
    """A caution for tokens that were drawn: the margin says all only where the best is taken."""
    temperature = sampling.get("temperature", 1.0)
    if temperature == 0 or sampling.get("top_k") == 1 or not isinstance(temperature, float):
        return None
    return (
        f"drawn at temperature {temperature:g}: where the draw falls on the edge between two "
        "tokens, noise can swap them at any margin"
    )


def _beside_text(recorded: Completion, other: Completion) -> tuple[Group, str]:
    """What differs in answers with the same tokens or text."""
    found = beside_text(recorded, other)
    is_noise = isinstance(found, float) and 2 * found <= NOISE_CEILING
    why = describe_beside(found, sides=("recorded", "now"))
    return "near_tie" if is_noise else "change", why
