"""What an audit will measure: options checked, settings and experiments chosen."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from swarm_repro.audit.devices import gpu_names
from swarm_repro.audit.experiments import EXPERIMENTS, Experiment, experiments_named
from swarm_repro.audit.lab import Bench
from swarm_repro.audit.prompts import Prompt, built_in_prompts, prompts_of
from swarm_repro.audit.settings import IN_PROCESS, QUICK, SETTINGS, Setting, settings_named
from swarm_repro.errors import BackendError, UsageError
from swarm_repro.model import ModelBinding, ModelIdentity
from swarm_repro.serving.binaries import find_llama_server
from swarm_repro.serving.profiles import DEFAULT_CTX_SIZE, default_threads
from swarm_repro.weights import hash_file, require_gguf, shards

#: How often each prompt is asked to time a setting, a turn later each time.
_ROUNDS: Final = 2


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """What to measure.

    Attributes:
        model_path: The GGUF.
        binary: The llama-server; None to find one.
        second_binary: Another build to compare with.
        cassette: Where to draw prompts from; None for the built-in ones.
        prompts_limit: How many prompts to draw.
        repeat: Answers to compare; None for four, or three when quick.
        threads: Threads of every server; None for the physical cores.
        n_ctx: Context of every server, in tokens.
        settings: Names; None for all, or a few when quick.
        experiments: Names; None for all, or those within a setting when quick.
        quick: Fewer settings, experiments, prompts and repeats.
        in_process: Whether to measure llama-cpp-python; None to do so if it is installed, and not
            when quick.
    """

    model_path: Path
    binary: Path | None = None
    second_binary: Path | None = None
    cassette: Path | None = None
    prompts_limit: int = 3
    repeat: int | None = None
    threads: int | None = None
    n_ctx: int = DEFAULT_CTX_SIZE
    settings: tuple[str, ...] | None = None
    experiments: tuple[str, ...] | None = None
    quick: bool = False
    in_process: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be measured.

    Attributes:
        bench: What all settings share.
        settings: The settings.
        experiments: The experiments.
        rounds: How often each prompt is asked, a turn later each time, to time a setting.
        untried: What is left out, a line each.
    """

    bench: Bench
    settings: tuple[Setting, ...]
    experiments: tuple[Experiment, ...]
    rounds: int
    untried: tuple[str, ...]


def make_plan(options: AuditOptions) -> Plan:
    """Check the options, and choose what will be measured.

    Raises:
        SwarmReproError: As for ``run_audit``.
    """
    repeat = options.repeat
    if repeat is None:
        repeat = 3 if options.quick else 4
    for name, value, least in (
        ("--repeat", repeat, 2),
        ("--threads", options.threads, 1),
        ("--ctx-size", options.n_ctx, 1),
    ):
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}; give a number of at least {least}")
    require_gguf(options.model_path)
    settings, experiments, untried = _choose(options)
    in_process = _why_not_in_process(options)
    if in_process is not None:
        untried.append(f"{IN_PROCESS.name}: {in_process}")
        settings = tuple(setting for setting in settings if setting is not IN_PROCESS)
    devices: tuple[str, ...] = ()
    if any(setting.profile is not None for setting in settings):
        settings, devices = _with_devices(options, settings, untried)
    if not settings or not experiments:
        raise UsageError("nothing is left to measure on this machine; name other --settings")
    files = [hash_file(shard) for shard in shards(options.model_path)]
    bench = Bench(
        model_path=options.model_path,
        binding=ModelBinding(
            name=options.model_path.name,
            backend="llama-server",
            identity=ModelIdentity(kind="gguf", content={"files": files}),
            template=None,
        ),
        threads=options.threads or default_threads(),
        n_ctx=options.n_ctx,
        repeat=repeat,
        prompts=_prompts(options),
        binary=options.binary,
        second_binary=options.second_binary,
        devices=devices,
        in_process=in_process,
        seed_setting=next((s.name for s in reversed(settings) if s.profile is not None), ""),
    )
    return Plan(
        bench=bench,
        settings=settings,
        experiments=experiments,
        rounds=_ROUNDS,
        untried=tuple(untried),
    )


def _with_devices(
    options: AuditOptions, settings: tuple[Setting, ...], untried: list[str]
) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    """The settings that this machine's devices allow, and the GPUs."""
    binary = find_llama_server(options.binary)
    if options.second_binary is not None:
        find_llama_server(options.second_binary)
    why = "llama.cpp sees no GPU here"
    devices: tuple[str, ...] = ()
    try:
        devices = gpu_names(binary)
    except BackendError as error:
        why = str(error)
    if devices:
        return settings, devices
    untried += [f"{setting.name}: {why}" for setting in settings if setting.needs_device]
    return tuple(setting for setting in settings if not setting.needs_device), devices


def _choose(
    options: AuditOptions,
) -> tuple[tuple[Setting, ...], tuple[Experiment, ...], list[str]]:
    untried: list[str] = []
    settings: tuple[Setting, ...] = SETTINGS
    if options.settings is not None:
        settings = settings_named(options.settings)
    elif options.quick:
        settings = settings_named(QUICK)
    if options.experiments is not None:
        experiments = experiments_named(options.experiments)
    elif options.quick:
        experiments = tuple(one for one in EXPERIMENTS if one.kind == "within")
    else:
        experiments = EXPERIMENTS
    left_out = [one.name for one in EXPERIMENTS if one not in experiments]
    if left_out:
        untried.append(f"not asked for: experiments {', '.join(left_out)}")
    left_out = [one.name for one in SETTINGS if one not in settings and one is not IN_PROCESS]
    if left_out:
        untried.append(f"not asked for: settings {', '.join(left_out)}")
    return settings, experiments, untried


def _prompts(options: AuditOptions) -> tuple[Prompt, ...]:
    if options.cassette is not None:
        return prompts_of(options.cassette, limit=options.prompts_limit)
    prompts = built_in_prompts()
    return (prompts[0], prompts[-1]) if options.quick else prompts


def _why_not_in_process(options: AuditOptions) -> str | None:
    named = options.settings is not None and IN_PROCESS.name in options.settings
    wanted = options.in_process
    if wanted is None:
        wanted = named or (not options.quick and options.settings is None)
    if not wanted:
        return "not asked for (--in-process)"
    if find_spec("llama_cpp") is not None:
        return None
    missing = "llama-cpp-python is not installed; run: pip install 'swarm-repro[llama_cpp]'"
    if options.in_process or named:
        raise UsageError(missing)
    return missing
