"""What a completion says, choice by choice, whatever form it came in.

Chat and text completions of the OpenAI form, llama-server's own ``/completion``, answers given in
process, and streams of any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from swarm_repro.completion import Completion


@dataclass(frozen=True)
class TokenLogprob:
    """One generated token.

    Attributes:
        token: Its text.
        logprob: Natural log of its probability.
        top: The candidates at its place and their logprobs, best first.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass
class RequestedTool:
    """A tool call that the model asks for.

    Attributes:
        id: The call's id, as the backend made it up.
        name: Name of the tool.
        arguments: The arguments' JSON, as generated: it need not parse.
    """

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class Reply:
    """One choice of a completion.

    Attributes:
        text: What the model said.
        reasoning: Its reasoning, where the backend keeps that apart.
        tool_calls: Tools it asks for.
        finish: Why it ended, in the backend's word (``stop``, ``length``, ``eos``, ``limit``).
        logprobs: Generated tokens, where they were asked for.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: list[RequestedTool] = field(default_factory=list)
    finish: str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)


def replies(completion: Completion) -> list[Reply]:
    """The choices of a completion, the pieces of a stream joined.

    Raises:
        orjson.JSONDecodeError: The body is not JSON.
    """
    found: dict[int, Reply] = {}
    for document in completion.documents:
        if not isinstance(document, Mapping):
            continue
        if isinstance(document.get("content"), str):
            _add_native(found.setdefault(_index(document), Reply()), document)
        for choice in _objects(document.get("choices")):
            _add_choice(found.setdefault(_index(choice), Reply()), choice)
    return [found[index] for index in sorted(found)]


def _add_native(reply: Reply, document: Mapping[str, object]) -> None:
    """A document, or an event, of llama-server's ``/completion``."""
    reply.text += _text(document.get("content"))
    stop = document.get("stop_type")
    if isinstance(stop, str) and stop not in {"", "none"}:
        reply.finish = stop
    reply.logprobs.extend(_logprobs(document.get("completion_probabilities")))


def _add_choice(reply: Reply, choice: Mapping[str, object]) -> None:
    reply.text += _text(choice.get("text"))
    for part in ("message", "delta"):
        message = choice.get(part)
        if not isinstance(message, Mapping):
            continue
        reply.text += _text(message.get("content"))
        reply.reasoning += _text(message.get("reasoning_content"))
        for place, call in enumerate(_objects(message.get("tool_calls"))):
            _add_tool_call(reply, call, place=_index(call, place))
        if isinstance(message.get("function_call"), Mapping):
            _add_tool_call(reply, {"function": message["function_call"]}, place=0)
    finish = choice.get("finish_reason")
    if isinstance(finish, str):
        reply.finish = finish
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, Mapping):
        reply.logprobs.extend(
            _logprobs(logprobs["content"])
            if isinstance(logprobs.get("content"), list)
            else _legacy_logprobs(logprobs)
        )


def _add_tool_call(reply: Reply, call: Mapping[str, object], *, place: int) -> None:
    while len(reply.tool_calls) <= place:
        reply.tool_calls.append(RequestedTool())
    tool = reply.tool_calls[place]
    function = call.get("function")
    tool.id = tool.id or _text(call.get("id"))
    if isinstance(function, Mapping):
        tool.name += _text(function.get("name"))
        tool.arguments += _text(function.get("arguments"))


def _logprobs(tokens: object) -> Iterator[TokenLogprob]:
    """``[{token, logprob, top_logprobs: [{token, logprob}]}]``."""
    for entry in _objects(tokens):
        if isinstance(entry.get("token"), str) and _is_number(entry.get("logprob")):
            candidates = _objects(entry.get("top_logprobs"))
            yield TokenLogprob(
                token=_text(entry["token"]),
                logprob=_number(entry["logprob"]),
                top=tuple(
                    (_text(candidate.get("token")), _number(candidate.get("logprob")))
                    for candidate in candidates
                    if _is_number(candidate.get("logprob"))
                ),
            )


def _legacy_logprobs(lists: Mapping[str, object]) -> Iterator[TokenLogprob]:
    """``{tokens: […], token_logprobs: […], top_logprobs: [{token: logprob}]}``."""
    tokens, logprobs, top = (
        value if isinstance(value, list) else []
        for value in (lists.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    )
    for place, (token, logprob) in enumerate(zip(tokens, logprobs, strict=False)):
        candidates = top[place] if place < len(top) else None
        if isinstance(token, str) and _is_number(logprob):
            yield TokenLogprob(
                token=token,
                logprob=_number(logprob),
                top=tuple(
                    (str(name), _number(value))
                    for name, value in (
                        candidates.items() if isinstance(candidates, Mapping) else ()
                    )
                    if _is_number(value)
                ),
            )


def _objects(value: object) -> Iterable[Mapping[str, object]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else ()


def _index(container: Mapping[str, object], default: int = 0) -> int:
    """``index`` of a choice or tool call; a stranger's number must not make us count to it."""
    index = container.get("index")
    return index if isinstance(index, int) and 0 <= index < 1024 else default


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: object) -> float:
    assert isinstance(value, (int, float))  # noqa: S101 - callers have asked _is_number
    return float(value)
