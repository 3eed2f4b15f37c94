"""One self-contained HTML file from a report: no network, no script but its own.

The report travels as JSON inside a script element that no browser executes, and the page builds
everything from it as text nodes. Texts in a report are model output, so nothing in them may become
mark-up: not here, where the characters that could end the element or mislead a reader of the
source are escaped, and not in the page, whose policy forbids turning strings into mark-up at all.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template

from swarm_repro.canonical import embed, encode_json
from swarm_repro.errors import UsageError
from swarm_repro.printable import printable

_EXPLORER = ("page.js", "words.js", "explorer.js", "timeline.js", "list.js")
#: The scripts of each kind of report, in the order in which they build on each other.
_SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "diff": (*_EXPLORER, "diff.js"),
    "verify": (*_EXPLORER, "verify.js"),
    "survey": (*_EXPLORER, "survey.js"),
    "audit": ("page.js", "audit.js"),
}
_VERSION = 1
_PAGE = b"<!doctype html"

#: What could end the element.
_MARKUP = {b"<": b"\\u003c", b">": b"\\u003e", b"&": b"\\u0026"}
#: What acts on who reads the source, in UTF-8: controls, format characters, line separators, byte
#: order marks, non-characters. Bytes, because a report may have a hundred megabytes.
_UNSEEN = re.compile(
    rb"\x7f|\xc2[\x80-\x9f\xad]"  # U+007F to U+009F, U+00AD
    rb"|\xd8\x9c|\xe1\xa0\x8e"  # U+061C, U+180E
    rb"|\xe2\x80[\x8b-\x8f\xa8-\xae]"  # U+200B to U+200F, U+2028 to U+202E
    rb"|\xe2\x81[\xa0-\xaf]"  # U+2060 to U+206F
    rb"|\xef\xbb\xbf|\xef\xbf[\xb0-\xbf]"  # U+FEFF, U+FFF0 to U+FFFF
    rb"|\xf3\xa0[\x80-\xbf][\x80-\xbf]"  # U+E0000 to U+E0FFF
)
_SURROGATE = re.compile("([\ud800-\udfff])")


def render_html(report: Mapping[str, object]) -> bytes:
    """A report as one HTML file; the same report gives the same bytes.

    Args:
        report: A report of kind ``diff``, ``audit``, ``verify`` or ``survey``, as JSON values.
            Texts may hold anything, lone surrogates included.

    Returns:
        UTF-8 bytes of the file.

    Raises:
        UsageError: Another kind or version of report, or values that are no JSON.
    """
    kind = report.get("report")
    if not isinstance(kind, str) or kind not in _SCRIPTS:
        known = ", ".join(_SCRIPTS)
        raise UsageError(f"there is no HTML page for a report of kind {kind!r}; known: {known}")
    if report.get("version") != _VERSION:
        raise UsageError(
            f"this version makes pages of {kind} reports of version {_VERSION}, "
            f"not {report.get('version')!r}; make the report and the page with one version"
        )
    style = _asset("report.css")
    script = "\n" + "\n".join(_asset(name) for name in _SCRIPTS[kind])
    policy = (
        "default-src 'none'; "
        f"script-src {_source(script)}; style-src {_source(style)}; "
        "base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    values = {
        "policy": policy,
        "title": f"swarm_repro {kind}",
        "style": style,
        "verdict": html.escape(printable(str(report.get("verdict", "")))),
        "script": script,
    }
    before, after = (
        Template(part).substitute(values).encode("utf-8")
        for part in _asset("page.html").split("$report")
    )
    return b"".join((before, _embedded(report), after))


def write_html(report: Mapping[str, object], path: Path) -> None:
    """Write a report as one HTML file.

    Args:
        report: As for ``render_html``.
        path: Where to; a page that is there is replaced.

    Raises:
        UsageError: As for ``render_html``; or the file cannot be written, or is there and no page.
    """
    page = render_html(report)
    try:
        if path.is_file() and not _is_page(path):
            raise UsageError(f"{printable(str(path))} is there and is no page; name another file")
        path.write_bytes(page)
    except OSError as error:
        raise UsageError(
            f"{printable(str(path))} cannot be written: {error.strerror}; name another file"
        ) from error


def _is_page(path: Path) -> bool:
    """Whether a file is a page, or empty. What is not, such as a cassette, is not replaced."""
    with path.open("rb") as file:
        begin = file.read(len(_PAGE))
    return not begin or begin.lower() == _PAGE


def _asset(name: str) -> str:
    return files("swarm_repro.reporting").joinpath("assets", name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """A Content-Security-Policy source for exactly this text.

    Source: W3C, Content Security Policy Level 3, hash-source.
    """
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _embedded(report: Mapping[str, object]) -> bytes:
    """The report as JSON that is harmless inside a script element."""
    encoded = encode_json(_encodable(report))
    for character, escape in _MARKUP.items():
        encoded = encoded.replace(character, escape)
    return _UNSEEN.sub(_escape, encoded)


def _escape(match: re.Match[bytes]) -> bytes:
    units = match[0].decode("utf-8").encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)).encode("ascii")


def _encodable(value: object) -> object:
    """The same value, with texts that hold lone surrogates spelt as JSON escapes.

    UTF-8 has no form for them, and JSON readers do: they reach the page, which marks them.
    """
    if isinstance(value, str):
        if value.isascii() or not _SURROGATE.search(value):
            return value
        parts = (
            f"\\u{ord(part):04x}" if _SURROGATE.match(part) else encode_json(part).decode()[1:-1]
            for part in _SURROGATE.split(value)
        )
        return embed(f'"{"".join(parts)}"'.encode())
    if isinstance(value, Mapping):
        return {_shown_key(key): _encodable(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(item) for item in value]
    return value


def _shown_key(key: object) -> object:
    """Member names have no escapes of their own in the encoder: surrogates are shown as escapes."""
    if isinstance(key, str) and _SURROGATE.search(key):
        return key.encode("utf-8", "backslashreplace").decode("utf-8")
    return key
