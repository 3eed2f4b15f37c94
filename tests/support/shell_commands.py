"""``swarm-repro`` for shell scripts: what a script calls is run as `run_python` runs it."""

from __future__ import annotations

import json
import os
import socketserver
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.warm import run_python

#: What scripts find on PATH. It passes on everything but its standard input, which it has not.
_PROGRAM = """\
#!{python} -SE
import json, os, socket, sys
order = [sys.argv[1:], os.getcwd(), dict(os.environ)]
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    connection.sendall(json.dumps(order).encode() + b"\\n")
    said, complained, code = json.loads(connection.makefile("rb").read())
sys.stdout.write(said)
sys.stdout.flush()
sys.stderr.write(complained)
sys.exit(code)
"""
_LIMIT_S = 180


@contextmanager
def shell_commands() -> Iterator[str]:
    """While the block runs, a PATH on which ``swarm-repro`` need not be started anew each time."""
    installed = Path(sys.executable).with_name("swarm-repro")

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            words, folder, environment = json.loads(self.rfile.readline())
            done = run_python(
                [str(installed), *words],
                cwd=Path(folder),
                environment=environment,
                timeout_s=_LIMIT_S,
            )
            self.wfile.write(json.dumps([done.stdout, done.stderr, done.returncode]).encode())

    with tempfile.TemporaryDirectory(prefix="sr") as folder:  # an address is 100 bytes at most
        address = str(Path(folder) / "orders")
        program = Path(folder) / "swarm-repro"
        program.write_text(_PROGRAM.format(python=sys.executable, address=address))
        program.chmod(0o755)
        with socketserver.ThreadingUnixStreamServer(address, Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield os.pathsep.join([folder, str(installed.parent), os.environ["PATH"]])
            finally:
                server.shutdown()
                thread.join()
