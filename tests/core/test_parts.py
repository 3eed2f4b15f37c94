"""Model bindings, environments, GGUF files, scopes, and what is printed."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import platform
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_repro.caller import calling_for, current_caller, is_own_traffic, own_traffic, scope
from swarm_repro.canonical import encode_json
from swarm_repro.environment import (
    Environment,
    cpu_model,
    describe_environment,
    llama_variables,
    portable_flags,
)
from swarm_repro.errors import ModelConflictError, ModelFileError
from swarm_repro.model import ModelBinding, ModelIdentity, describe, require_same_model
from swarm_repro.printable import printable
from swarm_repro.weights import hash_file, inspect_gguf, require_gguf, shards
from tests.support.tiny_model import json_values, make_binding

# --- Model bindings.

BINDINGS = [
    make_binding(),
    make_binding(template={"name": "chatml"}),
    ModelBinding("a", "llama-cpp-python", ModelIdentity("gguf", {"files": ["1", "2"]}), None),
    ModelBinding(
        "b", "llama-server", ModelIdentity("fingerprint", {"size": 5}), None,
        {"chat": {"temperature": 0.8, "samplers": ["top_k"], "seed": None}}, ("mmproj", "draft"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("binding", BINDINGS)
def test_a_binding_comes_back_from_its_record(binding: ModelBinding) -> None:
    record = orjson.loads(encode_json(binding.to_json()))
    found = ModelBinding.from_json(record)
    assert found == binding
    assert encode_json(found.to_json()) == encode_json(binding.to_json())
    require_same_model(binding, found)


@pytest.mark.parametrize(
    "change",
    [
        {"identity": ModelIdentity("gguf", {"files": ["f" * 64]})},
        {"identity": ModelIdentity("fingerprint", {"files": ["a" * 64]})},
        {"template": {"sha256": "f" * 64}},
        {"template": None},
        {"backend": "llama-cpp-python"},
    ],
)
def test_two_models_of_one_name_are_an_error_that_lists_both(change: dict[str, object]) -> None:
    known = make_binding()
    found = replace(known, **change)  # type: ignore[arg-type]
    with pytest.raises(ModelConflictError) as caught:
        require_same_model(known, found)
    assert describe(known) in str(caught.value)
    assert describe(found) in str(caught.value)
    assert describe(known) != describe(found)


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ({"sha256": "0123456789abcdef"}, "0123456789ab"),
        ({"name": "chatml"}, "chatml"),
        (None, "unknown"),
    ],
)
def test_a_model_is_described_in_a_line(template: dict[str, str] | None, shown: str) -> None:
    binding = replace(make_binding(), template=template)
    label = binding.identity.label
    assert describe(binding) == f"{label} on {binding.backend}, template {shown}"


@pytest.mark.parametrize(
    "word", ["API_KEY", "HF_TOKEN", "SECRET", "PASSWORD", "ARG_HOST", "ARG_PORT"]
)
def test_a_variable_that_may_hold_a_secret_or_an_address_is_not_recorded(word: str) -> None:
    given = {f"LLAMA_{word}": "hush", "OMP_NUM_THREADS": "4"}
    assert llama_variables(given) == {"OMP_NUM_THREADS": "4"}


@pytest.mark.parametrize(
    "change",
    [
        {"backend": "ollama"},
        {"identity": {"kind": "sha1"}},
        {"identity": []},
        {"template": "x"},
        {"defaults": {"chat": 1}},
        {"undeclared": "mmproj"},
    ],
)
def test_a_malformed_model_record_is_refused(change: dict[str, object]) -> None:
    with pytest.raises((TypeError, KeyError)):
        ModelBinding.from_json({**make_binding().to_json(), **change})
    with pytest.raises(KeyError):
        ModelBinding.from_json(
            {k: v for k, v in make_binding().to_json().items() if k not in change}
        )


def test_a_fingerprint_is_called_weak_wherever_it_is_shown() -> None:
    assert "weak" in ModelIdentity("fingerprint", {"size": 1}).label
    assert "weak" in describe(BINDINGS[3])
    assert "weak" not in make_binding().identity.label


# --- Environments.


@given(st.dictionaries(st.text("abc", max_size=3), json_values(floats=False), max_size=4))
@settings(max_examples=50, deadline=None)
def test_an_environments_digest_does_not_depend_on_member_order(content: dict[str, object]) -> None:
    backwards = dict(reversed(content.items()))
    assert Environment(content).sha256 == Environment(backwards).sha256
    assert Environment({**content, "more": 1}).sha256 != Environment(content).sha256


def test_an_environment_holds_no_secret_port_host_or_folder() -> None:
    environment = describe_environment(
        backend="llama-server",
        build="b1",
        binary_sha256=None,
        local=True,
        flags=["-m", "/home/me/models/m.gguf", "--port", "8091", "--host=10.9.8.7", "-c", "4096",
               "--api-key", "hush", "--api-key-file=/home/me/k", "--alias", "mine", "-fa", "off"],
        variables={"LLAMA_API_KEY": "hush", "GGML_METAL_PATH": "/home/me/metal", "HOME": "/home/me",
                   "OMP_NUM_THREADS": "2", "LLAMA_SECRET_X": "hush", "HF_TOKEN": "hush"},
    )  # fmt: skip
    encoded = encode_json(dict(environment.content)).decode()
    for leak in ("hush", "8091", "10.9.8.7", "/home", "mine"):
        assert leak not in encoded
    assert environment.content["flags"] == ["-m", "m.gguf", "-c", "4096", "-fa", "off"]
    assert environment.content["variables"] == {"GGML_METAL_PATH": "metal", "OMP_NUM_THREADS": "2"}
    assert environment.content["cpu"] == cpu_model()


@pytest.mark.parametrize(
    ("script", "name"),
    [("echo '  Apple M2 Pro'", "Apple M2 Pro"), ("echo no such oid >&2; exit 1", None)],
)
def test_the_cpu_of_a_mac_is_what_sysctl_calls_it(
    script: str, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, asked = subprocess.run, []

    def run(words: list[str], **how: Any) -> Any:
        asked.append(words)
        return start(["/bin/sh", "-c", script], **how)

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(subprocess, "run", run)
    assert cpu_model.__wrapped__() == name
    assert asked == [["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]]


def test_a_remote_machine_is_not_described_as_this_one() -> None:
    remote = describe_environment(
        backend="llama-server", build=None, binary_sha256=None, local=False, variables={}
    ).content
    assert remote["cpu"] is remote["system"] is remote["machine"] is remote["flags"] is None


@pytest.mark.parametrize("name", ["LLAMA_ARG_PORT", "LLAMA_ARG_HOST"])
def test_variables_that_name_a_port_or_host_are_left_out(name: str) -> None:
    assert llama_variables({name: "8091"}) == {}


def test_a_flag_with_an_equals_sign_keeps_its_name() -> None:
    assert portable_flags(["--model=/home/me/m.gguf"]) == ["--model=m.gguf"]


# --- GGUF files.


def write_gguf(path: Path, *, template: str | None = None) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    if template is not None:
        writer.add_chat_template(template)
    writer.add_tensor("w", np.zeros((3, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_digested_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 5000)
    read: list[int] = []
    assert hash_file(path, progress=read.append) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sum(read) == path.stat().st_size


def test_a_models_weights_and_template_are_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, template="{{ messages }}")
    found = inspect_gguf(path)
    assert (found.n_params, found.size_bytes, found.chat_template) == (12, 48, "{{ messages }}")


def test_the_shards_of_a_model_are_found_from_any_of_them_in_order(tmp_path: Path) -> None:
    names = [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for name in names:
        write_gguf(tmp_path / name)
    for name in names:
        assert [path.name for path in shards(tmp_path / name)] == names
    assert inspect_gguf(tmp_path / names[1]).n_params == 36
    (tmp_path / names[2]).unlink()
    with pytest.raises(ModelFileError, match=names[2]):
        shards(tmp_path / names[0])
    assert shards(tmp_path / "single.gguf") == [tmp_path / "single.gguf"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no model at"),
        (lambda path: path.mkdir(), "folder"),
        (lambda path: path.write_bytes(b""), "not a GGUF"),
        (lambda path: path.write_bytes(b"GGU"), "not a GGUF"),
        (lambda path: path.write_bytes(b"ggml" * 9), "not a GGUF"),
    ],
)
def test_what_is_no_gguf_file_is_refused_by_name(make, says: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "m.gguf"
    make(path)
    for look in (require_gguf, hash_file, inspect_gguf):
        with pytest.raises(ModelFileError, match=says) as caught:
            look(path)
        assert str(path) in str(caught.value)


def test_a_gguf_file_that_breaks_off_is_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    for length in (4, 8, 24, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match="damaged"):
            inspect_gguf(path)


# --- Scopes.


def test_scopes_nest_and_the_kind_stays() -> None:
    assert current_caller().scope == "main"
    with scope("alice", seed=5), calling_for("act"):
        assert (current_caller().scope, current_caller().kind, current_caller().seed) == (
            "alice", "act", 5,
        )  # fmt: skip
        with scope("council/bob"):
            caller = current_caller()
            assert (caller.scope, caller.kind, caller.seed) == ("council/bob", "act", None)
        assert current_caller().scope == "alice"
    assert current_caller().scope == "main"
    assert current_caller().kind is None


def test_a_scope_ends_with_its_block_though_the_block_raises() -> None:
    with pytest.raises(ValueError, match="x"), scope("alice"), own_traffic():
        raise ValueError("x")
    assert current_caller().scope == "main"
    assert not is_own_traffic()


def test_a_scope_follows_tasks_and_threads() -> None:
    async def name() -> str:
        await asyncio.sleep(0)
        return current_caller().scope

    async def ask(who: str) -> tuple[str, str]:
        with scope(who):
            return await name(), await asyncio.to_thread(lambda: current_caller().scope)

    async def main() -> tuple[tuple[str, str], tuple[str, str]]:
        return await asyncio.gather(ask("a"), ask("b"))

    assert [*asyncio.run(main())] == [("a", "a"), ("b", "b")]
    seen: list[str] = []
    with scope("alice"):
        context = contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(lambda: seen.append(current_caller().scope),)
    )
    thread.start()
    thread.join()
    assert seen == ["alice"]


# --- What is printed.


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_nothing_printed_can_drive_a_terminal(text: str) -> None:
    assert printable(text).isprintable()
    kept = printable(text, keep_lines=True)
    assert kept.replace("\n", "").isprintable()
    assert kept.count("\n") == text.count("\n")
    kept.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb\tc", "a\\rb\\tc"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eevil", "\\u202eevil"),
        ("\x00\x7f", "\\x00\\x7f"),
        ("héllo 🐝", "héllo 🐝"),
    ],
)
def test_control_characters_are_shown_and_others_kept(text: str, shown: str) -> None:
    assert printable(text) == shown
