"""The fenced blocks of a page, and what is to be done with each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], key=lambda path: (len(path.parts), path)
)

#: Directives ``<!-- test: NAME -->`` on the line before a fence.
DIRECTIVES = {
    "shown": "not run: output, or a sketch",
    "needs-server": "run where there is a model and a llama-server (slow); after it codes that the "
    "last command may end with",
    "needs-network": "run where packages can be installed (slow)",
    "scenario": "YAML that must load as a scenario",
    "file": "written to the file it names, for the commands after it",
    "exits": "the last command ends with this code",
}
#: Languages that are run, that are parsed, and of text that is neither.
RUN = ("console", "python", "sh")
PARSED = ("yaml", "json", "jsonl")
PLAIN = ("", "text")

_DIRECTIVE = re.compile(r"<!-- test: ([a-z-]+)(?: (\S+))? -->\Z")
_COMMAND = re.compile(r"^\s*(\$ |swarm-repro |pip |python3? )", re.MULTILINE)
_HELP = re.compile(r"<!-- help: .+ -->\Z")


@dataclass(frozen=True)
class Block:
    """One fence."""

    page: Path
    line: int
    language: str
    text: str
    directive: str | None
    argument: str | None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_classified(self) -> bool:
        """Whether it is run, parsed, generated, or declared not to be."""
        if self.directive == "help":
            return self.language == "text"
        if self.directive is not None:
            return self.directive in DIRECTIVES
        if self.language in PLAIN:
            return not _COMMAND.search(self.text)
        return self.language in (*RUN, *PARSED)


@dataclass(frozen=True)
class Command:
    """A line after ``$ ``, and the output shown below it (empty: not shown)."""

    line: str
    shown: str


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))


def blocks(page: Path) -> Iterator[Block]:
    comment = ""
    for token in tokens(page):
        if token.type == "html_block":
            comment = token.content.strip().splitlines()[-1]
            continue
        if token.type == "fence":
            directive, argument = None, None
            if comment.startswith("<!-- test:"):
                match = _DIRECTIVE.match(comment)
                directive, argument = match.groups() if match else (comment, None)
            elif _HELP.match(comment):
                directive = "help"
            line = token.map[0] + 1 if token.map else 0
            yield Block(page, line, token.info.strip(), token.content, directive, argument)
        comment = ""


def commands(block: Block) -> list[Command]:
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], ""))
        elif line.startswith("> ") and found and not found[-1].shown:
            found[-1] = Command(f"{found[-1].line}\n{line[2:]}", "")
        elif found:
            found[-1] = Command(found[-1].line, found[-1].shown + line + "\n")
        else:
            raise ValueError(f"{block.where}: a console block begins with '$ '")
    return found


def matches(shown: str, printed: str) -> bool:
    """Whether output is what the page shows; ``...`` is any text, ``1.9 s`` any duration."""
    pattern = re.escape(shown.rstrip()).replace(re.escape("..."), ".*?")
    pattern = re.sub(r"\d+\\\.\d\\ s\b", r"\\d+\\.\\d s", pattern)
    return re.fullmatch(pattern, printed.rstrip(), re.DOTALL) is not None
