"""Which process a process id stands for, and ending it.

A process id alone proves nothing: the system hands it out again. A process is known by its id, the
moment it started, and its command line. Linux tells all of it under ``/proc``; elsewhere ``ps``
does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from swarm_repro.errors import SwarmReproError

_POLL_INTERVAL_S = 0.05
_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """A running process, told apart from any other that has or had the same id.

    Attributes:
        pid: Process id.
        started: The moment it started, as the system writes it; equal for the same process only.
        command: Its command line, arguments separated by spaces.
    """

    pid: int
    started: str
    command: str


def identify(pid: int) -> ProcessIdentity | None:
    """Say which process has an id.

    Returns:
        The process; None if there is none, or only the remains of one that has ended.

    Raises:
        SwarmReproError: this system has neither ``/proc`` nor ``ps``.
    """
    if pid <= 0:
        return None
    if (_PROC / "self/stat").exists():
        return _identify_by_proc(pid)
    return _identify_by_ps(pid)


def end(process: ProcessIdentity, *, limit_s: float = 10.0) -> bool:
    """End a process: SIGTERM, and SIGKILL if it is still there after a while.

    Its identity is checked before each signal, so that no other process is hit.

    Args:
        process: The process as it was identified.
        limit_s: Seconds it has to end by itself.

    Returns:
        True if it ended by itself, False if it had to be killed.

    Raises:
        SwarmReproError: it belongs to another user, or is still there after SIGKILL.
    """
    for number, wait_s in ((signal.SIGTERM, limit_s), (signal.SIGKILL, 5.0)):
        # Gone before this signal: what ends at the last moment was not killed either.
        if not _is_running(process):
            return True
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return True
        except PermissionError as error:
            raise SwarmReproError(
                f"process {process.pid} belongs to another user; end it as that user"
            ) from error
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if not _is_running(process):
                return number is signal.SIGTERM
            time.sleep(_POLL_INTERVAL_S)
    raise SwarmReproError(f"process {process.pid} is still there after SIGKILL; look at it with ps")


def _is_running(process: ProcessIdentity) -> bool:
    # The command line is left out: a process that is ending shows an empty one.
    now = identify(process.pid)
    return now is not None and now.started == process.started


def _identify_by_proc(pid: int) -> ProcessIdentity | None:
    try:
        stat = (_PROC / f"{pid}/stat").read_text("utf-8", errors="replace")
        command = (_PROC / f"{pid}/cmdline").read_bytes()
        boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Source: proc_pid_stat(5). The name, in brackets, may hold spaces and brackets itself;
    # after it come the state (field 3) and, as field 22, the start in clock ticks since boot.
    fields = stat[stat.rindex(")") + 2 :].split()
    state, ticks = fields[0], fields[19]
    if state in ("Z", "X"):
        return None
    text = command.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", errors="replace")
    return ProcessIdentity(pid=pid, started=f"{boot} {ticks}", command=text)


def _identify_by_ps(pid: int) -> ProcessIdentity | None:
    fields = []
    for column in ("stat=", "lstart=", "command="):
        try:
            answer = subprocess.run(
                ["/bin/ps", "-ww", "-o", column, "-p", str(pid)],
                env={"LC_ALL": "C", "TZ": "UTC"},  # lstart is written in both
                capture_output=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise SwarmReproError(
                "cannot tell which processes run: there is neither /proc nor ps"
            ) from error
        if answer.returncode != 0:
            return None
        fields.append(answer.stdout.decode("utf-8", errors="replace").strip())
    state, started, command = fields
    if state.startswith("Z"):
        return None
    return ProcessIdentity(pid=pid, started=started, command=command)
