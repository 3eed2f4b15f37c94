"""Markdown that shows others' texts and lets none of them do anything.

GitHub renders a job summary as Markdown with HTML in it, links URLs, mentions and issue numbers,
and its runner reads commands (``::error::``, ``##[group]``) from what a step prints. A text is
therefore shown with all its ASCII punctuation as character references, which can be no syntax,
inside ``<code>`` or ``<pre>``, where GitHub links nothing.

Source: CommonMark 0.31, section 2.5; GitHub's Workflow commands for GitHub Actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarm_repro.printable import printable

#: Characters of a text that are shown unless told otherwise.
SHOWN = 240
_PLAIN = frozenset(" ,;")
#: Between an address's name and host a comment, else GitHub makes it a link to a mail program.
_AT = "&#64;<!---->"


def escaped(text: str) -> str:
    """A text that is no Markdown, HTML or command, on one line; others' texts go in ``code``."""
    return "".join(
        character
        if character.isalnum() or character in _PLAIN or ord(character) > 127
        else _AT
        if character == "@"
        else f"&#{ord(character)};"
        for character in printable(text)
    )


def code(value: object, *, limit: int = SHOWN) -> str:
    """A value in a fixed-width font, shortened; a number is shown plainly, None as a dash.

    Args:
        value: Any value; its text is shown.
        limit: Characters shown, before escaping.
    """
    if value is None:
        return "-"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return escaped(str(value))
    text = str(value)
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return f"<code>{escaped(shown)}</code>" if shown else ""


def preformatted(text: str, *, limit: int = 4_000) -> str:
    """A text of several lines, shortened."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    lines = (escaped(line).replace(_AT, "&#64;") or " " for line in shown.split("\n"))
    return "<pre>" + "\n".join(lines) + "</pre>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table's lines; cells are Markdown already."""
    return [
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def joined(sections: Iterable[Sequence[str]], *, limit_bytes: int) -> str:
    """Sections as one text, and a line on what there was no room for.

    Args:
        sections: Each a list of lines that belong together.
        limit_bytes: No section is begun that would not fit.
    """
    parts: list[str] = []
    used = left_out = 0
    for section in sections:
        text = "\n".join(section) + "\n\n"
        size = len(text.encode("utf-8"))
        if left_out or used + size > limit_bytes:
            left_out += 1
            continue
        parts.append(text)
        used += size
    if left_out:
        parts.append(f"{left_out} more sections did not fit.\n")
    return "".join(parts)
