"""Finding a user's redaction by its name, and the error where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm_repro.completion import Completion
from swarm_repro.errors import UsageError
from swarm_repro.masking import Masker, find_redaction
from tests.support.tiny_model import chat


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rules.py").write_text(
        "def hide(text):\n    return text.replace('Ada', '[name]')\nword = 1\n"
    )
    (tmp_path / "own_broken.py").write_text("raise ZeroDivisionError('by zero')\n")
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    for name in ("own_rules", "own_broken"):
        sys.modules.pop(name, None)


def test_a_function_of_a_module_in_the_current_folder_is_found() -> None:
    assert find_redaction("own_rules:hide")("Ada asks") == "[name] asks"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("own_rules", "name a function as MODULE:FUNCTION"),
        ("own_rules:", "name a function as MODULE:FUNCTION"),
        (":hide", "name a function as MODULE:FUNCTION"),
        ("own_rules:seek", "own_rules has no function seek"),
        ("own_rules:word", "own_rules has no function word"),
        ("own_broken:hide", "own_broken cannot be imported: ZeroDivisionError('by zero')"),
        ("own_absent:hide", "own_absent cannot be imported: ModuleNotFoundError("),
    ],
)
def test_a_name_without_a_function_is_refused(name: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_redaction(name)
    assert str(caught.value).startswith(f"--redact {name}: {why}")


def test_a_failing_redaction_is_named_without_the_text() -> None:
    def fails(text: str) -> str:
        raise ValueError(text)

    with pytest.raises(UsageError) as caught:
        Masker(fails).request(chat("a secret"))
    assert str(caught.value) == ("redact failed with ValueError; what it was given is not stored")


def test_a_redaction_that_returns_no_text_is_named_with_its_type() -> None:
    with pytest.raises(UsageError) as caught:
        Masker(lambda _text: 3).completion(Completion(200, "text/plain", b"x"))  # type: ignore[arg-type,return-value]
    assert str(caught.value) == "redact gave int for a text; it gives a text"


def test_a_text_is_looked_at_once_for_all_calls() -> None:
    seen: list[str] = []

    def note(text: str) -> str:
        seen.append(text)
        return text

    masker = Masker(note)
    for _ in range(3):
        masker.completion(Completion(200, "text/plain", b"a system prompt"))
    assert seen == ["a system prompt"]
