"""A program that takes llama-server's flags and answers like one, from a rule instead of a model.

Its answers depend on the request's messages and seed; and, with ``cache_prompt`` on, on how many
requests came before; and, with more than one slot, on whether another request is in work; and on
``-ub``. So it has what an audit looks for, in milliseconds. Run as ``python audit_server.py -np 1
--port 1234 ...``.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.stub_server import running_stub

#: Words that a completion is made of, so that two differ in the middle.
WORDS = ("sell", "buy", "wait", "whisper", "vote", "refuse", "accept")


class Rule:
    """Makes the text of a completion."""

    def __init__(self, flags: dict[str, str]) -> None:
        self.flags = flags
        self.slots = 4 if flags.get("-np") == "-1" else int(flags.get("-np", "4"))
        self.before = 0
        self.working = 0
        self.lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> str:
        with self.lock:
            before, self.before = self.before, self.before + 1
            self.working += 1
        try:
            # Long enough for requests that are sent at a time to overlap.
            time.sleep(0.05 if self.slots > 1 else 0.002)
            disturbed = before if body.get("cache_prompt", True) else 0
            if self.slots > 1:
                with self.lock:
                    disturbed += 100 * (self.working > 1)
            seed = body.get("seed", -1)
            if seed == -1:
                seed = time.monotonic_ns()
            number = hash((json.dumps(body["messages"]), seed)) + disturbed
            batch = "large" if self.flags.get("-ub", "512") == "512" else "small"
            return f"I {WORDS[number % len(WORDS)]} {number % 1000} in a {batch} batch."
        finally:
            with self.lock:
                self.working -= 1


def parse(argv: list[str]) -> dict[str, str]:
    flags: dict[str, str] = {}
    for name, value in zip(argv, [*argv[1:], "-"], strict=True):
        if name.startswith("-") and not name[1:2].isdigit():
            flags[name] = value
    return flags


def main() -> None:
    flags = parse(sys.argv[1:])
    if "--list-devices" in flags:
        print("Available devices:")
        print("  (none)")
        return
    if "--refused" in flags or ("--no-repack" in flags and "--no-strict" in flags):
        sys.exit("error: invalid argument")
    rule = Rule(flags)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    with running_stub(port=int(flags["--port"]), slots=rule.slots, reply=rule):
        stop.wait()


if __name__ == "__main__":
    main()
