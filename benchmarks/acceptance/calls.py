"""Recordings whose calls are acknowledged one by one, and the question whether any was lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from swarm_repro.cassette.part import part_path
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.errors import CassetteAccessError
from swarm_repro.mode import Mode
from tests.support.tiny_model import LONG, TinyModel, ask, recording, replaying

THREADS = 4
#: Calls of each thread.
CALLS = 8

#: An answered call: whose it is, which of its calls, and what the caller was told.
Answered = tuple[str, int, str]


class Lost(AssertionError):
    """Something was lost, or served that was not recorded."""


def prompt_of(number: int) -> str:
    """A prompt; some are alike, some are long enough to be kept apart."""
    return f"{LONG if number % 3 == 0 else ''}question {number // 2}"


def record_all(
    path: Path, acknowledge: Callable[[Answered], None], *, wording: str = "fine"
) -> None:
    """Record all calls from several threads.

    Args:
        path: The cassette; one that is there is replaced.
        acknowledge: Told of each call once its caller has the answer.
        wording: A part of every answer.

    Raises:
        CassetteAccessError: A call could not be written.
    """
    model = TinyModel(wording=wording)
    refused: list[CassetteAccessError] = []
    with recording(path) as session:

        def work(who: str) -> None:
            try:
                for number in range(CALLS):
                    text = ask(session, model, prompt_of(number), who=who).text
                    acknowledge((who, number, text))
            except CassetteAccessError as error:
                refused.append(error)

        threads = [threading.Thread(target=work, args=(f"agent_{n}",)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if refused:
            raise refused[0]


def require_kept(path: Path, answered: Iterable[Answered]) -> int:
    """Go on from what is there, and see that no answered call is asked for again.

    Returns:
        How many calls were kept.

    Raises:
        Lost: One was lost, or is another one now.
        SwarmReproError: What is there does not open.
    """
    answered = sorted(answered)
    if path.exists():
        read_cassette(path)
    if not answered and not path.exists() and not part_path(path).exists():
        return 0
    model = TinyModel()
    with recording(path, mode=Mode.AUTO) as session:
        for who, number, text in answered:
            if ask(session, model, prompt_of(number), who=who).text != text:
                raise Lost(f"call {number} of {who} is another one")
    if model.sent:
        raise Lost(f"{len(model.sent)} of {len(answered)} answered calls were lost")
    replay = replaying(path)
    for who, number, text in answered:
        if ask(replay, model, prompt_of(number), who=who).text != text:
            raise Lost(f"call {number} of {who} is replayed as another one")
    return len(answered)
