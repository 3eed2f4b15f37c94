"""``swarm-repro verify``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import click

from swarm_repro.backends.base import Backend
from swarm_repro.backends.llama_cpp import LlamaCpp, unload_models
from swarm_repro.backends.llama_server import LlamaServer
from swarm_repro.canonical import encode_json
from swarm_repro.cassette.store import open_for_replay
from swarm_repro.cli.progress import Bar
from swarm_repro.compare.verify import VerifyOptions, verify_cassette, why_not_asked
from swarm_repro.compare.verify_report import VerifyReport, text_lines
from swarm_repro.environment import Environment
from swarm_repro.errors import UsageError
from swarm_repro.model import ModelBinding
from swarm_repro.printable import printable
from swarm_repro.serving.health import require_llama_server
from swarm_repro.serving.state import find_started_server

#: Settings that a recording may ask of a model in this process: how it computes, and no path.
_SETTINGS = frozenset(
    {
        *("n_ctx", "n_batch", "n_ubatch", "n_threads", "n_threads_batch", "flash_attn"),
        *("n_gpu_layers", "offload_kqv", "type_k", "type_v", "chat_format"),
        *("rope_scaling_type", "rope_freq_base", "rope_freq_scale"),
    }
)
_DEFAULT_SERVER = "http://localhost:8080/v1"


@click.command("verify")
@click.argument("cassette", type=click.Path(path_type=Path))
@click.option(
    "--server",
    metavar="URL",
    help=f"The llama-server to ask, for calls recorded on one [default: {_DEFAULT_SERVER}].",
)
@click.option(
    "--model",
    "models",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="GGUF",
    help="The model file, for calls recorded in process; once for each.",
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How often to ask each call.",
)
@click.option("--shuffle", type=int, metavar="SEED", help="Ask in another order each time.")
@click.option("--call", "calls", type=int, multiple=True, metavar="N", help="Only this call.")
@click.option(
    "--witness",
    is_flag=True,
    help="Note in the cassette which calls this environment, if it is another one, answers alike.",
)
@click.option("--any-model", is_flag=True, help="Ask another model than the recorded one, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the report as a page."
)
def command(
    cassette: Path,
    server: str | None,
    models: tuple[Path, ...],
    repeat: int,
    shuffle: int | None,
    calls: tuple[int, ...],
    witness: bool,
    any_model: bool,
    as_json: bool,
    html: Path | None,
) -> int:
    """Ask a live model every call of a CASSETTE again, and compare.

    Calls are asked one at a time and each on its own, as they were sent, seeds included. Nothing is
    written, but for what --witness notes.
    """
    if witness and any_model:
        raise UsageError("--witness notes answers of the recorded model: leave out --any-model")
    store = open_for_replay(cassette)
    options = VerifyOptions(
        repeat=repeat, shuffle=shuffle, calls=calls, witness=witness, any_model=any_model
    )
    with _Backends(server, models) as backends, Bar() as bar:
        report = verify_cassette(
            store, backends.find, options=options, on_answer=bar.phase("asking again")
        )
    _print(report, as_json=as_json)
    reasons = [why_not_asked(call) for call in store.calls().values()]
    left_out = [reason for reason in reasons if reason is not None]
    if left_out and not calls:
        click.echo(f"note: {len(left_out)} calls were not asked, the first {left_out[0]}", err=True)
    if html is not None:
        from swarm_repro.reporting.html import write_html

        write_html(report.to_json(), html)
    return int(report.exit_code)


def _print(report: VerifyReport, *, as_json: bool) -> None:
    if as_json:
        click.echo(encode_json(report.to_json()))
        if report.witness_note is not None:
            click.echo(printable(f"note: {report.witness_note}"), err=True)
        return
    for line in text_lines(report):
        click.echo(line)


class _Backends:
    """The backends that the user named, made when a recorded model needs one."""

    def __init__(self, server: str | None, models: Sequence[Path]) -> None:
        self._server = server
        self._models = models
        self._llama_server: LlamaServer | None = None

    def __enter__(self) -> _Backends:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._llama_server is not None:
            self._llama_server.close()
        unload_models()

    def find(self, recorded: ModelBinding, environment: Environment) -> Backend:
        """The backend for calls of a recorded model.

        Raises:
            UsageError: The command line names none for it.
            BackendUnreachableError: There is no llama-server.
        """
        if recorded.backend == "llama-server":
            return self._find_server(recorded)
        settings = environment.content.get("settings")
        known = settings if isinstance(settings, dict) else {}
        return LlamaCpp(
            self._file_of(recorded),
            **{name: value for name, value in known.items() if name in _SETTINGS},
        )

    def _find_server(self, recorded: ModelBinding) -> LlamaServer:
        if self._llama_server is None:
            if self._server is None and self._models:
                raise UsageError(
                    f"model {recorded.name!r} was recorded on a llama-server, which --model does "
                    "not start: start one with swarm-repro server start, and name it with --server"
                )
            url = self._server or _DEFAULT_SERVER
            require_llama_server(url, model_hint=recorded.name)
            self._llama_server = LlamaServer(url, started=find_started_server)
        return self._llama_server

    def _file_of(self, recorded: ModelBinding) -> Path:
        if not self._models:
            raise UsageError(
                f"model {recorded.name!r} was recorded in process with llama-cpp-python: name its "
                "file with --model"
            )
        named = [path for path in self._models if path.name == recorded.name]
        if not named and len(self._models) > 1:
            raise UsageError(f"none of the --model files is called {recorded.name!r}")
        return (named or list(self._models))[0]
