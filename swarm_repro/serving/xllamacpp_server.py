"""llama-server from the ``xllamacpp`` package, as a program that takes llama-server's flags.

Run as ``python -m swarm_repro.serving.xllamacpp_server -m FILE --port N ...``. It prints one line
with its address once the model is loaded, and ends on SIGTERM or SIGINT.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import FrameType

from swarm_repro.errors import BackendError, ExitCode, SwarmReproError, UsageError
from swarm_repro.serving.profiles import FieldValue, common_params_fields
from swarm_repro.weights import require_gguf

#: llama-server's port when it is given none.
_DEFAULT_PORT = 8080
_COMMA_SEPARATED = {"hostnames": list, "model_alias": set}


def main(flags: list[str] | None = None) -> int:
    """Serve until told to stop.

    Args:
        flags: llama-server's flags; None for those of this process.

    Returns:
        The exit code: 0 after SIGTERM or SIGINT, 2 for flags that cannot be honoured or a file that
        is no model, 4 when the model cannot be served.
    """
    try:
        _serve(common_params_fields(sys.argv[1:] if flags is None else flags))
    except SwarmReproError as error:
        sys.stderr.write(f"error: {error}\n")
        return int(error.exit_code)
    return int(ExitCode.OK)


def _serve(fields: Mapping[str, FieldValue]) -> None:
    try:
        import xllamacpp
    except ImportError as error:
        raise BackendError(
            "xllamacpp is not installed or does not load; run `pip install xllamacpp`"
        ) from error
    if "model.path" not in fields:
        raise UsageError("no model; give its file with -m")
    # The library says no more than "failed to load", and its log may come after our line.
    require_gguf(Path(str(fields["model.path"])))
    if fields.get("device") == "none":
        _refuse_gpu(xllamacpp.get_device_info())
    params = xllamacpp.CommonParams()
    params.port = _DEFAULT_PORT
    for field, value in fields.items():
        if field != "device":
            _set_field(params, field, value)
    try:
        server = xllamacpp.Server(params)
    except Exception as error:
        raise BackendError(f"llama.cpp could not serve {fields['model.path']}: {error}") from error
    # Until here SIGTERM had its default effect: a handler could not run while the model loads.
    stop = threading.Event()

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    sys.stdout.write(f"listening on {server.listening_address}\n")
    sys.stdout.flush()
    stop.wait()
    # Its destructor stops the HTTP threads and frees the model.
    del server


def _refuse_gpu(devices: list[dict[str, object]]) -> None:
    """Refuse ``--device none`` where a GPU would stay in use: the library cannot switch it off."""
    for device in devices:
        kind = getattr(device.get("type"), "name", "")
        if "GPU" in kind:
            raise UsageError(
                f"xllamacpp cannot leave {device.get('name')} unused, as --device none asks; use"
                " the llama-server program (macOS: brew install llama.cpp) or --profile metal-1slot"
            )


def _set_field(params: object, field: str, value: FieldValue) -> None:
    *path, name = field.split(".")
    holder = params
    for part in path:
        holder = getattr(holder, part)
    try:
        current = getattr(holder, name)
    except AttributeError as error:
        raise UsageError(
            f"this xllamacpp has no setting {field}; install xllamacpp 2026.5 or newer"
        ) from error
    if name in _COMMA_SEPARATED:
        setattr(holder, name, _COMMA_SEPARATED[name](str(value).split(",")))
    elif isinstance(current, Enum):
        setattr(holder, name, type(current)[str(value)])
    else:
        setattr(holder, name, value)


if __name__ == "__main__":
    sys.exit(main())
