"""One call as Inspect's values: messages, tools, generation config, output.

Everything here is data that others wrote: what Inspect's types cannot hold goes where they take
anything (``extra_body``, ``metadata``), and is never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    Content,
    ContentImage,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelOutput,
    ModelUsage,
    StopReason,
    TopLogprob,
)
from inspect_ai.tool import ToolCall, ToolChoice, ToolFunction, ToolInfo, ToolParams
from pydantic import ValidationError

from swarm_repro.canonical import encode_json, sha256_hex
from swarm_repro.cassette.records import CallRecord
from swarm_repro.export.replies import Reply, RequestedTool, replies

#: Request fields by the name that Inspect's GenerateConfig has for them.
_CONFIG = {
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "n": "num_choices",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "parallel_tool_calls": "parallel_tool_calls",
    "stop": "stop_seqs",
}
#: Shown elsewhere in the event.
_NOT_CONFIG = frozenset({"model", "messages", "prompt", "input", "tools", "tool_choice"})
_WHOLE = frozenset({"max_tokens", "top_k", "seed", "num_choices", "top_logprobs"})
_FLAGS = frozenset({"logprobs", "parallel_tool_calls"})
_STOPPED: dict[str, StopReason] = {
    "stop": "stop",
    "eos": "stop",
    "word": "stop",
    "length": "max_tokens",
    "limit": "max_tokens",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def stable_id(*parts: object) -> str:
    """An id that the same content gets again, of the length of Inspect's own."""
    return sha256_hex(encode_json(list(parts)))[:22]


def messages_of(body: Mapping[str, object]) -> list[ChatMessage]:
    """The input of a call: its messages, or its prompt as one message of the user."""
    messages = body.get("messages")
    if isinstance(messages, list):
        return [_message(message) for message in messages]
    for name in ("prompt", "input", "content"):
        if name in body:
            value = body[name]
            text = value if isinstance(value, str) else encode_json(value).decode()
            return [ChatMessageUser(id=stable_id(name, text), content=text, source="input")]
    return []


def _message(message: object) -> ChatMessage:
    known = message if isinstance(message, Mapping) else {}
    role = known.get("role")
    fields: dict[str, object] = {
        "id": stable_id(message),
        "content": _content(known.get("content") if known else message),
    }
    more = {k: v for k, v in known.items() if k not in {"role", "content"}}
    if role == "assistant":
        calls = more.pop("tool_calls", None)
        fields["tool_calls"] = _sent_tool_calls(calls) if isinstance(calls, list) else None
        return ChatMessageAssistant.model_validate({**fields, "metadata": more or None})
    if role == "tool":
        asked = more.pop("tool_call_id", None)
        fields["tool_call_id"] = asked if isinstance(asked, str) else None
        fields["function"] = known["name"] if isinstance(known.get("name"), str) else None
        return ChatMessageTool.model_validate({**fields, "metadata": more or None})
    if role in ("system", "developer"):
        return ChatMessageSystem.model_validate({**fields, "metadata": more or None})
    if role != "user":
        more["role"] = role
    return ChatMessageUser.model_validate({**fields, "metadata": more or None})


def _content(value: object) -> str | list[Content]:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return encode_json(value).decode()
    return [_content_part(part) for part in value]


def _content_part(part: object) -> Content:
    if isinstance(part, Mapping):
        if isinstance(part.get("text"), str):
            return ContentText(text=part["text"])
        image = part.get("image_url")
        if isinstance(image, Mapping) and isinstance(image.get("url"), str):
            return ContentImage(image=image["url"])
    return ContentText(text=part if isinstance(part, str) else encode_json(part).decode())


def _sent_tool_calls(calls: Sequence[object]) -> list[ToolCall]:
    found = []
    for place, call in enumerate(calls):
        known = call if isinstance(call, Mapping) else {}
        function = known.get("function")
        function = function if isinstance(function, Mapping) else {}
        arguments = function.get("arguments", "")
        text = arguments if isinstance(arguments, str) else encode_json(arguments).decode()
        name = str(function.get("name", ""))
        found.append(_tool_call(RequestedTool(str(known.get("id") or ""), name, text), place))
    return found


