"""``swarm-repro doctor``."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import click

from swarm_repro import __version__
from swarm_repro.canonical import encode_json
from swarm_repro.errors import ExitCode, StrictModeError, SwarmReproError
from swarm_repro.serving.binaries import find_llama_server
from swarm_repro.serving.health import check_llama_server

Level = Literal["ok", "missing", "warning"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: ``missing`` says that something cannot be done here; ``warning`` that a setting
            endangers determinism.
        what: What was looked at.
        found: What was found.
        advice: What to do, or empty.
    """

    level: Level
    what: str
    found: str
    advice: str = ""


@click.command("doctor")
@click.option("--base-url", default="http://localhost:8080", help="The llama-server to look at.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(base_url: str, as_json: bool) -> int:
    """Say what is installed, which backends work, and which determinism settings are off.

    Exits with 1 if a replay cannot run here, which needs SWARM and nothing else.
    """
    findings = [*_packages(), *_backends(), *_server(base_url)]
    if as_json:
        click.echo(
            encode_json(
                [
                    {"level": f.level, "what": f.what, "found": f.found, "advice": f.advice}
                    for f in findings
                ]
            )
        )
    else:
        for finding in findings:
            click.echo(f"{finding.level:<8} {finding.what:<22} {finding.found}")
            if finding.advice:
                click.echo(f"{'':<31} → {finding.advice}")
    replays = all(f.level != "missing" for f in findings if f.what in _NEEDED)
    return ExitCode.OK if replays else ExitCode.DIFFERENCE


_NEEDED = ("swarm-safety", "matplotlib")


def _packages() -> Iterator[Finding]:
    yield Finding("ok", "swarm-repro", f"{__version__} on Python {platform.python_version()}")
    for name, advice in (
        ("openai", "pip install swarm-repro"),
        ("swarm-safety", "pip install 'swarm-repro[swarm]' to replay simulations"),
        ("matplotlib", "pip install 'swarm-repro[swarm]': SWARM's exports crash without it"),
    ):
        version = _version(name)
        if version is None:
            yield Finding("missing", name, "not installed", advice)
        else:
            yield Finding("ok", name, version)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _backends() -> Iterator[Finding]:
    if find_spec("llama_cpp") is None:
        yield Finding(
            "missing",
            "in process",
            "llama-cpp-python is not installed",
            "pip install 'swarm-repro[llama_cpp]' to record with model_path (not to replay)",
        )
    else:
        version = importlib.metadata.version("llama-cpp-python")
        yield Finding("ok", "in process", f"llama-cpp-python {version}")
    try:
        binary = find_llama_server()
    except SwarmReproError as error:
        yield Finding("missing", "llama-server program", "not found", str(error))
    else:
        yield Finding("ok", "llama-server program", binary.origin)


def _server(base_url: str) -> Iterator[Finding]:
    if not check_llama_server(base_url):
        yield Finding(
            "missing",
            "llama-server",
            f"none answers at {base_url}",
            "swarm-repro server start --model <file.gguf> to record (not to replay)",
        )
        return
    from swarm_repro.backends.llama_server import LlamaServer
    from swarm_repro.serving.state import find_started_server

    server = LlamaServer(base_url, started=find_started_server)
    try:
        server.check_strict()
        yield Finding("ok", "llama-server", f"at {base_url}, one slot")
        found = server.identify("doctor")
    except StrictModeError as error:
        yield Finding("warning", "llama-server", f"at {base_url}", str(error))
        return
    except SwarmReproError as error:
        yield Finding("missing", "llama-server", f"at {base_url}", str(error))
        return
    finally:
        server.close()
    label = found.binding.identity.label
    weak = found.binding.identity.kind == "fingerprint"
    yield Finding(
        "warning" if weak else "ok",
        "model",
        label,
        "the model's file is not on this machine: its digest is unknown" if weak else "",
    )
    if found.binding.undeclared:
        yield Finding(
            "warning",
            "flags",
            "this server was not started by swarm-repro: its flags are unknown",
            "swarm-repro server start --profile cpu-strict records them",
        )
