"""The experiments.

Those *within* a setting ask the same requests again in other circumstances: one answer there makes
the setting deterministic. Those *across* compare a setting with the same one changed: they tell
what two machines must have in common to agree. The *seed* ones show what happens to a careless
caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from swarm_repro.audit.lab import Lab, in_process_reference
from swarm_repro.audit.prompts import Prompt
from swarm_repro.audit.settings import AUTO_SLOTS, Variant
from swarm_repro.completion import Completion
from swarm_repro.errors import UsageError

#: Completions by the name of the prompt; the first of each is what the others are compared with.
Answers: TypeAlias = Mapping[str, Sequence[Completion]]

Kind = Literal["within", "across", "seed"]

#: Threads that ask at a time in the experiment under load.
LOAD_THREADS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One row of the matrix.

    Attributes:
        name: What ``--experiments`` takes.
        what: One line on it.
        kind: "within", "across" or "seed"; see the module.
        run: Asks, and returns the answers.
        weight: Roughly what it will cost, in weights of prompts.
        why_not: Why it cannot be run with a setting, or None.
    """

    name: str
    what: str
    kind: Kind
    run: Callable[[Lab], Answers]
    weight: Callable[[Lab], float]
    why_not: Callable[[Lab], str | None] = lambda _lab: None


def _repeat(lab: Lab) -> Answers:
    with lab.open() as asker:
        return {
            prompt.name: [asker.ask(prompt) for _ in range(lab.bench.repeat)]
            for prompt in lab.bench.prompts
        }


def _restart(lab: Lab) -> Answers:
    return _same_sequence(lab)


def _stream(lab: Lab) -> Answers:
    return _same_sequence(lab, stream=True)


def _without_logprobs(lab: Lab) -> Answers:
    return _same_sequence(lab, logprobs=None, top_logprobs=None)


def _same_sequence(lab: Lab, **fields: object) -> Answers:
    """The reference's requests on a fresh server, with some fields set."""
    reference = lab.reference()
    with lab.open() as asker:
        return {
            prompt.name: [reference[prompt.name], asker.ask(prompt, **fields)]
            for prompt in lab.bench.prompts
        }


def _prompt_cache(lab: Lab) -> Answers:
    reference = lab.reference()
    with lab.open() as asker:
        asker.ask(lab.longest.sharing_its_prefix())
        return {lab.longest.name: [reference[lab.longest.name], asker.ask(lab.longest)]}


def _order(lab: Lab) -> Answers:
    reference = lab.reference()
    answers = {name: [answer] for name, answer in reference.items()}
    with lab.open() as asker:
        for prompts in _orders(lab.bench.prompts, lab.bench.repeat - 1):
            for prompt in prompts:
                answers[prompt.name].append(asker.ask(prompt))
    return answers


def _orders(prompts: Sequence[Prompt], count: int) -> list[tuple[Prompt, ...]]:
    """Orders of the prompts: the reverse one, then each time another one first."""
    turned = tuple(reversed(prompts))
    return [
        turned[number % len(turned) :] + turned[: number % len(turned)] for number in range(count)
    ]


def _load(lab: Lab) -> Answers:
    reference = lab.reference()
    answers = {name: [answer] for name, answer in reference.items()}
    asked = [prompt for _ in range(lab.bench.repeat - 1) for prompt in lab.bench.prompts]
    with lab.open() as asker:
        for prompt, answer in zip(
            asked, asker.ask_together(asked, threads=LOAD_THREADS), strict=True
        ):
            answers[prompt.name].append(answer)
    return answers


def _comparing(variants: Callable[[Lab], Sequence[Variant]]) -> Callable[[Lab], Answers]:
    def run(lab: Lab) -> Answers:
        answers = [lab.reference()[lab.longest.name]]
        for variant in variants(lab):
            with lab.open(variant) as asker:
                answers.append(asker.ask(lab.longest))
        return {lab.longest.name: answers}

    return run


