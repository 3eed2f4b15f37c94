"""A bundle from elsewhere: its allowed content and size, and the results its replay must give."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.bundle import check
from swarm_repro.bundle.check import BundleCheck, Replayed, check_bundle
from swarm_repro.bundle.crate import MANIFEST
from swarm_repro.bundle.make import BundleOptions, make_bundle
from swarm_repro.canonical import sha256_hex
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError, ExitCode
from tests.support.bundles import contents_of, pack, record, replaced, rewrite
from tests.support.studies import runs_in_this_process

CASSETTE = "cassettes/tiny.seed1.jsonl"
SCENARIO = "scenarios/tiny.yaml"
RUN = "artifacts/tiny.seed1.jsonl/seed1-1x1"


@pytest.fixture(scope="module", autouse=True)
def _runs_in_this_process() -> Iterator[None]:
    with runs_in_this_process():
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    scenario, cassette = record(folder)
    options = BundleOptions(scenarios=[scenario], title="T", authors=["A"], cassettes=[cassette])
    make_bundle(options, folder / "paper.zip")
    return folder / "paper.zip"


@pytest.fixture(scope="module")
def contents(bundle: Path) -> dict[str, bytes]:
    return contents_of(bundle)


Change = Callable[[list[dict[str, Any]]], object]


def listed(contents: dict[str, bytes], change: Change) -> dict[str, bytes]:
    """The same with another manifest."""
    document = json.loads(contents[MANIFEST])
    change(document["@graph"])
    return {**contents, MANIFEST: json.dumps(document).encode()}


def entity(graph: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(one for one in graph if one["@id"] == name)


def damage(path: Path, contents: dict[str, bytes]) -> str:
    """The error about a bundle that is refused, without its path."""
    with pytest.raises(CassetteDamagedError) as raised:
        check_bundle(pack(path / "b.zip", contents))
    assert raised.value.path == path / "b.zip"
    return raised.value.why


def test_a_whole_bundle_replays(bundle: Path, contents: dict[str, bytes]) -> None:
    found = check_bundle(bundle)
    assert found.files == len(contents) - 1
    assert found.replayed == (Replayed(SCENARIO, 1, ExitCode.OK, ()),)
    assert found.exit_code is ExitCode.OK


def test_the_exit_code_is_that_of_the_first_run_that_failed() -> None:
    def checked(*codes: ExitCode) -> ExitCode:
        return BundleCheck(1, tuple(Replayed("s", 1, code, ()) for code in codes)).exit_code

    assert checked() is ExitCode.OK
    assert checked(ExitCode.OK, ExitCode.OK) is ExitCode.OK
    assert checked(ExitCode.OK, ExitCode.MISS, ExitCode.DIFFERENCE) is ExitCode.MISS


# --- What its replay must give.


def test_an_artifact_that_does_not_follow_from_the_recording_is_found(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    forged = replaced(contents, f"{RUN}/history.json", b"{}")
    forged = replaced(forged, f"{RUN}/events.jsonl", b"{}\n")
    found = check_bundle(pack(tmp_path / "b.zip", forged))
    (run,) = found.replayed
    assert run.exit_code is ExitCode.DIFFERENCE
    assert run.messages == (
        "artifacts: events.jsonl is not what the bundle holds",
        "artifacts: history.json is not what the bundle holds",
    )


def test_a_run_is_replayed_with_its_own_epochs_and_steps(tmp_path: Path) -> None:
    scenario, cassette = record(tmp_path, epochs=2, steps=2)  # the scenario has one of each
    options = BundleOptions(scenarios=[scenario], title="T", authors=["A"], cassettes=[cassette])
    make_bundle(options, tmp_path / "paper.zip")
    (run,) = check_bundle(tmp_path / "paper.zip").replayed
    assert (run.exit_code, run.messages) == (ExitCode.OK, ())


def test_a_missing_artifact_is_found(contents: dict[str, bytes], tmp_path: Path) -> None:
    name = f"{RUN}/history.json"
    fewer = listed(contents, lambda graph: graph.remove(entity(graph, name)))
    del fewer[name]
    (run,) = check_bundle(pack(tmp_path / "b.zip", fewer)).replayed
    assert run.exit_code is ExitCode.DIFFERENCE
    assert run.messages == ("artifacts: history.json is not what the bundle holds",)


def test_a_run_that_does_not_replay_is_reported_like_a_run(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    changed = contents[SCENARIO].replace(b"count: 2", b"count: 1")
    (run,) = check_bundle(pack(tmp_path / "b.zip", replaced(contents, SCENARIO, changed))).replayed
    assert run.exit_code is ExitCode.MISS
    assert run.messages
    assert not any(message.startswith("artifacts:") for message in run.messages)


@pytest.mark.parametrize(
    ("name", "before", "after", "is_found"),
    [
        ("history.json", b": 0.5,", b": 0.5000000000000001,", False),
        ("history.json", b": 0.5,", b": 0.6,", True),
        ("tiny_agents.csv", b"100.0", b"100.00000000000001", True),
    ],
    ids=["last digits", "another number", "last digits of a file that is the same here"],
)
def test_what_another_python_rounds_otherwise_need_be_the_same_to_12_digits_only(
    name: str,
    before: bytes,
    after: bytes,
    is_found: bool,
    contents: dict[str, bytes],
    tmp_path: Path,
) -> None:
    whole = tmp_path / "c.jsonl"
    whole.write_bytes(contents[CASSETTE])
    (recorded,) = read_cassette(whole).runs
    history = recorded.artifacts["history.json"]
    moved = rewrite(
        whole,
        tmp_path / "d.jsonl",
        artifacts={**recorded.artifacts, "history.json": replace(history, sha256="0" * 64)},
        versions={**recorded.versions, "python": "3.1.0"},
    )
    packed = replaced(contents, CASSETTE, moved.read_bytes())
    held = contents[f"{RUN}/{name}"]
    changed = held.replace(before, after)
    assert changed != held
    packed = replaced(packed, f"{RUN}/{name}", changed)
    (run,) = check_bundle(pack(tmp_path / "b.zip", packed)).replayed
    assert run.exit_code is (ExitCode.DIFFERENCE if is_found else ExitCode.OK)
    said = (f"artifacts: {name} is not what the bundle holds",)
    assert run.messages == (said if is_found else ())


# --- What it may hold.


def test_a_damaged_cassette_in_it_is_refused(contents: dict[str, bytes], tmp_path: Path) -> None:
    data = contents[CASSETTE]
    damaged = data.replace(b"NOOP", b"NOPE", 1)
    assert damaged != data
    said = damage(tmp_path, replaced(contents, CASSETTE, damaged))
    assert said.startswith(f"{CASSETTE} in it: ")
    assert "checksum" in said
    assert said.endswith("; get it again")


def test_a_file_that_was_changed_is_refused_by_its_name(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    for name in ("METHODS.md", CASSETTE, SCENARIO, f"{RUN}/events.jsonl"):
        changed = {**contents, name: contents[name] + b" "}
        assert damage(tmp_path, changed) == f"{name} in it is not what was put in; get it again"


def test_files_that_are_not_listed_or_not_there_are_refused(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    said = f"its files are not those that {MANIFEST} lists; get it again"
    assert damage(tmp_path, {**contents, "more.txt": b""}) == said
    fewer = {name: data for name, data in contents.items() if name != "METHODS.md"}
    assert damage(tmp_path, fewer) == said
    path = tmp_path / "twice.zip"
    pack(path, contents)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("METHODS.md", b"another")
    with pytest.raises(CassetteDamagedError, match="its files are not those"):
        check_bundle(path)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../../x", "a\\x", "cassettes/..", MANIFEST]
)
def test_a_name_that_leads_out_of_it_or_to_the_manifest_is_refused(
    name: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    digest = sha256_hex(b"x")
    changed = listed(
        contents, lambda graph: graph.append({"@id": name, "@type": "File", "sha256": digest})
    )
    assert damage(tmp_path, changed) == (
        f"it names a file outside of itself: {name!r}; do not use it"
    )


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (None, 'cannot be read: "There is no item named'),
        (b"{", "cannot be read: "),
        (b"[]", "is none: TypeError('no @graph')"),
        (b"{}", "is none: KeyError('@graph')"),
        (b'{"@graph": {}}', "is none: TypeError('no @graph')"),
        (b'{"@graph": [1]}', "is none: TypeError('an entity without @id')"),
        (b'{"@graph": [{"@id": 1}]}', "is none: TypeError('an entity without @id')"),
        (b'{"@graph": [{"@id": "x", "@type": "File"}]}', "is none: KeyError('sha256')"),
    ],
    ids=str,
)
def test_an_invalid_manifest_is_refused(
    manifest: bytes | None, said: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    changed = {name: data for name, data in contents.items() if name != MANIFEST}
    if manifest is not None:
        changed[MANIFEST] = manifest
    found = damage(tmp_path, changed)
    assert found.startswith(f"{MANIFEST} {said}")
    assert found.endswith("; get it again")


def test_a_manifest_may_be_as_long_as_the_limit_and_no_longer(
    bundle: Path, contents: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check._MOST_MANIFEST == 64 * 1024 * 1024
    monkeypatch.setattr(check, "_MOST_MANIFEST", len(contents[MANIFEST]))
    assert check_bundle(bundle).exit_code is ExitCode.OK
    # Spaces at its end change nothing but its length.
    longer = {**contents, MANIFEST: contents[MANIFEST] + b" "}
    assert damage(tmp_path, longer) == (f"{MANIFEST} cannot be read: it is too long; get it again")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda graph: entity(graph, "#run-1").update(object=[]), "ValueError"),
        (
            lambda graph: entity(graph, "#run-1").update(
                object=[{"@id": "scenarios/x"}, {"@id": CASSETTE}]
            ),
            "ValueError('a file that it does not hold')",
        ),
        (
            lambda graph: entity(graph, "#run-1").update(
                object=[{"@id": SCENARIO}, {"@id": "cassettes/x"}]
            ),
            "ValueError('a file that it does not hold')",
        ),
        (
            lambda graph: entity(graph, "#run-1-steps").update(value=True),
            "ValueError('a run without seed, epochs and steps')",
        ),
        (
            lambda graph: entity(graph, "#run-1-seed").pop("value"),
            "ValueError('a run without seed, epochs and steps')",
        ),
        (lambda graph: entity(graph, "#run-1").pop("object"), "KeyError('object')"),
        (lambda graph: entity(graph, "#run-1")["additionalProperty"].pop(), "ValueError"),
        (lambda graph: entity(graph, "#run-1").update(object=1), "TypeError"),
    ],
)
def test_invalid_runs_are_refused(
    change: Change, said: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    found = damage(tmp_path, listed(contents, change))
    assert found.startswith(f"{MANIFEST} names no runs: {said}")
    assert found.endswith("; get it again")


def test_it_may_unpack_to_the_limit_and_no_further(
    bundle: Path,
    contents: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = sum(len(data) for name, data in contents.items() if name != MANIFEST)
    monkeypatch.setenv("SWARM_REPRO_UNPACK_LIMIT", str(size))
    assert check_bundle(bundle).exit_code is ExitCode.OK
    monkeypatch.setenv("SWARM_REPRO_UNPACK_LIMIT", str(size - 1))
    with pytest.raises(CassetteAccessError) as raised:
        check_bundle(bundle)
    assert str(raised.value) == (
        f"{bundle} unpacks to more than {size - 1} bytes; if you trust it, give more in "
        "SWARM_REPRO_UNPACK_LIMIT"
    )


def test_a_missing_or_broken_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    none = tmp_path / "none.zip"
    with pytest.raises(CassetteAccessError) as raised:
        check_bundle(none)
    assert str(raised.value) == f"there is no bundle at {none}"
    with pytest.raises(CassetteAccessError, match="cannot be read: Is a directory"):
        check_bundle(tmp_path)
    none.write_bytes(bundle.read_bytes()[:200])
    with pytest.raises(CassetteDamagedError, match=r"no zip, or a damaged one: .*; get it again"):
        check_bundle(none)
