"""Asking a live backend a cassette's calls again, each on its own, and grouping the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from swarm_repro.backends.base import Backend
from swarm_repro.canonical import text_sha256
from swarm_repro.cassette.records import CallRecord
from swarm_repro.cassette.store import CassetteStore
from swarm_repro.compare.environments import Changed, environment_changes, shown
from swarm_repro.compare.verify_judge import judge_call, logprob_request
from swarm_repro.compare.verify_report import CallVerdict, VerifyReport
from swarm_repro.completion import Completion, require_completion, same_but_volatile
from swarm_repro.difference import differences
from swarm_repro.environment import Environment
from swarm_repro.errors import (
    BackendError,
    CassetteAccessError,
    ModelConflictError,
    RequestError,
    StrictModeError,
    UsageError,
)
from swarm_repro.masking import Masker
from swarm_repro.model import ModelBinding
from swarm_repro.request import Request

#: Finds the backend of a recorded model, given the environment its calls were recorded in.
BackendFor = Callable[[ModelBinding, Environment], Backend]


@dataclass(frozen=True)
class VerifyOptions:
    """How to verify.

    Attributes:
        repeat: How often to ask each call.
        shuffle: Seed of the order of the calls, another one each round; None keeps the file's.
        calls: Numbers of the calls to ask; none means all.
        witness: Note the live environment as a witness of the calls it answers alike.
        any_model: Ask a backend that has another model, too.
    """

    repeat: int = 1
    shuffle: int | None = None
    calls: tuple[int, ...] = ()
    witness: bool = False
    any_model: bool = False


@dataclass(frozen=True)
class _Target:
    """Where the calls of one recorded model go.

    Attributes:
        backend: The backend.
        recorded: The recorded model.
        recorded_in: The recorded environment.
        binding: The model that answers now.
        environment: Where it answers.
    """

    backend: Backend
    recorded: ModelBinding
    recorded_in: Environment
    binding: ModelBinding
    environment: Environment

    @property
    def is_same_model(self) -> bool:
        """Whether the recorded weights answer."""
        return (
            self.recorded.backend == self.binding.backend
            and self.recorded.encoded_identity == self.binding.encoded_identity
        )


@dataclass
class _Asked:
    """A recorded call, and what came of asking it again."""

    number: int
    record: CallRecord
    recorded: Completion
    request: Request
    target: _Target
    answers: list[Completion] = field(default_factory=list)
    prompt_differs: bool = False
    failure: str | None = None

    @property
    def is_same(self) -> bool:
        return (
            self.failure is None
            and not self.prompt_differs
            and all(same_but_volatile(self.recorded, answer) for answer in self.answers)
        )


def verify_cassette(
    store: CassetteStore,
    backend_for: BackendFor,
    *,
    options: VerifyOptions = VerifyOptions(),
    on_answer: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Ask a live backend the calls of a cassette again.

    Args:
        store: The cassette.
        backend_for: Finds the backend of a recorded model.
        options: How to verify.
        on_answer: Called after each answer with the number of those that came and of all.

    Raises:
        UsageError: No such call, or none at all.
        CassetteDamagedError: A recorded answer is damaged; nothing was asked.
        ModelConflictError: A backend has another model than the recorded.
        BackendError: A backend cannot be reached, or cannot keep what strict mode promises. A call
            that fails later is in the report, and so is a witness that could not be written.
    """
    chosen = _choose(store, options)
    recorded = {number: store.completion_of(call) for number, call in chosen.items()}
    bodies = {number: store.body_of(call) for number, call in chosen.items()}
    targets = _targets(store, backend_for, chosen.values(), any_model=options.any_model)
    asked = [
        _Asked(
            number=number,
            record=call,
            recorded=recorded[number],
            request=Request(
                endpoint=call.endpoint,
                binding=targets[call.model, call.env].binding,
                path=call.path,
                body=bodies[number],
                kind=call.kind,
            ),
            target=targets[call.model, call.env],
        )
        for number, call in chosen.items()
    ]
    total = options.repeat * len(asked)
    for round_number in range(options.repeat):
        for place, call in enumerate(_in_order(asked, options, round_number)):
            if call.failure is None:
                _ask(call, strict=store.header.strict, first=round_number == 0)
            if on_answer is not None:
                on_answer(round_number * len(asked) + place + 1, total)
    verdicts = tuple(_judge(call) for call in asked)
    witness, note, failed = None, None, False
    if options.witness:
        try:
            witness, note = _note_witness(store, asked)
        except CassetteAccessError as error:
            # What was asked for so long is not lost: the report says it, and so does its exit code.
            note, failed = f"no witness was written: {error}", True
    return VerifyReport(
        cassette=store.path.name,
        repeat=options.repeat,
        order="recorded" if options.shuffle is None else "shuffled",
        environment=_changes(targets.values()),
        calls=verdicts,
        other_model=not all(target.is_same_model for target in targets.values()),
        witness=witness,
        witness_note=note,
        witness_failed=failed,
    )


def _choose(store: CassetteStore, options: VerifyOptions) -> dict[int, CallRecord]:
    calls = list(store.calls().values())
    if not calls:
        raise UsageError(f"{store.path} holds no calls to verify")
    for number in options.calls:
        if not 0 <= number < len(calls):
            raise UsageError(
                f"{store.path} has no call {number}; it has {len(calls)}, numbered from 0"
            )
        why = why_not_asked(calls[number])
        if why is not None:
            raise UsageError(
                f"call {number} of {store.path} {why}: only the program that made it can ask it "
                "again, in mode verify"
            )
    asked = [number for number, call in enumerate(calls) if why_not_asked(call) is None]
    if not asked:
        raise UsageError(
            f"of {store.path} no call can be asked again, the first {why_not_asked(calls[0])}: "
            "run the program that made them in mode verify"
        )
    return {number: calls[number] for number in sorted({*options.calls} or asked)}


