"""Credentials in a cassette that was recorded before they were masked."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import cast

from swarm_repro.cassette.lines import encode_response, intern
from swarm_repro.cassette.reader import Cassette, reading
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.masking import Masker
from swarm_repro.request import Request


def redact(cassette: Cassette) -> tuple[Cassette, dict[CallId, Counter[str]]]:
    """The same recording with its credentials masked.

    Args:
        cassette: The recording; it is left as it is.

    Returns:
        The cassette, whose keys are the recorded ones, and how many credentials of each kind were
        masked, by call.

    Raises:
        CassetteDamagedError: An answer is not the recorded one.
    """
    masker = Masker()
    calls: dict[CallId, CallRecord] = {}
    found: dict[CallId, Counter[str]] = {}
    for call_id, call in cassette.calls.items():
        with reading(cassette.path, call):
            masked, kinds = _masked(call, cassette, masker)
        if kinds:
            found[call_id] = kinds
        calls[call_id] = masked if kinds else call
    texts = {digest: text for call in calls.values() for digest, text in call.texts.items()}
    return replace(cassette, calls=calls, texts=texts if found else cassette.texts), found


def _masked(
    call: CallRecord, cassette: Cassette, masker: Masker
) -> tuple[CallRecord, Counter[str]]:
    asked = Request(call.endpoint, cassette.models[call.model], call.path, call.body, call.kind)
    request, in_request = masker.request(asked)
    answer, in_answer = masker.completion(call.decode_completion())
    kinds = {
        "request": sorted({*call.masked.get("request", ()), *in_request}),
        "response": sorted({*call.masked.get("response", ()), *in_answer}),
    }
    texts: dict[str, str] = {}
    masked = replace(
        call,
        path=request.path,
        stored_body=cast("dict[str, object]", intern(dict(request.body), texts)),
        stored_response=encode_response(answer, texts),
        texts=texts,
        masked={where: names for where, names in kinds.items() if names},
    )
    return masked, in_request + in_answer
