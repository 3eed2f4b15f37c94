"""What becomes of a model's answer: masked, written or compared, and kept for other recordings."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Literal, TypeAlias

from swarm_repro.bindings import Bindings
from swarm_repro.cache import AnswerCache
from swarm_repro.cassette.records import CallRecord
from swarm_repro.cassette.store import CassetteStore, Staged
from swarm_repro.completion import Completion, same_but_volatile
from swarm_repro.difference import differences
from swarm_repro.inflight import Answered
from swarm_repro.ledger import Ledger, PendingCall, Verified
from swarm_repro.masking import Masker, Redact
from swarm_repro.mode import Mode
from swarm_repro.request import SAMPLED

#: Where an answer came from: the model, an identical call in flight, or the machine-wide cache.
Source: TypeAlias = Literal["model", "another", "cache"]


class Answers:
    """The answers of one session."""

    def __init__(
        self,
        *,
        mode: Mode,
        store: CassetteStore | None,
        bindings: Bindings,
        ledger: Ledger,
        redact: Redact | None,
        cache: AnswerCache | None,
        fresh: bool,
    ) -> None:
        """Begin.

        Args:
            mode: What the session does with calls.
            store: The cassette; None only in mode ``live``.
            bindings: The models that were asked.
            ledger: What happens is noted here.
            redact: The user's own redaction of what is stored, before the public rules.
            cache: The machine-wide cache, where this session may use it.
            fresh: Take nothing from the cache.
        """
        self._mode = mode
        self._store = store
        self._bindings = bindings
        self._ledger = ledger
        self._masker = Masker(redact)
        self._cache = cache
        self._is_fresh = fresh

    def masked(self, answered: Answered) -> tuple[Answered, Counter[str]]:
        """An answer as it is stored, which the program gets too: a replay will give it no other.

        Returns:
            The answer, and the kinds of the credentials that were masked in it.
        """
        if self._mode is Mode.LIVE:
            return answered, Counter()
        completion, found = self._masker.completion(answered.completion)
        return replace(answered, completion=completion), found

    def stage(
        self, call: PendingCall, answered: Answered, in_answer: Counter[str], *, source: Source
    ) -> Staged:
        """Write a call; it is kept once it is on the disk.

        Args:
            call: The call.
            answered: Its answer, masked.
            in_answer: Kinds of the credentials that were masked in it.
            source: Where it came from.

        Raises:
            CassetteAccessError: It could not be written.
        """
        binding = call.sent.binding
        environment = self._bindings.environment_of(binding)
        stored, in_request = self._masker.request(call.sent)
        self._ledger.masked.update(in_request + in_answer)
        kinds = {"request": sorted(in_request), "response": sorted(in_answer)}
        return self._require_store().stage(
            CallRecord.make(
                request=stored,
                completion=answered.completion,
                scope=call.caller.scope,
                i=call.i,
                n=call.n,
                at=call.at,
                asked=call.asked,
                sent=call.sent_key,
                asked_seed=call.request.seed,
                env=environment.sha256,
                prompt_sha256=answered.prompt_sha256,
                shared=source == "another",
                from_cache=source == "cache",
                masked={where: found for where, found in kinds.items() if found},
            ),
            binding,
            environment,
        )

    def secure(
        self, call: PendingCall, answered: Answered, staged: Staged, *, source: Source
    ) -> None:
        """Wait until a call is on the disk, and keep its answer for other recordings.

        Not under the session's lock: who waits at once waits once.

        Raises:
            CassetteAccessError: The disk is failing.
        """
        staged.wait()
        cache = self._cache_for(call)
        if cache is not None and source == "model" and not staged.call.masked:
            cache.put(
                call.sent_key,
                staged.environment.sha256,
                answered.completion,
                answered.prompt_sha256,
            )

    def may_be_cached(self, call: PendingCall) -> bool:
        """Whether another recording can have left the answer to a call."""
        return call.answer is None and not self._is_fresh and self._cache_for(call) is not None

    def cached(self, call: PendingCall) -> Answered | None:
        """What another recording has left in the machine-wide cache."""
        cache = self._cache_for(call)
        if cache is None or not self.may_be_cached(call):
            return None
        environment = self._bindings.environment_of(call.request.binding)
        found = cache.get(call.sent_key, environment.sha256)
        return None if found is None else Answered(*found)

    def _cache_for(self, call: PendingCall) -> AnswerCache | None:
        """The cache, where seed and weights are known: else an answer says nothing to others."""
        request = call.request
        is_known = (
            call.seed is not None
            and request.endpoint in SAMPLED
            and request.binding.identity.kind == "gguf"
        )
        return self._cache if is_known else None

    def compare(self, call: PendingCall, answered: Answered) -> Completion:
        """Compare an answer with the recorded one, which the caller gets."""
        completion, prompt_sha256 = answered.completion, answered.prompt_sha256
        where = f"call {call.i} of {call.caller.scope}"
        if call.recorded is None:
            self._ledger.differences.append(f"{where}: not in the cassette")
            return completion
        recorded = self._require_store().completion_of(call.recorded)
        prompts = (call.recorded.prompt_sha256, prompt_sha256)
        prompt_differs = None not in prompts and prompts[0] != prompts[1]
        environment = self._bindings.environment_of(call.sent.binding)
        self._ledger.verified.append(
            Verified(call.sent, call.recorded, completion, prompt_differs, environment)
        )
        if prompt_differs:
            self._ledger.differences.append(f"{where}: the backend renders another prompt")
        if not same_but_volatile(recorded, completion):
            found = differences(recorded.text, completion.text, field="completion")
            shown = str(found[0]) if found else "the text is the same, other members differ"
            self._ledger.differences.append(f"{where}: {shown}")
        return recorded

    def close(self) -> None:
        """Let go of the cache, which drops what it has no room for."""
        if self._cache is not None:
            self._ledger.dropped += self._cache.trim()
            self._cache.close()

    def cache_notes(self) -> list[str]:
        """What is to be said of the cache once it is closed, a line each."""
        if self._cache is None:
            return []
        notes = [] if self._cache.trouble is None else [self._cache.trouble]
        if self._ledger.dropped:
            notes.append(
                f"the cache {self._cache.folder} was full: {self._ledger.dropped} answers that "
                "were used least recently are dropped; SWARM_REPRO_CACHE_LIMIT makes it larger"
            )
        return notes

    def _require_store(self) -> CassetteStore:
        if self._store is None:
            raise RuntimeError("a mode that keeps answers, without a cassette")
        return self._store
