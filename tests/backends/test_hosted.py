"""A host known only by its name."""

from __future__ import annotations

import pytest

from swarm_repro.backends.hosted import Hosted
from swarm_repro.errors import BackendError, StrictModeError
from swarm_repro.model import hosted_binding
from swarm_repro.request import Request
from tests.support.tiny_model import make_binding

REQUEST = Request("chat", make_binding(), "/v1/chat/completions", {"messages": []})


def test_a_host_is_identified_by_its_name_and_not_by_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Hosted("api.example.org", asks_model=True)
    bound = host.identify("gpt")
    assert bound.binding == hosted_binding("api.example.org")
    assert bound.environment is not None
    content = bound.environment.content
    assert content["backend"] == "hosted"
    assert {content[name] for name in ("build", "binary_sha256", "cpu", "system", "machine")} == {
        None
    }


def test_a_model_and_a_question_beside_have_addresses_of_their_own() -> None:
    assert Hosted("a", asks_model=True).address == "model:a"
    assert Hosted("a", asks_model=False).address == "host:a"


def test_strict_mode_promises_nothing_of_an_unknown_model() -> None:
    with pytest.raises(StrictModeError) as raised:
        Hosted("api.example.org", asks_model=True).check_strict()
    assert str(raised.value) == (
        "what computes behind api.example.org is not known, so strict mode can promise nothing of"
        " it: turn strict off, or use a llama-server's own endpoints"
    )
    Hosted("api.example.org", asks_model=False).check_strict()


def test_no_fields_are_added_and_no_prompt_is_shown() -> None:
    host = Hosted("a", asks_model=True)
    assert host.strict_fields() == {}
    assert host.render(REQUEST)() is None
    host.close()


def test_only_the_program_itself_can_ask() -> None:
    with pytest.raises(BackendError) as raised:
        Hosted("a.org", asks_model=True).send(REQUEST)
    assert str(raised.value) == (
        "/v1/chat/completions of a.org can only be asked by the program that recorded it"
    )