def why_not_asked(call: CallRecord) -> str | None:
    """Why what is recorded of a request is not enough to send it again."""
    if call.endpoint == "opaque":
        return f"was kept as it was for {call.model}"
    if "request" in call.masked:
        return f"was sent with a credential ({', '.join(call.masked['request'])})"
    return None


def _targets(
    store: CassetteStore,
    backend_for: BackendFor,
    calls: Iterable[CallRecord],
    *,
    any_model: bool,
) -> dict[tuple[str, str], _Target]:
    """Where each recorded model's calls go, by its name and the environment it was recorded in."""
    base = store.base
    if base is None:
        raise RuntimeError("only a finished cassette can be verified")
    targets: dict[tuple[str, str], _Target] = {}
    for call in calls:
        if (call.model, call.env) in targets:
            continue
        recorded, recorded_in = base.models[call.model], base.envs[call.env]
        backend = backend_for(recorded, recorded_in)
        if store.header.strict:
            backend.check_strict()
        bound = backend.identify(call.model)
        if bound.environment is None:
            raise RuntimeError("a live backend has an environment")
        target = _Target(backend, recorded, recorded_in, bound.binding, bound.environment)
        if not target.is_same_model and not any_model:
            raise ModelConflictError(
                f"{store.path.name} was recorded with {_name(recorded)}, and the backend has "
                f"{_name(bound.binding)}; give it the recorded model, or compare anyway with "
                "--any-model"
            )
        targets[call.model, call.env] = target
    return targets


def _in_order(
    asked: Sequence[_Asked], options: VerifyOptions, round_number: int
) -> Sequence[_Asked]:
    """The calls in the order of one round."""
    if options.shuffle is None:
        return asked
    return sorted(
        asked, key=lambda call: text_sha256(f"{options.shuffle}:{round_number}:{call.number}")
    )


def _ask(call: _Asked, *, strict: bool, first: bool) -> None:
    """Ask once; what fails is noted, so that the others are still asked."""
    backend = call.target.backend
    try:
        rendered = backend.render(call.request) if first else None
        answer = backend.send(call.request)
        require_completion(answer, url=call.request.path)
        if strict and answer.usage.cached:
            raise StrictModeError(
                f"the backend reused {answer.usage.cached} cached prompt tokens, which strict "
                "mode rules out: start it with --profile cpu-strict"
            )
        digest = rendered() if rendered is not None else None
    except (BackendError, RequestError) as error:
        call.failure = str(error)
        return
    if "response" in call.record.masked:
        answer, _ = Masker().completion(answer)  # a mark is compared with a mark
    call.answers.append(answer)
    if digest is not None and call.record.prompt_sha256 is not None:
        call.prompt_differs = digest != call.record.prompt_sha256


def _judge(call: _Asked) -> CallVerdict:
    request = None if call.is_same or call.failure else logprob_request(call.request)

    def ask_for_logprobs() -> Completion | str | None:
        if request is None:
            return None
        try:
            answer = call.target.backend.send(request)
            require_completion(answer, url=request.path)
        except (BackendError, RequestError) as error:
            return f"asked for logprobs the backend failed: {error}"
        return answer

    return judge_call(
        call.record,
        call.recorded,
        call.answers,
        number=call.number,
        sampling=call.request.sampling,
        prompt_differs=call.prompt_differs,
        failure=call.failure,
        ask_for_logprobs=ask_for_logprobs,
    )


def _note_witness(store: CassetteStore, asked: Sequence[_Asked]) -> tuple[str | None, str]:
    """Write down which calls another environment answered as recorded, each time."""
    elsewhere = [
        call
        for call in asked
        if call.target.is_same_model and call.target.environment.sha256 != call.record.env
    ]
    if not elsewhere:
        return None, (
            "nothing to witness: the calls were recorded in this very environment, "
            "or with another model"
        )
    by_environment: dict[str, list[_Asked]] = {}
    for call in elsewhere:
        if call.is_same:
            by_environment.setdefault(call.target.environment.sha256, []).append(call)
    if not by_environment:
        return None, "nothing to witness: no call gave the recorded answer each time"
    for calls in by_environment.values():
        store.add_witness(calls[0].target.environment, [call.record.id for call in calls])
    count = sum(map(len, by_environment.values()))
    return ", ".join(by_environment), (
        f"{store.path.name}: this environment is now a witness of {count} of {len(asked)} calls"
    )


def _changes(targets: Iterable[_Target]) -> tuple[Changed, ...]:
    """What is otherwise than in the recording, each once."""
    found: dict[Changed, None] = {}
    for target in targets:
        then, now = target.recorded, target.binding
        if not target.is_same_model:
            found[Changed(f"model {then.name}", _name(then), _name(now))] = None
        if then.template != now.template:
            found[
                Changed(f"chat template of {then.name}", shown(then.template), shown(now.template))
            ] = None
        for difference in differences(then.defaults, now.defaults, field="sampling defaults"):
            found[Changed(difference.field, difference.recorded, difference.asked)] = None
        for changed in environment_changes(target.recorded_in, target.environment):
            found[changed] = None
    return tuple(found)


def _name(binding: ModelBinding) -> str:
    """A model with its whole digests, which a message about two of them needs."""
    files = binding.identity.content.get("files")
    if binding.identity.kind == "gguf" and isinstance(files, (list, tuple)) and files:
        more = sorted(binding.identity.content.keys() - {"files"})
        beside = f" with {', '.join(more)}" if more else ""
        return f"gguf {' '.join(map(str, files))}{beside} on {binding.backend}"
    return f"{binding.identity.label} on {binding.backend}"
