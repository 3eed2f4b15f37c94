"""A cassette as text for ``git diff``: one call a block, without what differs by nature.

Left out are durations, dates, ids, checksums, the recorder's version and places in the file, so
that a recording made again shows what changed in it and nothing else. Long texts and schemas are
shown where they are first used, and named by their digest after that.

Git shows what this prints, so a file that is damaged, cut off or no cassette at all is shown as far
as it can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from swarm_repro.canonical import encode_json, sha256_hex, text_sha256
from swarm_repro.cassette.lines import LineError, decode_line
from swarm_repro.cassette.records import CallRecord
from swarm_repro.errors import RequestError
from swarm_repro.printable import printable

_WIDTH = 100
_DIGITS = 12
#: A setting of more lines is shown once; a schema is the same call after call.
_LONG_LINES = 2
#: Members further in are shown on one line.
_DEEPEST = 16
_HEADER = b'{"record":"cassette"'
#: Shown elsewhere in the block.
_NOT_SETTINGS = frozenset({"model", "messages", "seed"})


def is_cassette(data: bytes) -> bool:
    """Whether a file begins as a cassette does, whole or not."""
    return data.startswith(_HEADER)


def cassette_text(data: bytes) -> Iterator[str]:
    """The lines to show of a cassette, without line feeds.

    Args:
        data: The file, whole or not.
    """
    lines = data.splitlines(keepends=True)
    try:
        decode_line(lines[0])
    except LineError as error:
        # Such as all line ends converted: nothing of it can be believed, all of it can be seen.
        yield f"damaged: line 1 cannot be shown: {printable(str(error))}"
        yield from (printable(line.decode("utf-8", "replace")) for line in data.splitlines())
        return
    view = _View()
    for number, line in enumerate(lines, start=1):
        yield from view.show_line(number, line)
    if not view.ended:
        yield "not finished: the end record is missing; the file was cut off, or is a .part"


class _View:
    """What of the file was seen so far, and how each record is shown."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._envs: list[str] = []
        self._shown: set[str] = set()
        self.ended = False

    def show_line(self, number: int, line: bytes) -> Iterator[str]:
        try:
            yield from self._record(decode_line(line))
        except (LineError, RequestError, KeyError, TypeError, ValueError) as error:
            yield f"damaged: line {number} cannot be shown: {printable(str(error))}"

    def _record(self, record: dict[str, object]) -> Iterator[str]:
        kind = record["record"]
        if kind == "end":
            self.ended = True
        elif kind == "batch":
            pass  # who wrote what follows in a .part
        elif kind == "text":
            text = record["text"]
            if not isinstance(text, str):
                raise LineError("a text that is no string")
            self._texts[text_sha256(text)] = text
        elif kind == "cassette":
            yield from _header(record)
        elif kind == "model":
            yield from _block(f"model {_one(record['name'])}", record, leave=("record", "name"))
        elif kind == "env":
            self._envs.append(str(record["sha256"]))
            yield from _block(
                f"environment {_short(record['sha256'])}", _mapping(record["content"])
            )
        elif kind == "call":
            yield from self._call(record)
        elif kind == "run":
            yield from _run(record)
        elif kind == "witness":
            yield ""
            yield f"witness: {self._env(record)} gave the same answers"
            yield f"  calls {encode_json(record['calls']).decode()}"
        else:
            yield from _block(f"record {_one(kind)}", record, leave=("record",))

    def _env(self, record: Mapping[str, object]) -> str:
        place = record["env"]
        if isinstance(place, int) and 0 <= place < len(self._envs):
            return f"environment {_short(self._envs[place])}"
        return "an environment that is not in the file"

    def _call(self, record: dict[str, object]) -> Iterator[str]:
        # Not to lose the call where the environment's record is what is damaged.
        readable = {**record, "env": 0}
        call = CallRecord.from_json(readable, texts=self._texts, envs=[""])
        yield ""
        where = f"epoch {call.at[0]} step {call.at[1]}, " if call.at else ""
        yield f"call: {where}{_one(call.scope)} {call.i}, {_one(call.kind or 'no kind')}"
        yield f"  sent {_short(call.sent, len('sr1:') + _DIGITS)}, repeat {call.n}"
        asked = "none asked" if call.asked_seed is None else f"asked {call.asked_seed}"
        yield f"  seed {call.sent_seed}, {asked}"
        yield f"  model {_one(call.model)}, {self._env(record)}"
        yield f"  tokens {call.tokens.get('prompt')} + {call.tokens.get('completion')}"
        yield f"  {_one(call.path)}"
        try:
            body, completion = call.body, call.completion
        except LineError as error:
            yield f"  damaged: this call cannot be shown whole: {printable(str(error))}"
            return
        yield from self._settings(body)
        yield from self._messages(body.get("messages"))
        yield f"  completion {_short(completion.stable_sha256)}:"
        yield from _wrapped(completion.text or _documents(completion.documents), "    ")

    def _settings(self, body: Mapping[str, object]) -> Iterator[str]:
        for name, value in body.items():
            if name in _NOT_SETTINGS:
                continue
            shown = list(_tree(name, value, "  "))
            if len(shown) <= _LONG_LINES:
                yield from shown
            else:
                yield from self._once(_one(name), encode_json(value).decode(), shown[1:])

    def _messages(self, messages: object) -> Iterator[str]:
        if not isinstance(messages, list):
            return
        for place, message in enumerate(messages):
            known = message if isinstance(message, dict) else {"content": message}
            content = known.get("content")
            text = content if isinstance(content, str) else encode_json(content).decode()
            role = _one(str(known.get("role")))
            if place < len(messages) - 1:
                yield from self._once(role, text, _wrapped(text, "    "))
            else:
                yield f"  {role}:"
                yield from _wrapped(text, "    ")
            more = {name: v for name, v in known.items() if name not in {"role", "content"}}
            if more:
                yield from _wrapped(encode_json(more).decode(), "    ")

    def _once(self, name: str, text: str, lines: Sequence[str]) -> Iterator[str]:
        """A text by its digest; at its first use also what it says."""
        digest = _short(text_sha256(text))
        known = digest in self._shown
        self._shown.add(digest)
        yield f"  {name}: {digest}, as above" if known else f"  {name}: {digest}"
        if not known:
            yield from lines