def _tool_call(requested: RequestedTool, place: int) -> ToolCall:
    try:
        arguments = orjson.loads(requested.arguments or "{}")
        error = None if isinstance(arguments, dict) else "the arguments are not an object"
    except orjson.JSONDecodeError as problem:
        arguments, error = None, f"the arguments are not JSON: {problem}"
    return ToolCall(
        id=requested.id or f"call-{place}",
        function=requested.name,
        arguments={"arguments": requested.arguments} if error else arguments,
        parse_error=error,
    )


def tools_of(body: Mapping[str, object]) -> list[ToolInfo]:
    """The tools offered to the model; a schema Inspect cannot model stays under ``options``."""
    tools = body.get("tools")
    found = []
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, Mapping) else None
        function = function if isinstance(function, Mapping) else {}
        parameters, options = ToolParams(), None
        try:
            parameters = ToolParams.model_validate(function.get("parameters") or {})
        except ValidationError:
            options = {"parameters": function.get("parameters")}
        found.append(
            ToolInfo(
                name=str(function.get("name", "")),
                description=str(function.get("description", "")),
                parameters=parameters,
                options=options,
            )
        )
    return found


def tool_choice_of(body: Mapping[str, object]) -> ToolChoice:
    """What the request said about tools; llama-server's default is ``auto``."""
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping) and isinstance(choice.get("function"), Mapping):
        return ToolFunction(name=str(choice["function"].get("name", "")))
    if choice == "none" or not body.get("tools"):
        return "none"
    return "any" if choice == "required" else "auto"


def config_of(body: Mapping[str, object]) -> GenerateConfig:
    """The request's other fields, as they were sent.

    Schemas, grammars, samplers that Inspect does not know and values of an unexpected type are
    under ``extra_body``.
    """
    known: dict[str, object] = {}
    more: dict[str, object] = {}
    for name, value in body.items():
        if name in _NOT_CONFIG or value is None:
            continue
        ours = _CONFIG.get(name)
        if ours == "stop_seqs" and isinstance(value, str):
            value = [value]
        if ours is None or ours in known or not _fits(ours, value):
            more[name] = value
        else:
            known[ours] = value
    return GenerateConfig.model_validate({**known, "extra_body": more or None})


def _fits(name: str, value: object) -> bool:
    if name == "stop_seqs":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if name in _FLAGS:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    return isinstance(value, int if name in _WHOLE else (int, float))


def usage_of(call: CallRecord) -> ModelUsage:
    """Token counts; what the backend did not say counts as 0.

    Inspect counts the prompt tokens that came from a cache beside the others, not among them.
    """
    prompt = call.tokens.get("prompt") or 0
    cached = call.tokens.get("cached")
    completion = call.tokens.get("completion") or 0
    return ModelUsage(
        input_tokens=prompt - (cached or 0),
        output_tokens=completion,
        total_tokens=call.tokens.get("total") or prompt + completion,
        input_tokens_cache_read=cached,
    )


def output_of(call: CallRecord, *, model: str) -> ModelOutput:
    """The completion as Inspect's output.

    Args:
        call: The call.
        model: The model's name in this log.
    """
    return ModelOutput(
        model=model,
        choices=[
            _choice(reply, identity=[call.scope, call.i, call.sent, call.n, index], model=model)
            for index, reply in enumerate(replies(call.completion))
        ],
        usage=usage_of(call),
        time=call.duration_s,
    )


def _choice(reply: Reply, *, identity: Sequence[object], model: str) -> ChatCompletionChoice:
    content: str | list[Content] = reply.text
    if reply.reasoning:
        content = [ContentReasoning(reasoning=reply.reasoning), ContentText(text=reply.text)]
    return ChatCompletionChoice(
        message=ChatMessageAssistant(
            id=stable_id("reply", *identity),
            content=content,
            source="generate",
            model=model,
            tool_calls=[_tool_call(call, place) for place, call in enumerate(reply.tool_calls)]
            or None,
        ),
        stop_reason=_STOPPED.get(reply.finish or "", "unknown"),
        logprobs=_logprobs(reply),
    )


def _logprobs(reply: Reply) -> Logprobs | None:
    if not reply.logprobs:
        return None
    return Logprobs(
        content=[
            Logprob(
                token=token.token,
                logprob=token.logprob,
                top_logprobs=[TopLogprob(token=name, logprob=value) for name, value in token.top]
                or None,
            )
            for token in reply.logprobs
        ]
    )
