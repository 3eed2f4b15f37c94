"""``swarm-repro`` for shell scripts: what a script calls is run as `run_python` runs it."""

from __future__ import annotations

import json
import os
import socketserver
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.warm import run_python

#: What scripts find on PATH. Standard input is not passed on, and what the command said on its two
#: outputs is said once it has ended.
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
#: Exit code where the command could not be run: none of its own.
_NOT_RUN = 125


@contextmanager
def shell_commands(limit_s: float = 180) -> Iterator[str]:
    """While the block runs, a PATH on which ``swarm-repro`` need not be started anew each time.

    Args:
        limit_s: How long one command may take.
    """
    installed = Path(sys.executable).with_name("swarm-repro")

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            words, folder, environment = json.loads(self.rfile.readline())
            try:
                done = run_python(
                    [str(installed), *words],
                    cwd=Path(folder),
                    environment=environment,
                    timeout_s=limit_s,
                )
            except Exception:  # noqa: BLE001  # for the script to fail with
                answer = ["", traceback.format_exc(), _NOT_RUN]
            else:
                code = done.returncode if done.returncode >= 0 else 128 - done.returncode
                answer = [done.stdout, done.stderr, code]
            self.wfile.write(json.dumps(answer).encode())

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
