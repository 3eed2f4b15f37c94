"""The machine-wide cache: right answers or none, whatever it holds; nothing dropped in silence."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diskcache
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from swarm_repro import use_cassette
from swarm_repro.cache import LIMIT_VARIABLE, AnswerCache
from swarm_repro.cachedir import CACHE_VARIABLE
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.completion import Completion
from swarm_repro.errors import CacheWarning, CassetteAccessError, UsageError
from swarm_repro.mode import Mode
from swarm_repro.model import ModelIdentity
from swarm_repro.opening import SWITCH_VARIABLE, open_session
from swarm_repro.session import Session
from tests.support.command import ROOT, swarm_repro
from tests.support.tiny_model import (
    TinyModel,
    ask,
    completion_of,
    make_binding,
    make_environment,
    replaying,
)

ANSWER = completion_of("fine")
KEPT = Completion(200, "application/json", ANSWER.body, 0.5)
HEADER = Header(recorder="0.1.0")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "answers"


@pytest.fixture
def cache(folder: Path) -> Iterator[AnswerCache]:
    with closing(AnswerCache()) as cache:
        yield cache


def fill(cache: AnswerCache, count: int = 1, *, body: bytes = ANSWER.body) -> None:
    for number in range(count):
        cache.put(f"sr1:{number}", "env", Completion(200, "application/json", body, 0.5), "digest")


def database(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(folder / "cache.db", isolation_level=None)


# --- The store.


def test_connections_wait_five_seconds_for_others_and_a_worker_thread_closes_its_own(
    cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[object] = []
    closed_in: list[str] = []
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def close(self) -> None:
            closed_in.append(threading.current_thread().name)
            super().close()

    def noting(*arguments: Any, **options: Any) -> sqlite3.Connection:
        waits.append(options.get("timeout"))
        return connect(*arguments, **options, factory=Connection)

    monkeypatch.setattr(sqlite3, "connect", noting)
    fill(cache)
    assert waits[-1] == 5.0, "0 while it is opened, when diskcache itself tries again"
    closed_in.clear()
    fill(cache)
    assert closed_in == [], "the main thread keeps its own"
    worker = threading.Thread(target=fill, args=(cache,), name="worker")
    worker.start()
    worker.join()
    assert "worker" in closed_in


def test_an_answer_comes_back_as_it_was_kept_for_its_key_and_environment_only(
    cache: AnswerCache,
) -> None:
    assert cache.get("sr1:a", "env") is None
    cache.put("sr1:a", "env", ANSWER, None)
    cache.put("sr1:b", "env", completion_of("other"), "digest")
    assert cache.get("sr1:a", "env") == (ANSWER, None)
    assert cache.get("sr1:b", "env") == (completion_of("other"), "digest")
    assert cache.get("sr1:a", "another") is None
    with closing(AnswerCache()) as other:
        assert other.get("sr1:a", "env") == (ANSWER, None)
    assert cache.trouble is None


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "poison",
    [
        "UPDATE Cache SET mode = 4, value = :pickle",
        "UPDATE Cache SET mode = 4, value = NULL, filename = :file",
        "UPDATE Cache SET mode = 2, value = NULL, filename = :file",
        "UPDATE Cache SET mode = 3, value = NULL, filename = :file",
        "UPDATE Cache SET value = :pickle",
        "UPDATE Cache SET value = substr(value, 1, 40)",
        "UPDATE Cache SET value = 'a text'",
        "UPDATE Cache SET value = NULL",
        "UPDATE Cache SET raw = 0, key = :pickle",
        "INSERT INTO Settings VALUES ('disk_anything', :pickle)",
        "INSERT INTO Settings VALUES ('get', :pickle)",
        "DROP TABLE Cache",
        "DELETE FROM Settings",
    ],
)
def test_a_poisoned_store_gives_a_miss_and_runs_reads_and_removes_nothing(
    poison: str, folder: Path, tmp_path: Path
) -> None:
    with closing(AnswerCache()) as first:
        fill(first)
    precious, sign = tmp_path / "precious.txt", tmp_path / "was unpickled"
    precious.write_text("precious")
    bomb = pickle.dumps(Bomb(sign))
    (tmp_path / "bomb").write_bytes(bomb)
    with closing(database(folder)) as connection:
        names = {"pickle": bomb, "file": str(precious)}
        connection.execute(poison, {name: names[name] for name in names if f":{name}" in poison})
    with closing(AnswerCache()) as cache:
        assert cache.get("sr1:0", "env") in (None, (KEPT, "digest"))
        fill(cache)
        cache.trim()
    with closing(AnswerCache()) as cache:
        with suppress(CassetteAccessError):
            cache.check()
        cache.clear()
        fill(cache)
        assert cache.get("sr1:0", "env") is not None
    assert not sign.exists()
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("size", [0, 1000, 200_000], ids=["empty", "small", "large"])
def test_an_answer_is_kept_as_bytes_in_the_database_and_in_no_other_file(
    size: int, folder: Path
) -> None:
    """What is no bytes would be unpickled, and a file could be another one when it is read."""
    answer = Completion(200, "application/json", b"x" * size)
    with closing(AnswerCache()) as cache:
        cache.put("sr1:a", "env", answer, None)
        assert cache.get("sr1:a", "env") == (answer, None)
        assert cache.trouble is None
    assert [path.name for path in folder.iterdir()] == ["cache.db"]
    with closing(database(folder)) as connection:
        kept = connection.execute(
            "SELECT typeof(key), raw, typeof(value), mode, filename FROM Cache"
        ).fetchall()
    assert kept == [("blob", 1, "blob", 1, None)]


@pytest.mark.parametrize("damage", [b"no database at all" * 1000, b""])
def test_a_damaged_store_is_a_miss_and_is_said(damage: bytes, folder: Path) -> None:
    with closing(AnswerCache()) as first:
        fill(first)
    for path in folder.iterdir():
        path.unlink()
    (folder / "cache.db").write_bytes(damage)
    with closing(AnswerCache()) as cache:
        assert cache.get("sr1:0", "env") is None
        fill(cache)
        if damage:
            assert cache.trouble is not None
            assert "not a database" in cache.trouble
            with pytest.raises(CassetteAccessError, match="cache clear"):
                cache.stats()


def test_every_flipped_bit_of_an_answer_is_a_miss(folder: Path) -> None:
    with closing(AnswerCache()) as first:
        fill(first)
    with closing(database(folder)) as connection:
        ((whole,),) = connection.execute("SELECT value FROM Cache").fetchall()
        for at in range(0, len(whole), 7):
            flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
            connection.execute("UPDATE Cache SET value = ?", (flipped,))
            with closing(AnswerCache()) as cache:
                assert cache.get("sr1:0", "env") is None
                assert "not what was written" in str(cache.trouble)
                fill(cache)


def test_nothing_is_dropped_before_it_is_asked_for_and_then_what_was_used_least_recently() -> None:
    with closing(AnswerCache(limit=400_000)) as cache:
        fill(cache, 40, body=b"x" * 20_000)
        assert cache.stats().answers == 40
        for number in range(5):
            assert cache.get(f"sr1:{number}", "env") is not None
        dropped = cache.trim()
        assert 10 <= dropped < 40
        assert cache.stats().answers == 40 - dropped
        assert all(cache.get(f"sr1:{number}", "env") is not None for number in range(5))
        assert cache.get("sr1:5", "env") is None
        assert cache.trim() == 0


def test_a_cache_that_cannot_be_trimmed_has_dropped_nothing_and_says_why(
    cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: object) -> int:
        raise sqlite3.OperationalError("disk I/O error")

    fill(cache)
    monkeypatch.setattr(diskcache.Cache, "cull", failing)
    assert cache.trim() == 0
    assert "disk I/O error; see swarm-repro cache check" in str(cache.trouble)


@pytest.mark.parametrize(
    ("given", "size"), [("500", 500), ("3K", 3072), ("2M", 2 << 20), ("1G", 1 << 30)]
)
def test_the_limit_is_the_users(given: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, given)
    assert AnswerCache().limit == size


def test_a_limit_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "plenty")
    with pytest.raises(UsageError, match="500M"):
        AnswerCache()


WRITER = """
import sys
from swarm_repro.cache import AnswerCache
from swarm_repro.completion import Completion
cache = AnswerCache()
for number in range(200):
    key = f"sr1:{sys.argv[1]} {number}"
    cache.put(key, "env", Completion(200, "t", f"{number}".encode()), None)
    found = cache.get(key, "env")
    assert found is not None and found[0].body == f"{number}".encode(), cache.trouble
