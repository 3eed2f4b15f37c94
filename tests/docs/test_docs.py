"""What README.md and docs/ say is tried: commands and snippets run, links lead somewhere.

The blocks of a page run in their order, in a folder with copies of the scenarios, cassettes, docs,
scripts and test data. markdown-it-py parses the pages, as a regular expression would take a fence
inside a list or a comment for another; rich, which the command line needs, brings it along.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import yaml

from swarm_repro.simulation.scenario import load_scenario
from tests.support.doc_pages import PAGES, ROOT, RUN, Block, blocks, commands, matches, tokens
from tests.support.shell_commands import shell_commands
from tests.support.warm import run_python

_COPIED = ("scenarios", "cassettes", "docs", "scripts", "tests/data")
_BLOCKS = [block for page in PAGES for block in blocks(page)]
_LIMIT_S = 120
_SLOW_LIMIT_S = 3600


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _pages_with(*directives: str | None) -> list[Path]:
    return [
        page
        for page in PAGES
        if any(b.page == page and b.language in RUN and b.directive in directives for b in _BLOCKS)
    ]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of what a reader has in a clone, with the installed command on PATH."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in _COPIED:
        shutil.copytree(ROOT / name, folder / name)
    for name in list(os.environ):
        if name.startswith(("SWARM_REPRO_", "LLAMA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SWARM_REPRO_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SWARM_REPRO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    # A reader's folder need not configure pytest-asyncio, which warns of that.
    allowed = 'ignore:The configuration option "asyncio_default_fixture_loop_scope" is unset'
    monkeypatch.setenv("PYTHONWARNINGS", f"error,{allowed}")
    with shell_commands(_SLOW_LIMIT_S) as path:
        monkeypatch.setenv("PATH", path)
        yield folder


#: What is printed besides, where Python or a package is not the one of the recording.
_NOTES_OF_OTHER_VERSIONS = re.compile(
    r"^(?:note: recorded under another Python"
    r"|  [\w-]+ is [\w.]+ here, the recording was made with ).*\n",
    re.MULTILINE,
)


def _run_line(line: str, folder: Path, limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell; one that asks for nothing of the shell, without it."""
    words = shlex.split(line, comments=True) if re.fullmatch(r"[\w ./:=,#'+-]+", line) else []
    if words[:1] != ["swarm-repro"]:
        return _run(["bash", "-c", line], folder, limit_s)
    return run_python(
        [str(Path(sys.executable).with_name("swarm-repro")), *words[1:]],
        cwd=folder,
        environment=os.environ,
        timeout_s=limit_s,
        stderr="with stdout",
    )


def _run(arguments: list[str], folder: Path, limit_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit_s,
        check=False,
    )


def _try(block: Block, folder: Path, limit_s: float = _LIMIT_S) -> None:
    """Do with a block what it asks for."""
    if block.directive == "file":
        target = folder / str(block.argument)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.text, "utf-8")
    elif block.language == "python":
        done = _run([sys.executable, "-c", block.text], folder, limit_s)
        assert done.returncode == 0, f"{block.where}\n{done.stdout}"
    elif block.language == "sh":
        done = _run(["bash", "-euo", "pipefail", "-c", block.text], folder, limit_s)
        assert done.returncode == 0, f"{block.where}\n{done.stdout}"
    elif block.language == "console":
        given = commands(block)
        for command in given:
            expected = {0}
            if block.argument is not None and command is given[-1]:
                expected = {int(code) for code in block.argument.split(",")}
            done = _run_line(command.line, folder, limit_s)
            said = f"{block.where}: {command.line}\n{done.stdout}"
            assert done.returncode in expected, said
            printed = _NOTES_OF_OTHER_VERSIONS.sub("", done.stdout)
            assert not command.shown or matches(command.shown, printed), said


@pytest.mark.parametrize("block", _BLOCKS, ids=lambda block: block.where)
def test_every_fence_says_what_it_is(block: Block) -> None:
    assert block.is_classified, f"{block.where}: tag it, or say <!-- test: ... --> before it"


@pytest.mark.parametrize("page", _pages_with(None, "exits"), ids=_name)
def test_commands_and_snippets_run(page: Path, project: Path) -> None:
    for block in blocks(page):
        if block.directive in (None, "exits", "file"):
            _try(block, project)