def _other_threads(lab: Lab) -> Sequence[Variant]:
    threads = lab.bench.threads
    others = {1, threads // 2} - {0, threads} or {2}
    return [Variant(what=f"{number} threads", threads=number) for number in sorted(others)]


def _other_slots(lab: Lab) -> Sequence[Variant]:
    slots = 1 if lab.setting.auto_slots else AUTO_SLOTS
    return [_changing(f"-np {slots}")]


def _other_batches(lab: Lab) -> Sequence[Variant]:
    del lab
    return [_changing("-b 256 -ub 256")]


def _other_attention(lab: Lab) -> Sequence[Variant]:
    known = dict(zip(lab.flags, lab.flags[1:], strict=False)).get("-fa")
    return [_changing(f"-fa {state}") for state in ("on", "off") if state != known]


def _other_packing(lab: Lab) -> Sequence[Variant]:
    return [_changing("--repack" if "--no-repack" in lab.flags else "--no-repack")]


def _other_device(lab: Lab) -> Sequence[Variant]:
    if "none" in lab.flags:
        return [_changing(f"-ngl 999 --device {lab.bench.devices[0]}")]
    return [_changing("-ngl 0 --device none --no-op-offload")]


def _other_offload(lab: Lab) -> Sequence[Variant]:
    return [_changing("--op-offload" if "--no-op-offload" in lab.flags else "--no-op-offload")]


def _other_build(lab: Lab) -> Sequence[Variant]:
    return [Variant(what="the second build", binary=lab.bench.second_binary)]


def _changing(flags: str) -> Variant:
    return Variant(what=flags, flags=tuple(flags.split()))


def _cache_field(lab: Lab) -> Answers:
    turned = not lab.setting.request.get("cache_prompt", True)
    with lab.open() as asker:
        asker.ask(lab.longest.sharing_its_prefix(), cache_prompt=turned)
        answer = asker.ask(lab.longest, cache_prompt=turned)
    return {lab.longest.name: [lab.reference()[lab.longest.name], answer]}


def _against_in_process(lab: Lab) -> Answers:
    name = lab.longest.name
    there = in_process_reference(lab.bench)[name]
    return {name: [lab.reference()[name], there]}


def _seeded(seed: int | None) -> Callable[[Lab], Answers]:
    def run(lab: Lab) -> Answers:
        with lab.open() as asker:
            fields = {} if lab.is_in_process else {"cache_prompt": False}
            asked = [asker.ask(lab.shortest, **fields, seed=seed) for _ in range(lab.bench.repeat)]
        return {lab.shortest.name: asked}

    return run


def _only_servers(lab: Lab) -> str | None:
    return "asked of llama-server only" if lab.is_in_process else None


def _no_devices(lab: Lab) -> str | None:
    return _only_servers(lab) or (None if lab.bench.devices else "llama.cpp sees no GPU here")


def _one_prompt(lab: Lab) -> str | None:
    return "there is only one prompt" if len(lab.bench.prompts) == 1 else None


def _no_second_build(lab: Lab) -> str | None:
    given = lab.bench.second_binary is not None
    return _only_servers(lab) or (None if given else "no second build given (--second-binary)")


def _no_such_seed(lab: Lab, seed: int | None) -> str | None:
    if lab.is_in_process:
        return None if seed == 0 else "refused in process: a call needs a seed"
    measured = lab.bench.seed_setting
    return None if lab.setting.name == measured else f"tried with {measured} only"


def _no_in_process(lab: Lab) -> str | None:
    return "it is the one in process" if lab.is_in_process else lab.bench.in_process


def _all(lab: Lab) -> float:
    return sum(prompt.weight for prompt in lab.bench.prompts)


def _one(lab: Lab) -> float:
    return lab.longest.weight


def _all_again(lab: Lab) -> float:
    return _all(lab) * (lab.bench.repeat - 1)


def _across(
    name: str,
    what: str,
    variants: Callable[[Lab], Sequence[Variant]],
    why_not: Callable[[Lab], str | None] = _only_servers,
) -> Experiment:
    return Experiment(
        name=name,
        what=what,
        kind="across",
        run=_comparing(variants),
        weight=lambda lab: len(variants(lab)) * _one(lab),
        why_not=why_not,
    )


def _seed(name: str, what: str, seed: int | None) -> Experiment:
    return Experiment(
        name=name,
        what=f"the shortest prompt N times with {what}",
        kind="seed",
        run=_seeded(seed),
        weight=lambda lab: lab.shortest.weight * lab.bench.repeat,
        why_not=lambda lab: _no_such_seed(lab, seed),
    )


EXPERIMENTS: Final = (
    Experiment(
        name="repeat",
        what="the same request N times in a row",
        kind="within",
        run=_repeat,
        weight=lambda lab: lab.bench.repeat * _all(lab),
    ),
    Experiment(
        name="restart",
        what="the same requests to a server started anew",
        kind="within",
        run=_restart,
        weight=_all,
    ),
    Experiment(
        name="prompt-cache",
        what="after a request that shares the prompt's beginning",
        kind="within",
        run=_prompt_cache,
        weight=lambda lab: 1.5 * _one(lab),
    ),
    Experiment(
        name="order",
        what="the same requests in other orders on one server",
        kind="within",
        run=_order,
        weight=_all_again,
        why_not=_one_prompt,
    ),
    Experiment(
        name="load",
        what=f"the same requests from {LOAD_THREADS} threads at a time",
        kind="within",
        run=_load,
        weight=_all_again,
    ),
    Experiment(
        name="stream",
        what="the same requests, streamed",
        kind="within",
        run=_stream,
        weight=_all,
        why_not=_only_servers,
    ),
    Experiment(
        name="logprobs",
        what="the same requests without logprobs, which all others ask for",
        kind="within",
        run=_without_logprobs,
        weight=_all,
        why_not=_only_servers,
    ),
    Experiment(
        name="cache-field",
        what="cache_prompt the other way round in the request",
        kind="across",
        run=_cache_field,
        weight=lambda lab: 1.5 * _one(lab),
        why_not=_only_servers,
    ),
    _across("slots", "idle, with another number of slots", _other_slots),
    _across("threads", "other numbers of threads", _other_threads),
    _across("batch", "batches of 256 tokens", _other_batches),
    _across("flash-attention", "flash attention on or off", _other_attention),
    _across("repack", "weights repacked for the CPU or not", _other_packing),
    _across("device", "GPU or CPU", _other_device, _no_devices),
    _across("op-offload", "large operations on the GPU or not", _other_offload, _no_devices),
    _across("build", "another build of llama.cpp", _other_build, _no_second_build),
    Experiment(
        name="in-process",
        what="llama-cpp-python, every sampling field given and equal",
        kind="across",
        run=_against_in_process,
        weight=lambda _lab: 0.0,
        why_not=_no_in_process,
    ),
    _seed("seed-none", "no seed", None),
    _seed("seed-0", "seed 0", 0),
    _seed("seed-minus-1", "seed -1", -1),
)


def experiments_named(names: tuple[str, ...]) -> tuple[Experiment, ...]:
    """Experiments by name, in the order of ``EXPERIMENTS``.

    Raises:
        UsageError: There is none of that name.
    """
    known = [experiment.name for experiment in EXPERIMENTS]
    for name in names:
        if name not in known:
            raise UsageError(f"no experiment {name!r}; there are {', '.join(known)}")
    return tuple(experiment for experiment in EXPERIMENTS if experiment.name in names)
