"""Altering one answer of a recording, so that a simulation can go on live from there.

For questions of the kind "what would have followed if this agent had said that": the altered
cassette holds what came before, and ``swarm-repro run SCENARIO --auto --cassette TARGET`` replays
up to the altered call and asks the model for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import orjson

from swarm_repro.canonical import encode_json
from swarm_repro.cassette.lines import encode_response
from swarm_repro.cassette.part import part_path
from swarm_repro.cassette.reader import Cassette, read_cassette, reading
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.completion import Completion
from swarm_repro.errors import CassetteAccessError, UsageError

#: Members that tell how the model came to the words it said, which are others now.
_OF_THE_TOKENS = frozenset({"logprobs", "completion_probabilities", "tokens", "__verbose"})


def alter(source: Path, target: Path, *, call: CallId, text: str) -> None:
    """Write a cassette in which one call was answered with another text.

    It keeps the altered call and what does not follow from it: the calls of earlier steps, the
    calls that its scope made before it, and the calls of other scopes in its step. A call of its
    step that does follow from it is harmless: with the new text its request becomes another, so it
    is not found, and a clean end of the run that goes on from here drops it. Run records go, since
    no run has come to its end with this answer; so does what would be untrue of the new text: its
    logprobs, and that another environment gave the same answer. Key, token usage and duration of
    the altered call stay as they were recorded.

    Args:
        source: A finished cassette. It is only read.
        target: The cassette to write, in one step; an older file there is replaced.
        call: Which call: scope, asked key, repeat.
        text: What it says instead.

    Raises:
        UsageError: The source has no such call; or its answer is a stream, is not JSON, or is no
            single message of text.
        CassetteAccessError: The source cannot be read or the target cannot be written; they are
            one file; an interrupted recording is beside the target.
        CassetteDamagedError: The source is not what was written.
    """
    cassette = read_cassette(source)
    if target.exists() and target.samefile(source):
        raise CassetteAccessError(f"{target} would replace the recording it is made from")
    if part_path(target).exists():
        raise CassetteAccessError(
            f"{part_path(target)} holds an interrupted recording: finish or discard it first"
        )
    recorded = cassette.calls.get(call)
    if recorded is None:
        scope, asked, n = call
        raise UsageError(f"{source} has no call of {scope} with key {asked} and repeat {n}")
    altered = _answered_with(recorded, text, cassette)
    calls = {known.id: known for known in cassette.calls.values() if _stays(known, recorded)}
    calls[call] = altered
    write_cassette(
        replace(
            cassette,
            path=target,
            calls=calls,
            runs=[],
            witnesses={env: known - {call} for env, known in cassette.witnesses.items()},
        ),
        target,
    )


def _stays(call: CallRecord, altered: CallRecord) -> bool:
    """Whether a call need not follow from the altered one."""
    if call.scope == altered.scope:
        return call.i <= altered.i
    if call.at is None or altered.at is None:
        return True  # what the order of scopes was is not known
    return call.at <= altered.at


def _answered_with(call: CallRecord, text: str, cassette: Cassette) -> CallRecord:
    which = f"call {call.i} of {call.scope} in {cassette.path}"
    with reading(cassette.path, call):
        completion = call.completion
    if completion.is_stream:
        raise UsageError(f"{which} was answered with a stream, which cannot be altered")
    try:
        document = orjson.loads(completion.body)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{which} was not answered with JSON, so it cannot be altered") from error
    changed = _document_with(document, text)
    if changed is None:
        raise UsageError(f"{which} was not answered with one message of text")
    answer = Completion(
        status=completion.status,
        content_type=completion.content_type,
        body=encode_json(changed),
        duration_s=completion.duration_s,
    )
    texts = dict(call.texts)
    return replace(call, stored_response=encode_response(answer, texts), texts=texts)


def _document_with(document: object, text: str) -> dict[str, object] | None:
    """The answer with another text where it has exactly one, else None."""
    if not isinstance(document, dict):
        return None
    if isinstance(document.get("content"), str):
        return {**_without_tokens(document), "content": text}
    choices = document.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    choice = _without_tokens(choices[0])
    message = choice.get("message")
    if isinstance(message, dict) and isinstance(message.get("content"), str):
        choice = {**choice, "message": {**message, "content": text}}
    elif isinstance(choice.get("text"), str):
        choice = {**choice, "text": text}
    else:
        return None
    return {**_without_tokens(document), "choices": [choice]}


def _without_tokens(members: Mapping[str, object]) -> dict[str, object]:
    return {name: member for name, member in members.items() if name not in _OF_THE_TOKENS}