@pytest.mark.parametrize(
    "block",
    [b for b in _BLOCKS if b.language == "python" and b.directive == "needs-server"],
    ids=lambda block: block.where,
)
def test_what_snippets_for_a_model_import_is_there(block: Block, project: Path) -> None:
    imports = [
        ast.unparse(line)
        for line in ast.walk(ast.parse(block.text))
        if isinstance(line, ast.Import | ast.ImportFrom)
    ]
    done = _run([sys.executable, "-c", "\n".join(imports)], project, _LIMIT_S)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", _pages_with("needs-server"), ids=_name)
def test_commands_and_snippets_with_a_model_run(
    page: Path, model_path: Path, project: Path
) -> None:
    (project / "models").mkdir()
    (project / "models" / model_path.name).symlink_to(model_path)
    start = f"swarm-repro server start --model models/{model_path.name}"
    starts_one = any("server start" in b.text for b in blocks(page) if b.directive)
    try:
        if not starts_one:
            assert _run(["bash", "-c", start], project, _LIMIT_S).returncode == 0
        for block in blocks(page):
            if block.directive in (None, "exits", "file", "needs-server"):
                _try(block, project, _SLOW_LIMIT_S)
    finally:
        _run(["bash", "-c", "swarm-repro server stop --port 8080"], project, _LIMIT_S)


@pytest.mark.slow
@pytest.mark.parametrize("page", _pages_with("needs-network"), ids=_name)
def test_commands_that_install_run_in_a_copy_of_the_repository(page: Path, tmp_path: Path) -> None:
    copy = tmp_path / "clone"
    tracked = _run(["git", "ls-files", "-z"], ROOT, _LIMIT_S).stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    for block in blocks(page):
        if block.directive == "needs-network":
            _try(block, copy, _SLOW_LIMIT_S)


@pytest.mark.parametrize(
    "block", [b for b in _BLOCKS if b.directive != "shown"], ids=lambda block: block.where
)
def test_data_in_the_docs_can_be_read(block: Block, tmp_path: Path) -> None:
    if block.language == "yaml":
        assert yaml.safe_load(block.text) is not None
    elif block.language == "json":
        orjson.loads(block.text)
    elif block.language == "jsonl":
        assert all(isinstance(orjson.loads(line), dict) for line in block.text.splitlines())
    if block.directive == "scenario":
        path = tmp_path / "scenario.yaml"
        path.write_text(block.text, "utf-8")
        assert load_scenario(path).llms


def _links(page: Path) -> list[str]:
    found = []
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target:
                found.append(str(target))
    return found


def _anchors(page: Path) -> set[str]:
    """Ids that GitHub gives to the headings of a page."""
    found = set()
    for opening, inline in zip(tokens(page), tokens(page)[1:], strict=False):
        if opening.type == "heading_open":
            text = "".join(c.content for c in inline.children or ())
            found.add(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in _links(page):
        parts = urllib.parse.urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        assert target.exists(), f"{_name(page)}: {link}"
        assert target.is_relative_to(ROOT), f"{_name(page)}: {link}"
        if parts.fragment:
            assert parts.fragment in _anchors(target), f"{_name(page)}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_pages_name_no_folder_of_the_machine_they_were_written_on(page: Path) -> None:
    text = page.read_text("utf-8")
    found = re.findall(r"(?<![\w.:/<])/(?:work|home|Users|root|tmp|mnt|var)/\S*", text)
    assert found == []


def test_messages_in_the_troubleshooting_table_are_messages_of_the_program() -> None:
    guide = (ROOT / "docs" / "guides" / "llama-cpp-local-inference.md").read_text("utf-8")
    table = guide.split("## Troubleshooting", 1)[1]
    shown = [
        m
        for row in re.findall(r"^\| \d \| (.+?) \|", table, re.M)
        for m in re.findall(r"`(.+?)`", row)
    ]
    source = "".join(path.read_text("utf-8") for path in (ROOT / "swarm_repro").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    assert len(shown) > 12
    for message in shown:
        for part in re.split(r"…|\b\d+\b", message):
            assert part.strip() in source, message


def test_the_command_line_page_holds_every_help_text() -> None:
    done = _run([sys.executable, "scripts/make_cli_docs.py", "--check"], ROOT, _LIMIT_S)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_page_shows_what_a_terminal_of_80_columns_shows(project: Path) -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    for name in re.findall(r"<!-- help: (.+) -->", page):
        printed = _run_line(f"{name} --help", project, _LIMIT_S).stdout
        assert f"<!-- help: {name} -->\n```text\n{printed}```\n" in page


def test_a_parser_that_misses_fences_would_be_seen() -> None:
    marks = sum(len(re.findall(r"^ *```", page.read_text("utf-8"), re.M)) for page in PAGES)
    assert marks == 2 * len(_BLOCKS) > 40