def _header(record: Mapping[str, object]) -> Iterator[str]:
    yield f"cassette of scenario {_one(record['scenario'])}"
    yield f"  format {_one(record['format'])}, key {_one(record['key'])}"
    strict = "strict" if record["strict"] else "not strict"
    yield f"  seed policy {_one(record['seed_policy'])}, {strict}"
    requests = record["requests"]
    for rule in requests if isinstance(requests, list) else ():
        yield from _tree("request rule", rule, "  ")


def _run(record: Mapping[str, object]) -> Iterator[str]:
    yield ""
    yield f"run of {_one(record['scenario'])}, seed {_one(record['seed'])}"
    yield f"  {_one(record['epochs'])} epochs of {_one(record['steps'])} steps"
    yield f"  scenario file {_short(record['scenario_sha256'])}"
    for name, version in sorted(_mapping(record["versions"]).items()):
        yield f"  {_one(name)} {_one(version)}"
    calls = record["calls"]
    ranges = calls if isinstance(calls, list) else []
    yield f"  {sum(stop - start for start, stop in ranges)} calls"
    for name, digests in _mapping(record["artifacts"]).items():
        yield f"  artifact {_one(name)} {_short(_mapping(digests)['sha256'])}"
    metrics = record["metrics"]
    for place, epoch in enumerate(metrics if isinstance(metrics, list) else ()):
        known = _mapping(epoch)
        yield f"  metrics of epoch {_one(known.get('epoch', place))}:"
        for name, value in known.items():
            if name != "epoch" and value is not None:
                yield from _tree(name, value, "    ")


def _block(
    title: str, content: Mapping[str, object], *, leave: tuple[str, ...] = ()
) -> Iterator[str]:
    yield ""
    yield title
    for name, value in content.items():
        if name in leave:
            continue
        yield from _tree(name, value, "  ")


def _tree(name: str, value: object, indent: str, *, depth: int = 0) -> Iterator[str]:
    """A JSON value, one member a line."""
    deep = depth >= _DEEPEST
    if isinstance(value, dict) and value and not deep:
        yield f"{indent}{_one(name)}:"
        for member, inner in value.items():
            yield from _tree(member, inner, indent + "  ", depth=depth + 1)
    elif isinstance(value, list) and any(isinstance(i, (dict, list)) for i in value) and not deep:
        yield f"{indent}{_one(name)}:"
        for inner in value:
            yield from _tree("-", inner, indent + "  ", depth=depth + 1)
    else:
        items = value if isinstance(value, list) else [value]
        text = ", ".join(encode_json(item).decode() for item in items)
        first, *more = _wrapped(
            f"{name}: [{text}]" if items is value else f"{name}: {text}", indent
        )
        yield first
        yield from (f"    {line}" for line in more)


def _documents(documents: list[object]) -> str:
    """An answer without text, such as tool calls or an embedding, but for its volatile members."""
    said = [
        document.get("choices", document.get("data")) if isinstance(document, dict) else document
        for document in documents
    ]
    encoded = encode_json(said).decode()
    return encoded if len(encoded) < 50 * _WIDTH else sha256_hex(encoded.encode())


def _wrapped(text: str, indent: str) -> list[str]:
    """A text's lines, cut at spaces where they are too long; nothing of it is lost."""
    shown: list[str] = []
    width = _WIDTH - len(indent)
    for line in printable(text, keep_lines=True).split("\n"):
        begin = 0
        while len(line) - begin > width:
            cut = line.rfind(" ", begin, begin + width) + 1
            cut = cut if cut > begin else begin + width
            shown.append(indent + line[begin:cut])
            begin = cut
        shown.append(indent + line[begin:])
    return shown


def _short(digest: object, digits: int = _DIGITS) -> str:
    return _one(digest)[:digits]


def _one(value: object) -> str:
    return printable(str(value))


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, found {type(value).__name__}")
    return value
