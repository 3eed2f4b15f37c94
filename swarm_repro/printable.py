"""Texts of models and files, shown so that they cannot drive a terminal or mislead a reader."""

from __future__ import annotations


def printable(text: str, *, keep_lines: bool = False) -> str:
    r"""A text with whatever does not show as itself written as an escape.

    Escaped are control characters (``\x1b``), format characters such as bidirectional overrides
    and zero widths (``\u202e``), line and paragraph separators, spaces other than the plain one,
    surrogates, private use and unassigned characters.

    Args:
        text: Any text.
        keep_lines: Leave line feeds as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or (keep_lines and character == "\n")
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
