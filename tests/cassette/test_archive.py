"""Archives: read as the plain file is, unpacked once, never believed without looking, bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard

from swarm_repro.cachedir import CACHE_VARIABLE, cache_folder
from swarm_repro.cassette import archive
from swarm_repro.cassette.archive import unpacked
from swarm_repro.cassette.check import check_cassette, repaired_path
from swarm_repro.cassette.index import CassetteIndex
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError, UsageError
from swarm_repro.mode import Mode
from tests.support.command import ROOT, swarm_repro
from tests.support.tiny_model import LONG, TinyModel, ask, recording, replaying, small_cassette


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def plain(tmp_path: Path) -> Cassette:
    path = tmp_path / "c.jsonl"
    small_cassette(path)
    return read_cassette(path)


@pytest.fixture
def packed(tmp_path: Path, plain: Cassette) -> Path:
    path = tmp_path / "c.jsonl.zst"
    write_cassette(plain, path)
    return path


def test_an_archive_is_read_as_the_plain_file_is(plain: Cassette, packed: Path) -> None:
    assert read_cassette(packed).calls == plain.calls
    assert unpacked(packed).read_bytes() == plain.path.read_bytes()
    assert packed.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
    with CassetteIndex(packed) as index:
        assert len(index.entries) == len(plain.calls)
    assert check_cassette(packed).is_whole
    session = replaying(packed)
    assert ask(session, TinyModel(), LONG).body == next(iter(plain.calls.values())).completion.body


def test_the_same_cassette_gives_the_same_archive(plain: Cassette, packed: Path) -> None:
    before = packed.read_bytes()
    write_cassette(plain, packed)
    assert packed.read_bytes() == before


def test_it_is_unpacked_once(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_cassette(packed)
    monkeypatch.setattr(archive, "_unpack", None)
    read_cassette(packed)
    assert len(list(cache_folder("archives").iterdir())) == 1


def test_an_archive_that_was_replaced_is_unpacked_anew(packed: Path, tmp_path: Path) -> None:
    read_cassette(packed)
    other = tmp_path / "other.jsonl"
    with recording(other) as session:
        ask(session, TinyModel(), "another")
    write_cassette(read_cassette(other), packed)
    assert len(read_cassette(packed).calls) == 1


@pytest.mark.parametrize("damage", [b"", b"x", b'{"record":"cassette"}\n'])
def test_a_damaged_copy_in_the_cache_is_replaced(
    damage: bytes, packed: Path, plain: Cassette
) -> None:
    copy = unpacked(packed)
    copy.write_bytes(damage)
    assert read_cassette(packed).calls == plain.calls
    assert copy.read_bytes() == plain.path.read_bytes()


def test_what_is_recorded_into_an_archive_is_compressed_at_the_end(packed: Path) -> None:
    with recording(packed, mode=Mode.AUTO, run_seed=8) as session:
        ask(session, TinyModel(), "one more")
        assert packed.with_name("c.jsonl.zst.part").exists()
    assert len(read_cassette(packed).calls) == 4
    assert packed.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"


@pytest.mark.parametrize("size", [1 << 20, 1 << 26])
def test_a_bomb_is_refused_and_leaves_nothing(
    size: int, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(archive.LIMIT_VARIABLE, str(size - 1))
    path = tmp_path / "bomb.jsonl.zst"
    path.write_bytes(zstandard.compress(b"\0" * size))
    assert path.stat().st_size < size / 1000
    with pytest.raises(CassetteAccessError, match=archive.LIMIT_VARIABLE):
        read_cassette(path)
    assert list((cache / "archives").iterdir()) == []


def test_a_window_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.jsonl.zst"
    wide = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=wide)
    with path.open("wb") as file, compressor.stream_writer(file) as writer:
        writer.write(b"x" * 1000)
    with pytest.raises(CassetteDamagedError, match="zstd"):
        read_cassette(path)


def test_damage_is_named(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    cases = {
        b"": "empty, or was cut off",
        data[: len(data) // 2]: "cut off|damaged|torn",
        b"not compressed": "not a zstd archive",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "git lfs pull",
        data[:60] + bytes([data[60] ^ 8]) + data[61:]: "damaged|checksum|SHA-256|JSON",
    }
    for number, (damaged, words) in enumerate(cases.items()):
        path = tmp_path / f"{number}.jsonl.zst"
        path.write_bytes(damaged)
        with pytest.raises(CassetteDamagedError, match=words):
            read_cassette(path)


def test_what_cannot_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CassetteAccessError, match="there is no cassette"):
        read_cassette(tmp_path / "nothing.jsonl.zst")
    monkeypatch.setenv(archive.LIMIT_VARIABLE, "8G")
    path = tmp_path / "c.jsonl.zst"
    path.write_bytes(zstandard.compress(b"x"))
    with pytest.raises(UsageError, match="number of bytes"):
        read_cassette(path)


def test_a_repaired_archive_is_one_by_its_name() -> None:
    assert repaired_path(Path("a/c.jsonl.zst")) == Path("a/c.repaired.jsonl.zst")
    assert repaired_path(Path("a/c.jsonl.zst.part")) == Path("a/c.repaired.jsonl.zst")


def test_merge_packs_and_unpacks_and_a_real_run_replays(tmp_path: Path) -> None:
    demo = ROOT / "cassettes" / "demo.seed42.jsonl"
    assert swarm_repro("merge", "demo.jsonl.zst", demo, cwd=tmp_path).returncode == 0
    size = (tmp_path / "demo.jsonl.zst").stat().st_size
    assert size < demo.stat().st_size / 5
    assert swarm_repro("merge", "again.jsonl", "demo.jsonl.zst", cwd=tmp_path).returncode == 0
    assert (tmp_path / "again.jsonl").read_bytes() == demo.read_bytes()
    done = swarm_repro(
        *("run", ROOT / "scenarios" / "demo.yaml", "--seed", 42, "--replay"),
        *("--cassette", "demo.jsonl.zst", "--out", "out"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


# --- What is one, and how large it may be.


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("c.zst", b"", True),
        ("c.jsonl.zst", b"plain", True),
        ("c.jsonl", zstandard.compress(b"x"), False),
        ("c.part", zstandard.compress(b"x"), False),
        ("c", zstandard.compress(b"x"), True),
        ("c.tmp", zstandard.compress(b"x"), True),
        ("c.tmp", b"plain", False),
        ("c", b"\x28\xb5\x2f", False),
        ("c", b"", False),
    ],
)
def test_an_archive_is_told_by_its_name_or_else_by_its_first_bytes(
    name: str, data: bytes, expected: bool, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    assert archive.is_archive(tmp_path / name) is expected
    (tmp_path / name).unlink()
    assert archive.is_archive(tmp_path / name) is name.endswith(".zst")
    (tmp_path / name).mkdir()
    assert archive.is_archive(tmp_path / name) is name.endswith(".zst")


def test_the_limit_is_8_gib_or_what_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(archive.LIMIT_VARIABLE, raising=False)
    assert archive.unpack_limit() == 8 * 1024**3
    for text, number in (("0", 0), ("123", 123)):
        monkeypatch.setenv(archive.LIMIT_VARIABLE, text)
        assert archive.unpack_limit() == number
    for text in ("", "8G", "-1", "1.5", "1e9"):
        monkeypatch.setenv(archive.LIMIT_VARIABLE, text)
        with pytest.raises(UsageError) as caught:
            archive.unpack_limit()
        assert str(caught.value) == (
            f"SWARM_REPRO_UNPACK_LIMIT is {text!r}; give a number of bytes"
        )


def test_an_archive_of_exactly_the_limit_is_unpacked(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.jsonl.zst"
    path.write_bytes(zstandard.compress(b"x" * 1000))
    monkeypatch.setenv(archive.LIMIT_VARIABLE, "999")
    with pytest.raises(CassetteAccessError) as caught:
        unpacked(path)
    assert str(caught.value) == (
        f"{path} unpacks to more than 999 bytes; if it is yours, raise SWARM_REPRO_UNPACK_LIMIT"
    )
    monkeypatch.setenv(archive.LIMIT_VARIABLE, "1000")
    assert unpacked(path).read_bytes() == b"x" * 1000
    assert unpacked(path).parent == cache / "archives"


def test_a_cache_that_cannot_be_written_is_named_with_what_to_do(packed: Path, cache: Path) -> None:
    cache.write_bytes(b"a file")
    with pytest.raises(CassetteAccessError) as caught:
        read_cassette(packed)
    assert str(caught.value).startswith(f"{packed} cannot be unpacked into {cache / 'archives'}: ")
    assert str(caught.value).endswith("; name another folder in SWARM_REPRO_CACHE_DIR")


def test_what_is_no_archive_leaves_nothing_in_the_cache(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "c.jsonl.zst"
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    for data, why in (
        (pointer, "this is a Git LFS pointer, not the archive; run: git lfs pull"),
        (b"", "the archive is empty, or was cut off; see what is whole: swarm-repro check "),
        (b"not compressed", "not a zstd archive, or a damaged one: "),
    ):
        path.write_bytes(data)
        with pytest.raises(CassetteDamagedError) as caught:
            unpacked(path)
        assert str(caught.value).startswith(f"{path}: {why}")
        assert list((cache / "archives").iterdir()) == []


def test_an_archive_of_several_frames_is_unpacked_whole(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.zst"
    path.write_bytes(zstandard.compress(b"one ") + zstandard.compress(b"two"))
    assert unpacked(path).read_bytes() == b"one two"
