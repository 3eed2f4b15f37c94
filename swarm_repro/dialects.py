"""Where the APIs of model servers say what: text, token counts, errors, and what is volatile.

OpenAI chat, completions and responses, llama-server's own ``/completion``, Anthropic messages, and
Ollama. Everything here reads decoded JSON and tolerates what it does not know.

Source: the APIs' references; llama.cpp ``tools/server/README.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

#: Ids, dates, timings, durations, the fingerprint and the echoed model name.
_VOLATILE = frozenset(
    {
        *("id", "created", "timings", "system_fingerprint", "model", "id_slot"),
        *("created_at", "completed_at", "item_id", "response_id", "request_id"),
        *("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"),
    }
)
#: Parts of a document that are documents of their own, with ids and dates.
_INNER = ("__verbose", "response", "item", "part")
_INNER_LISTS = ("output",)
#: Event types of OpenAI's responses that hold a piece of text; others repeat it whole.
_TEXT_DELTAS = frozenset({"response.output_text.delta", "response.refusal.delta"})


def documents_of_events(body: bytes) -> Iterator[bytes]:
    """The JSON in a stream of server-sent events, without the closing ``[DONE]``."""
    for event in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"\n".join(
            line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")
        )
        if data and data.strip() != b"[DONE]":
            yield data


def is_whole_stream(body: bytes, documents: list[object]) -> bool:
    """Whether a stream came to the end that its API marks.

    Args:
        body: All bytes that came.
        documents: The JSON in them.
    """
    if body.rstrip().endswith(b"data: [DONE]"):
        return True
    last = documents[-1] if documents else None
    if not isinstance(last, dict):
        return False
    kind = last.get("type")
    return (
        last.get("done") is True
        or last.get("stop") is True
        or kind == "message_stop"
        or kind in ("response.completed", "response.incomplete", "response.failed")
    )


def has_error(document: object) -> bool:
    """Whether a document reports an error instead of an answer."""
    if not isinstance(document, dict):
        return False
    return bool(document.get("error")) or document.get("type") in ("error", "response.failed")


def said(documents: Iterable[object]) -> str:
    """What the model said: a message, a completion, or the joined deltas of a stream."""
    return "".join(
        text for document in documents if isinstance(document, dict) for text in _texts(document)
    )


def _texts(document: Mapping[str, object]) -> Iterator[str]:
    kind = document.get("type")
    if isinstance(kind, str) and kind.startswith("response."):
        if kind in _TEXT_DELTAS and isinstance(document.get("delta"), str):
            yield str(document["delta"])
        return
    content = document.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from _pieces(content)
    for choice in _list(document.get("choices")):
        yield _said_in_choice(choice)
    for item in _list(document.get("output")):
        if isinstance(item, dict):
            yield from _pieces(item.get("content"))
    if kind == "content_block_delta":
        yield _text_of(document.get("delta"))
    message = document.get("message")
    if "choices" not in document and isinstance(message, dict) and kind is None:
        yield from (c for c in [message.get("content")] if isinstance(c, str))
    if "done" in document and isinstance(document.get("response"), str):
        yield str(document["response"])


def _said_in_choice(choice: object) -> str:
    """The text of a choice, of its message or of its delta; servers differ in their forms."""
    if not isinstance(choice, dict):
        return ""
    message = choice.get("message") or choice.get("delta")
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        return "".join(_pieces(content))
    text = content or choice.get("text")
    return text if isinstance(text, str) else ""


def _pieces(content: object) -> Iterator[str]:
    return (_text_of(piece) for piece in _list(content))


def _text_of(piece: object) -> str:
    text = piece.get("text") if isinstance(piece, dict) else None
    return text if isinstance(text, str) else ""


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def token_counts(document: object) -> dict[str, int | None] | None:
    """Token counts of a document, or None where it has none.

    Returns:
        ``prompt``, ``completion``, ``total`` and ``cached``, each None where it is not said.
    """
    if not isinstance(document, dict):
        return None
    response = document.get("response")
    usage = document.get("usage")
    if not isinstance(usage, dict) and isinstance(response, dict):
        usage = response.get("usage")
    if isinstance(usage, dict):
        return _counts_of_usage(usage, document)
    if "tokens_predicted" in document:
        return _counts(
            _count(document, "tokens_evaluated"),
            _count(document, "tokens_predicted"),
            cached=_count(document.get("timings"), "cache_n"),
        )
    if document.get("done") is True and "eval_count" in document:
        return _counts(_count(document, "prompt_eval_count"), _count(document, "eval_count"))
    return None


def _counts_of_usage(
    usage: Mapping[str, object], document: Mapping[str, object]
) -> dict[str, int | None]:
    if "output_tokens" in usage or "input_tokens" in usage:
        details = usage.get("input_tokens_details")
        cached = _count(details, "cached_tokens")
        if cached is None:
            cached = _count(usage, "cache_read_input_tokens")
        return _counts(_count(usage, "input_tokens"), _count(usage, "output_tokens"), cached=cached)
    details = usage.get("prompt_tokens_details")
    return {
        "prompt": _count(usage, "prompt_tokens"),
        "completion": _count(usage, "completion_tokens"),
        "total": _count(usage, "total_tokens"),
        "cached": (
            _count(details, "cached_tokens")
            if isinstance(details, dict)
            else _count(document.get("timings"), "cache_n")
        ),
    }


def _counts(
    prompt: int | None, completion: int | None, *, cached: int | None = None
) -> dict[str, int | None]:
    total = None if prompt is None or completion is None else prompt + completion
    return {"prompt": prompt, "completion": completion, "total": total, "cached": cached}


def _count(container: object, name: str) -> int | None:
    value = container.get(name) if isinstance(container, Mapping) else None
    return value if isinstance(value, int) else None


def stable_document(value: object) -> object:
    """A document without volatile members, and without the ids of its tool calls.

    Volatile are ids, dates, timings, durations, the fingerprint and the echoed model name.
    """
    if not isinstance(value, dict):
        return value
    kept = {name: member for name, member in value.items() if name not in _VOLATILE}
    for name in _INNER:
        if isinstance(kept.get(name), dict):
            kept[name] = stable_document(kept[name])
    for name in _INNER_LISTS:
        if isinstance(kept.get(name), list):
            kept[name] = [stable_document(item) for item in kept[name]]
    if isinstance(kept.get("message"), dict) and "choices" not in kept:
        kept["message"] = stable_document(kept["message"])
    if isinstance(kept.get("choices"), list):
        kept["choices"] = [_stable_choice(choice) for choice in kept["choices"]]
    return kept


def _stable_choice(choice: object) -> object:
    if not isinstance(choice, dict):
        return choice
    kept = dict(choice)
    for part in ("message", "delta"):
        message = kept.get(part)
        if isinstance(message, dict) and isinstance(message.get("tool_calls"), list):
            kept[part] = {
                **message,
                "tool_calls": [
                    {k: v for k, v in call.items() if k != "id"} if isinstance(call, dict) else call
                    for call in message["tool_calls"]
                ],
            }
    return kept