assert cache.trouble is None, cache.trouble
"""


def test_processes_share_it(cache: AnswerCache) -> None:
    running = [subprocess.Popen([sys.executable, "-c", WRITER, str(n)], cwd=ROOT) for n in range(4)]
    assert [one.wait(120) for one in running] == [0, 0, 0, 0]
    assert cache.stats().answers == 800
    assert cache.check() == (800, 0)


class Answers(RuleBasedStateMachine):
    """The cache, used by two at a time and damaged now and then, beside a dict."""

    keys = st.sampled_from(["sr1:a", "sr1:b", "sr1:c"])

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.patch = patch.dict(os.environ, {CACHE_VARIABLE: str(self.folder)})
        self.patch.start()
        self.users = [AnswerCache(), AnswerCache()]
        self.kept: dict[str, Completion] = {}
        #: What may be there or not, since something happened to it.
        self.doubtful: set[str] = set()

    def teardown(self) -> None:
        for user in self.users:
            user.close()
        self.patch.stop()
        shutil.rmtree(self.folder)

    @rule(key=keys, text=st.text(max_size=5), who=st.integers(0, 1))
    def put(self, key: str, text: str, who: int) -> None:
        self.kept[key] = completion_of(text)
        self.doubtful.discard(key)
        self.users[who].put(key, "env", self.kept[key], None)

    @rule(key=keys, who=st.integers(0, 1))
    def get(self, key: str, who: int) -> None:
        found = self.users[who].get(key, "env")
        if found is None:
            assert key in self.doubtful or key not in self.kept
            self.kept.pop(key, None)
            self.doubtful.discard(key)
        else:
            assert found == (self.kept[key], None)

    @rule(who=st.integers(0, 1))
    def begin_again(self, who: int) -> None:
        self.users[who].close()
        self.users[who] = AnswerCache()

    @rule(place=st.integers(1, 400), who=st.integers(0, 1))
    def damage(self, place: int, who: int) -> None:
        if self.users[who].stats().answers == 0:
            return
        self.doubtful |= self.kept.keys()
        with closing(database(self.folder / "answers")) as connection:
            connection.execute(
                "UPDATE Cache SET value = CAST(substr(value, 1, ?) AS BLOB) || x'00' "
                "|| CAST(substr(value, ? + 2) AS BLOB)",
                (place, place),
            )

    @rule(who=st.integers(0, 1))
    def check(self, who: int) -> None:
        whole, removed = self.users[who].check()
        assert whole <= len(self.kept)
        assert whole + removed <= 3, "there are three keys"
        if removed == 0 and not self.doubtful:
            assert whole == len(self.kept)

    @rule(who=st.integers(0, 1))
    def drop_all(self, who: int) -> None:
        self.users[who].close()
        with closing(AnswerCache(limit=1)) as small:
            small.stats()
            small.trim()
        self.doubtful |= self.kept.keys()
        self.begin_again(who)


def test_any_use_of_the_cache_agrees_with_a_dict() -> None:
    run_state_machine_as_test(
        Answers, settings=settings(max_examples=40, stateful_step_count=25, deadline=None)
    )


# --- Sessions.


def session_on(path: Path, model_mode: Mode = Mode.RECORD, **options: object) -> Session:
    options = {"cache": True, "header": HEADER, "seed": 7, **options}
    return open_session(path, mode=model_mode, **options)  # type: ignore[arg-type]


def recorded(path: Path, model: TinyModel, *prompts: str, **options: Any) -> list[str]:
    with closing(session_on(path, **options)) as session:
        texts = [ask(session, model, prompt).text for prompt in prompts]
        assert session.store is not None
        session.store.finish(used=session.ledger.used, run=None, keep=False)
    return texts


def test_a_recording_takes_from_the_cache_what_the_same_model_answered_before(
    tmp_path: Path,
) -> None:
    first, again = TinyModel(), TinyModel()
    texts = recorded(tmp_path / "a.jsonl", first, "a", "b")
    assert recorded(tmp_path / "b.jsonl", again, "a", "b", "c")[:2] == texts
    assert len(again.sent) == 1
    calls = read_cassette(tmp_path / "b.jsonl").calls.values()
    assert [call.from_cache for call in calls] == [True, True, False]
    old = list(read_cassette(tmp_path / "a.jsonl").calls.values())
    for call, known in zip(calls, old, strict=False):
        assert call.completion == known.completion
        assert call.prompt_sha256 == known.prompt_sha256
    replay = replaying(tmp_path / "b.jsonl")
    assert [ask(replay, TinyModel(), prompt).text for prompt in ("a", "b")] == texts


def test_an_entry_that_only_came_from_the_cache_changes_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    recorded(path, TinyModel(), "a", "b")
    before = path.read_bytes()
    model = TinyModel()
    recorded(path, model, "a", "b")
    assert model.sent == []
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "other",
    [
        lambda: TinyModel(environment=make_environment("another CPU")),
        lambda: TinyModel(binding=make_binding(weights="f" * 64)),
    ],
    ids=["environment", "weights"],
)
def test_another_machine_or_model_is_asked_itself(
    other: Callable[[], TinyModel], tmp_path: Path
) -> None:
    recorded(tmp_path / "a.jsonl", TinyModel(), "a")
    model = other()
    recorded(tmp_path / "b.jsonl", model, "a")
    assert len(model.sent) == 1


STRICT = Header(recorder="0.1.0", strict=True)
AS_IS = Header(recorder="0.1.0", seed_policy="as-is")
WEAK = ModelIdentity("fingerprint", {"n_params": 1})


@pytest.mark.parametrize(
    "options",
    [
        {"header": STRICT},
        {"header": AS_IS},
        {"redact": lambda text: text},
        {"fresh": True},
        {"cache": False},
    ],
    ids=["strict", "no seed", "redacted", "fresh", "off"],
)
def test_where_the_cache_is_not_used_the_model_is_asked(
    options: dict[str, object], tmp_path: Path
) -> None:
    recorded(tmp_path / "a.jsonl", TinyModel(), "a", **{**options, "fresh": False})
    recorded(tmp_path / "b.jsonl", TinyModel(), "a")
    model = TinyModel()
    recorded(tmp_path / "c.jsonl", model, "a", **options)
    assert len(model.sent) == 1


def test_a_model_whose_weights_are_not_known_is_asked_each_time(tmp_path: Path) -> None:
    weak = make_binding()
    object.__setattr__(weak, "identity", WEAK)
    for name in ("a", "b"):
        model = TinyModel(binding=weak)
        recorded(tmp_path / f"{name}.jsonl", model, "a")
        assert len(model.sent) == 1


def test_fresh_answers_replace_those_in_the_cache(tmp_path: Path) -> None:
    recorded(tmp_path / "a.jsonl", TinyModel(wording="old"), "a")
    recorded(tmp_path / "b.jsonl", TinyModel(wording="new"), "a", fresh=True)
    (text,) = recorded(tmp_path / "c.jsonl", TinyModel(wording="newest"), "a")
    assert text.startswith("new ")


def test_replays_and_verifications_do_not_use_it(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "a.jsonl"
    recorded(path, TinyModel(), "a", cache=False)
    for mode in (Mode.REPLAY, Mode.VERIFY, Mode.LIVE):
        with closing(session_on(path, mode)) as session:
            ask(session, TinyModel(), "a")
    assert not folder.exists()


def test_an_answer_with_a_credential_is_not_kept_for_others(
    tmp_path: Path, cache: AnswerCache
) -> None:
    model = TinyModel()
    model.trouble = lambda _n: completion_of("take AKIAIOSFODNN7EXAMPLE with you")
    recorded(tmp_path / "a.jsonl", model, "a")
    assert cache.stats().answers == 0


def test_a_damaged_cache_does_not_stop_a_recording(tmp_path: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "cache.db").write_bytes(b"no database" * 1000)
    model = TinyModel()
    with closing(session_on(tmp_path / "a.jsonl")) as session:
        ask(session, model, "a")
    (note,) = session.cache_notes()
    assert "cache clear" in note


def test_what_a_session_had_to_drop_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "1K")
    monkeypatch.setenv(SWITCH_VARIABLE, "1")
    with closing(session_on(tmp_path / "a.jsonl", cache=False)) as session:
        ask(session, TinyModel(), "a")
    (note,) = session.cache_notes()
    assert "1 answers" in note
    assert LIMIT_VARIABLE in note


def test_use_cassette_warns_of_a_damaged_cache(tmp_path: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "cache.db").write_bytes(b"no database" * 1000)
    with (
        pytest.warns(CacheWarning, match="cache clear"),
        use_cassette(
            tmp_path / "a.jsonl", mode="record", seed_policy="event", cache=True
        ) as session,
    ):
        ask(session, TinyModel(), "a")


# --- The command.


def test_the_command_shows_checks_and_clears(folder: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return swarm_repro("cache", *words, cwd=tmp_path)

    with closing(AnswerCache()) as cache:
        fill(cache, 3)
    assert "3 answers" in run("stats").stdout
    assert run("stats", "--json").stdout.startswith('{"folder":"')
    assert run("check").returncode == 0
    with closing(database(folder)) as connection:
        connection.execute("UPDATE Cache SET value = x'00' WHERE rowid = 1")
    checked = run("check", "--json")
    assert (checked.returncode, checked.stdout) == (5, '{"whole":2,"removed":1}\n')
    assert run("clear").returncode == 0
    assert not folder.exists()
    assert "0 answers" in run("stats").stdout
    (folder / "cache.db").write_bytes(b"no database" * 1000)
    for words in (("stats",), ("check",)):
        damaged = run(*words)
        assert damaged.returncode == 2
        assert "cache clear" in damaged.stderr
    assert run("clear").returncode == 0


# --- Where the cache is in the way of nobody.


def test_nothing_is_made_before_it_is_asked(folder: Path) -> None:
    with closing(AnswerCache()) as cache:
        assert cache.folder == folder
        assert cache.trim() == 0
    cache.clear()
    assert not folder.exists()


def test_a_cache_that_is_closed_is_opened_again(cache: AnswerCache) -> None:
    fill(cache)
    cache.close()
    assert cache.get("sr1:0", "env") == (KEPT, "digest")
    cache.close()
    cache.close()
    assert cache.stats().answers == 1


def test_an_answer_of_any_status_and_type_comes_back_whole(cache: AnswerCache) -> None:
    answer = Completion(201, "text/event-stream", b"data: 1\n\n\ndata: [DONE]\n\n", 1.25)
    cache.put("sr1:a", "env", answer, "digest")
    assert cache.get("sr1:a", "env") == (answer, "digest")


def test_an_answer_that_was_moved_to_another_key_is_a_miss(
    cache: AnswerCache, folder: Path
) -> None:
    fill(cache, 2)
    cache.close()
    with closing(database(folder)) as connection:
        other = connection.execute("SELECT value FROM Cache WHERE rowid = 2").fetchone()
        connection.execute("UPDATE Cache SET value = ? WHERE rowid = 1", other)
    assert cache.get("sr1:0", "env") is None
    assert cache.trouble == f"the cache {folder}: an answer in it is not what was written"
    assert cache.get("sr1:1", "env") == (KEPT, "digest")
    assert cache.stats().answers == 1, "what is wrong is removed"


def test_the_first_trouble_is_the_one_that_is_told(cache: AnswerCache, folder: Path) -> None:
    fill(cache)
    cache.close()
    with closing(database(folder)) as connection:
        connection.execute("UPDATE Cache SET value = x'00'")
    assert cache.get("sr1:0", "env") is None
    cache.close()
    (folder / "cache.db").write_bytes(b"no database" * 1000)
    fill(cache)
    assert "not what was written" in str(cache.trouble)


def test_what_it_holds_is_told(cache: AnswerCache, folder: Path) -> None:
    assert cache.stats().answers == 0
    fill(cache, 3, body=b"x" * 50_000)
    found = cache.stats()
    assert (found.folder, found.answers, found.limit) == (folder, 3, 4 << 30)
    assert 150_000 <= found.size < 400_000


def test_a_check_removes_what_is_not_whole_and_nothing_else(
    cache: AnswerCache, folder: Path
) -> None:
    assert cache.check() == (0, 0)
    fill(cache, 8)
    cache.close()
    with closing(database(folder)) as connection:
        for number, change in enumerate(
            ("value = x'00'", "mode = 4", "raw = 0", "filename = 'x'", "value = 'a text'"), 1
        ):
            connection.execute(f"UPDATE Cache SET {change} WHERE rowid = {number}")  # noqa: S608
    assert cache.check() == (3, 5)
    assert cache.check() == (3, 0)
    assert [cache.get(f"sr1:{number}", "env") is not None for number in range(8)] == (
        [False] * 5 + [True] * 3
    )


@pytest.mark.parametrize("change", ["mode = 4", "raw = 0", "filename = 'x'", "value = 'a text'"])
def test_an_entry_that_is_not_of_our_making_is_a_miss(
    change: str, cache: AnswerCache, folder: Path
) -> None:
    fill(cache)
    cache.close()
    with closing(database(folder)) as connection:
        connection.execute(f"UPDATE Cache SET {change}")  # noqa: S608
    assert cache.get("sr1:0", "env") is None


def test_a_folder_that_cannot_be_removed_is_a_clear_error(cache: AnswerCache, folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("a file where the cache is to be")
    with pytest.raises(CassetteAccessError) as caught:
        cache.clear()
    assert str(caught.value) == f"{folder} cannot be removed: Not a directory"
    assert folder.exists()


def test_a_file_where_the_cache_is_to_be_is_a_miss_and_is_said(
    cache: AnswerCache, folder: Path
) -> None:
    folder.parent.mkdir()
    folder.write_text("a file where the cache is to be")
    assert cache.get("sr1:0", "env") is None
    fill(cache)
    assert str(cache.trouble).startswith(f"the cache {folder}: ")
    assert str(cache.trouble).endswith("; see swarm-repro cache check, or cache clear")
    for ask_it in (cache.stats, cache.check):
        with pytest.raises(CassetteAccessError) as caught:
            ask_it()
        assert str(caught.value).startswith(f"the cache {folder} cannot be read: ")
        assert str(caught.value).endswith("; remove it with swarm-repro cache clear")


@pytest.mark.parametrize("given", ["", "4T", "1.5G", "-1", "G", "4 G", "4g"])
def test_other_words_are_no_size(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, given)
    with pytest.raises(UsageError) as caught:
        AnswerCache()
    assert str(caught.value) == (f"{LIMIT_VARIABLE} is {given!r}; give a size such as 500M or 4G")


def test_a_limit_given_in_code_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AnswerCache().limit == 4 << 30
    monkeypatch.setenv(LIMIT_VARIABLE, "3K")
    assert AnswerCache(limit=5).limit == 5
    monkeypatch.setenv(LIMIT_VARIABLE, "nonsense")
    assert AnswerCache(limit=0).limit == 0


# --- The command, in this process.


def run_command(*words: str) -> tuple[int, str]:
    from click.testing import CliRunner

    from swarm_repro.cli.cache import command

    done = CliRunner().invoke(command, words, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return int(done.return_value or 0), done.output


def test_the_command_tells_what_the_cache_holds(folder: Path) -> None:
    with closing(AnswerCache()) as cache:
        fill(cache, 2)
        size = cache.stats().size
    document = {"folder": str(folder), "answers": 2, "bytes": size, "limit": 4 << 30}
    code, shown = run_command("stats", "--json")
    assert (code, json.loads(shown)) == (0, document)
    megabytes = f"{size / 2**20:.1f} of 4096 MiB"
    assert run_command("stats") == (0, f"{folder}: 2 answers, {megabytes}\n")


def test_the_command_tells_what_it_removed_and_ends_with_5(folder: Path) -> None:
    with closing(AnswerCache()) as cache:
        fill(cache, 3)
    shown = f"{folder}: 3 answers are whole, 0 were not and are removed\n"
    assert run_command("check") == (0, shown)
    with closing(database(folder)) as connection:
        connection.execute("UPDATE Cache SET value = x'00' WHERE rowid = 1")
    shown = f"{folder}: 2 answers are whole, 1 were not and are removed\n"
    assert run_command("check") == (5, shown)
    assert run_command("check", "--json") == (0, '{"whole":2,"removed":0}\n')


def test_the_command_clears_a_damaged_cache(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "cache.db").write_bytes(b"no database" * 1000)
    with pytest.raises(CassetteAccessError):
        run_command("stats")
    assert run_command("clear") == (0, f"{folder} is removed\n")
    assert not folder.exists()
