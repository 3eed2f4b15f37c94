"""The published key recipe, by the package and by a second implementation.

The second one knows JSON, SHA-256, float32 and the page: it reads its tables from
docs/reference/key.md and shares no code with the package.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_repro.errors import RequestError
from swarm_repro.model import ModelBinding, hosted_binding
from swarm_repro.request import Request, content_seed, event_seed

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
VECTORS: dict[str, Any] = json.loads((REFERENCE / "key-vectors.json").read_text("utf-8"))
KEYS: dict[str, dict[str, Any]] = {vector["name"]: vector for vector in VECTORS["keys"]}


def _tables() -> dict[tuple[str, ...], list[list[str]]]:
    """The tables of the page, by the heading of their first two columns."""
    found: dict[tuple[str, ...], list[list[str]]] = {}
    rows: list[list[str]] = []
    for line in (*(REFERENCE / "key.md").read_text("utf-8").splitlines(), ""):
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            found[tuple(rows[0][:2])] = rows[2:]
            rows = []
    return found


def _names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


_T = _tables()
PLACES = {
    _names(row[0])[0]: (row[1].strip("`"), row[2])
    for row in _T["name", "goes to"]
    if row[0].startswith("`")
}
FIELDS = {_names(row[0])[0]: (row[1], row[2], _names(row[3])) for row in _T["field", "kind"]}
ALIASES = {_names(row[0])[0]: _names(row[1]) for row in _T["field", "names"]}
FIELD_OF = {alias: field for field, aliases in ALIASES.items() for alias in aliases}
FIELD_OF |= {field: field for field in FIELDS}
SWITCHES = {_names(row[0])[0]: _names(row[1]) for row in _T["sampler", "switched on by"]}


class NoKeyError(Exception):
    pass


def encode(value: Any, *, keep: bool = False) -> str:
    """Canonical JSON; where `keep`, members stay in their order."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise NoKeyError
        return str(value)
    if isinstance(value, float):
        return encode_float(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ",".join(encode(item, keep=keep) for item in value) + "]"
    if isinstance(value, Kept):
        return encode(value.value, keep=True)
    names = value if keep else sorted(value)
    return "{" + ",".join(f"{encode(n)}:{encode(value[n], keep=keep)}" for n in names) + "}"


class Kept:
    def __init__(self, value: object) -> None:
        self.value = value


def encode_float(value: float) -> str:
    if not math.isfinite(value):
        raise NoKeyError
    sign = "-" if math.copysign(1, value) < 0 else ""
    if value == 0:
        return sign + "0.0"
    # Python's repr has the fewest digits that read back, in a form of its own.
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    p = len(whole) + int(exponent or 0)
    digits = whole + fraction
    p -= len(digits) - len(digits.lstrip("0"))
    digits = digits.strip("0")
    if 0 < p <= 16:
        return sign + digits[:p].ljust(p, "0") + "." + (digits[p:] or "0")
    if -5 < p <= 0:
        return sign + "0." + "0" * -p + digits
    point = "." if digits[1:] else ""
    return f"{sign}{digits[0]}{point}{digits[1:]}e{p - 1:+d}"


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def normalise(field: str, value: object) -> object:
    kind = FIELDS[field][0]
    if kind == "float32" and is_number(value):
        largest = struct.unpack(">f", bytes.fromhex("7f7fffff"))[0]
        if not math.isfinite(value) or abs(value) > largest:
            raise NoKeyError
        return struct.unpack(">f", struct.pack(">f", value))[0] or 0.0
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind == "list" and isinstance(value, str):
        return [value]
    return value


def named(body: Mapping[str, object]) -> dict[str, object]:
    fields = {}
    for field in FIELDS:
        for alias in ALIASES.get(field, [field]):
            if body.get(alias) is not None:
                fields[field] = normalise(field, body[alias])
                break
    return fields


def without_effect(field: str, value: object) -> bool:
    rule = FIELDS[field][1]
    if rule == "never":
        return False
    if rule == "below 0":
        return is_number(value) and value < 0
    if rule == "0 or below":
        return is_number(value) and value <= 0
    if rule == "empty":
        return not value
    return value == {"false": 0, "0": 0, "1": 1}[rule]


def sampling(defaults: Mapping[str, object], body: Mapping[str, object]) -> dict[str, object]:
    fields = {**named(defaults), **named(body)}
    kept = {
        field: value
        for field, value in fields.items()
        if not without_effect(field, value)
        and (
            not FIELDS[field][2]
            or any(f in fields and not without_effect(f, fields[f]) for f in FIELDS[field][2])
        )
    }
    samplers = kept.get("samplers")
    if isinstance(samplers, list):
        asked = body.get("samplers") is not None
        kept["samplers"] = [
            sampler
            for sampler in samplers
            if (any(f in kept for f in SWITCHES[sampler]) if sampler in SWITCHES else asked)
        ]
    return kept


def seed_of(body: Mapping[str, object]) -> int | None:
    seed = body.get("seed")
    if isinstance(seed, float) and seed.is_integer():
        seed = int(seed)
    if seed in (None, -1, 4294967295):
        return None
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= 4294967294:
        raise NoKeyError
    return seed


def identity(
    model: Mapping[str, Any], endpoint: str, body: Mapping[str, Any], seed: int | None
) -> str:
    parts: dict[str, dict[str, object]] = {"input": {}, "capture": {}, "unknown": {}}
    for name, value in body.items():
        place, order = PLACES.get(name, ("sampling" if name in FIELD_OF else "unknown", "kept"))
        if place not in parts:
            continue
        if place == "input" and value in (None, "", [], {}):
            continue
        if place == "capture" and (value is None or value is False):
            continue
        parts[place][name] = Kept(value) if order == "kept" else value
    if isinstance(body.get("messages"), list) and "messages" in parts["input"]:
        parts["input"]["messages"] = [
            {**message, "tool_calls": Kept(message["tool_calls"])}
            if isinstance(message, dict) and message.get("tool_calls")
            else message
            for message in body["messages"]
        ]
    defaults = model["defaults"].get(endpoint, {})
    if defaults.get("grammar") and not {"grammar", "json_schema"} & set(parts["input"]):
        parts["input"]["grammar"] = defaults["grammar"]
    template = None
    if endpoint == "chat":
        template = model["template"]
        if body.get("chat_template_kwargs") is not None:
            template = {**(template or {}), "kwargs": Kept(body["chat_template_kwargs"])}
    return encode(
        {
            **parts,
            "endpoint": endpoint,
            "model": model["identity"],
            "sampling": sampling(defaults, body),
            "seed": seed,
            "template": template,
        }
    )


def key(model: Mapping[str, Any], endpoint: str, body: Mapping[str, Any], seed: int | None) -> str:
    text = identity(model, endpoint, body, seed)
    try:
        return "sr1:" + hashlib.sha256(text.encode("utf-8")).hexdigest()
    except UnicodeEncodeError as error:
        raise NoKeyError from error


#: Source: key.md, "Opaque calls".
_OPAQUE = (REFERENCE / "key.md").read_text("utf-8").partition("### Opaque calls")[2]
KEPT_BELOW = set(_names(_OPAQUE.partition("is called")[2].partition(", and below")[0]))
TOOL_USES = {"tool_use", "server_tool_use", "mcp_tool_use"}


def kept_where_named(name: str, value: object) -> object:
    if name in KEPT_BELOW:
        return Kept(value)
    if isinstance(value, list):
        return [kept_where_named("", item) for item in value]
    if isinstance(value, dict):
        is_use = value.get("type") in TOOL_USES
        return {
            n: Kept(v) if is_use and n == "input" else kept_where_named(n, v)
            for n, v in value.items()
        }
    return value


def opaque_identity(host: str, path: str, body: Mapping[str, object]) -> str:
    method, _, target = path.partition(" ")
    path, _, query = target.partition("?")
    body = {n: kept_where_named(n, v) for n, v in body.items()}
    return encode(
        {
            "capture": {},
            "endpoint": "opaque",
            "sampling": {},
            "seed": None,
            "template": None,
            "unknown": {},
            "model": {"kind": "hosted", "host": host},
            "input": {"body": body, "method": method, "path": path, "query": query},
        }
    )


@pytest.mark.parametrize("vector", VECTORS["opaque"], ids=lambda vector: vector["name"])
def test_both_implementations_compute_the_keys_of_opaque_calls(vector: dict[str, Any]) -> None:
    request = Request("opaque", hosted_binding(vector["host"]), vector["path"], vector["body"])
    assert request.identity(seed=None).decode("utf-8") == vector["identity"]
    assert request.asked_key == vector["key"]
    again = opaque_identity(vector["host"], vector["path"], vector["body"])
    assert again == vector["identity"]
    assert "sr1:" + hashlib.sha256(again.encode("utf-8")).hexdigest() == vector["key"]


def test_keys_of_opaque_calls_are_all_different() -> None:
    keys = [vector["key"] for vector in VECTORS["opaque"]]
    assert len(set(keys)) == len(keys) > 3
    assert {"tools", "schema", "arguments"} <= KEPT_BELOW


def derived(*parts: str | int) -> int:
    digest = hashlib.sha256(encode(["sr1", *parts]).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") % 4294967294 + 1


def _package(vector: Mapping[str, Any], body: dict[str, Any] | None = None) -> Request:
    model = ModelBinding.from_json(VECTORS["models"][vector["model"]])
    return Request(vector["endpoint"], model, "", vector["body"] if body is None else body)


@pytest.mark.parametrize("name", KEYS)
def test_the_package_computes_the_published_keys(name: str) -> None:
    vector = KEYS[name]
    request = _package(vector)
    assert request.identity(seed=request.seed).decode("utf-8") == vector["identity"]
    assert request.seed == vector["asked_seed"]
    assert request.asked_key == vector["asked"]
    assert request.with_seed(vector["sent_seed"]).asked_key == vector["sent"]
    assert request.key(seed=vector["sent_seed"]) == vector["sent"]


@pytest.mark.parametrize("name", KEYS)
def test_a_second_implementation_computes_the_published_keys(name: str) -> None:
    vector = KEYS[name]
    model = VECTORS["models"][vector["model"]]
    asked = (model, vector["endpoint"], vector["body"])
    assert identity(*asked, seed_of(vector["body"])) == vector["identity"]
    assert key(*asked, seed_of(vector["body"])) == vector["asked"]
    sent_seed = seed_of(vector["body"])
    if sent_seed is None:
        sent_seed = derived("event", VECTORS["run_seed"], VECTORS["scope"], 0)
    assert sent_seed == vector["sent_seed"]
    assert key(*asked, sent_seed) == vector["sent"]


@pytest.mark.parametrize("vector", VECTORS["keys"], ids=list(KEYS))
def test_vectors_are_equal_or_different_as_they_say(vector: dict[str, Any]) -> None:
    if "same_as" in vector:
        assert vector["asked"] == KEYS[vector["same_as"]]["asked"]
    if "differs_from" in vector:
        assert vector["asked"] != KEYS[vector["differs_from"]]["asked"]


@pytest.mark.parametrize("vector", VECTORS["rejected"], ids=lambda vector: vector["name"])
def test_both_implementations_reject_what_has_no_key(vector: dict[str, Any]) -> None:
    request = _package(vector)
    with pytest.raises(RequestError):
        request.asked_key  # noqa: B018 - computed to see it refused
    with pytest.raises(NoKeyError):
        key(VECTORS["models"]["bare"], "chat", vector["body"], seed_of(vector["body"]))


def test_both_implementations_derive_the_published_seeds() -> None:
    for row in VECTORS["event_seeds"]:
        place = {name: row[name] for name in ("run_seed", "scope", "i")}
        assert event_seed(**place) == row["seed"] == derived("event", *place.values())
    for row in VECTORS["content_seeds"]:
        place = {name: row[name] for name in ("run_seed", "scope", "asked_key", "n")}
        assert content_seed(**place) == row["seed"] == derived("content", *place.values())


def test_the_vector_file_is_what_the_script_writes() -> None:
    script = ROOT / "scripts" / "make_key_vectors.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


_numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([-1, 0, 1, -1.0, -0.0, 0.0, 1.0, 0.8, 40, 1e16, 3.4e38, 3.5e38]),
)
_texts = st.text(st.characters(exclude_categories=()), max_size=6)  # lone surrogates too
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, _texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
_bodies = st.dictionaries(
    st.sampled_from([*PLACES, *FIELD_OF, "id_slot", "zz"]), _values, max_size=8
).filter(lambda body: not isinstance(body.get("samplers"), list))
_lists = st.lists(st.sampled_from([*SWITCHES, "new"]), max_size=5)


@settings(max_examples=150, deadline=None)
@given(
    body=_bodies,
    samplers=st.none() | _lists,
    model=st.sampled_from([*VECTORS["models"]]),
    endpoint=st.sampled_from(["chat", "completion", "embedding"]),
)
def test_both_implementations_agree_on_any_request(
    body: dict[str, Any], samplers: list[str] | None, model: str, endpoint: str
) -> None:
    body = {**body, "samplers": samplers}
    expected: str | None
    computed: str | None
    try:
        seed = seed_of(body)
        expected = key(VECTORS["models"][model], endpoint, body, seed)
    except NoKeyError:
        expected = None
    try:
        computed = _package({"model": model, "endpoint": endpoint}, body).asked_key
    except RequestError:
        computed = None
    # What cannot be sent as JSON may be refused even where it would not be hashed.
    assert computed == expected or (computed is None and not _is_json(body))


def _is_json(body: object) -> bool:
    try:
        encode(body).encode("utf-8")
    except (NoKeyError, UnicodeEncodeError):
        return False
    return True
