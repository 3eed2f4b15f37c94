"""The key: what is in it, what is not, and that the published recipe gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_repro.errors import RequestError
from swarm_repro.model import ModelBinding, ModelIdentity
from swarm_repro.request import (
    Request,
    content_seed,
    event_seed,
    normalise_seed,
)
from tests.support.tiny_model import DEFAULTS, NAME, PATH, chat, json_values, make_binding, texts

TOOLS = [{"type": "function", "function": {"name": "act", "parameters": {"b": 1, "a": 2}}}]


def key(**fields: object) -> str:
    return chat(**fields).asked_key  # type: ignore[arg-type]


PLAIN = key()


# --- The recipe, written a second time and with nothing of the package.


def plain_float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0]) + 0.0


def plain_json(value: object, *, sort: bool) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort)
    assert "e-0" not in text, "the standard library writes small floats otherwise than the recipe"
    return text


def plain_identity(
    messages: list[dict[str, str]],
    *,
    seed: int | None,
    schema: Mapping[str, object] | None,
    temperature: float | None,
    max_tokens: int | None,
    stop: list[str],
    stream: bool,
    unknown: Mapping[str, object],
) -> str:
    sampling: dict[str, object] = {
        "min_p": plain_float32(0.05),
        "samplers": ["top_k", "top_p", "min_p", "temperature"],
        "temperature": plain_float32(0.8 if temperature is None else temperature),
        "top_k": 40,
        "top_p": plain_float32(0.95),
    }
    if max_tokens is not None and max_tokens >= 0:
        sampling["max_tokens"] = max_tokens
    if stop:
        sampling["stop"] = stop
    given_input = '"messages":' + plain_json(messages, sort=True) if messages else ""
    if schema:
        given_input += ("," if given_input else "") + (
            '"response_format":' + plain_json(schema, sort=False)
        )
    members = [
        '"capture":' + ('{"stream":true}' if stream else "{}"),
        '"endpoint":"chat"',
        '"input":{' + given_input + "}",
        '"model":' + plain_json({"kind": "gguf", "files": ["a" * 64]}, sort=True),
        '"sampling":' + plain_json(sampling, sort=True),
        '"seed":' + plain_json(seed, sort=True),
        '"template":' + plain_json({"sha256": "b" * 64}, sort=True),
        '"unknown":{'
        + ",".join(
            plain_json(name, sort=True) + ":" + plain_json(unknown[name], sort=False)
            for name in sorted(unknown)
        )
        + "}",
    ]
    return "{" + ",".join(members) + "}"


@given(
    messages=st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": texts()}),
        max_size=3,
    ),
    seed=st.none() | st.integers(0, 2**32 - 2) | st.sampled_from([-1, 2**32 - 1]),
    schema=st.none() | st.dictionaries(st.sampled_from("abcdef"), json_values(floats=False)),
    temperature=st.none() | st.sampled_from([0, 0.0, 0.5, 0.7, 1, 1.25]),
    max_tokens=st.none() | st.integers(-1, 4096),
    stop=st.lists(texts(max_size=5), max_size=2),
    stream=st.booleans(),
    unknown=st.dictionaries(st.sampled_from(["x", "y_z", "é"]), json_values(floats=False)),
)
@settings(max_examples=80, deadline=None)
def test_identity_is_the_published_recipe_byte_for_byte(
    messages: list[dict[str, str]],
    seed: int | None,
    schema: dict[str, object] | None,
    temperature: float | None,
    max_tokens: int | None,
    stop: list[str],
    stream: bool,
    unknown: dict[str, object],
) -> None:
    body: dict[str, object] = {
        **unknown,
        "stop": stop,
        "seed": seed,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": stream,
        "response_format": schema,
        "messages": messages,
        "user": "me",
    }
    request = Request("chat", make_binding(), PATH, body)
    expected_seed = None if seed in (None, -1, 2**32 - 1) else seed
    expected = plain_identity(
        messages,
        seed=expected_seed,
        schema=schema,
        temperature=temperature,
        max_tokens=max_tokens,
        stop=stop,
        stream=stream,
        unknown=unknown,
    ).encode()
    assert request.identity(seed=request.seed) == expected
    assert request.asked_key == "sr1:" + hashlib.sha256(expected).hexdigest()
    sent = request.with_seed(17)
    assert sent.asked_key == request.key(seed=17)
    assert sent.identity(seed=17) == expected.replace(
        f'"seed":{json.dumps(expected_seed)},"template"'.encode(), b'"seed":17,"template"'
    )


# --- Sampling fields.

NEUTRAL: list[tuple[str, list[object]]] = [
    ("max_tokens", [-1, -2]),
    ("n", [1, 1.0]),
    ("n_keep", [0, 0.0]),
    ("n_discard", [0]),
    ("n_indent", [0]),
    ("n_cache_reuse", [0]),
    ("stop", [[], ()]),
    ("ignore_eos", [False]),
    ("t_max_predict_ms", [-1]),
    ("dynatemp_range", [0, 0.0, -0.0]),
    ("top_n_sigma", [-1, -1.0]),
    ("typical_p", [1, 1.0]),
    ("tfs_z", [1.0]),
    ("xtc_probability", [0, 0.0]),
    ("repeat_penalty", [1, 1.0]),
    ("frequency_penalty", [0, 0.0, -0.0]),
    ("presence_penalty", [0, 0.0]),
    ("dry_multiplier", [0, 0.0]),
    ("mirostat", [0]),
    ("adaptive_target", [-1, -1.0]),
    ("min_keep", [0]),
    ("backend_sampling", [False]),
    ("logit_bias", [[], {}]),
    ("grammar_lazy", [False]),
    ("grammar_triggers", [[]]),
    ("preserved_tokens", [[]]),
    ("lora", [[]]),
]
EFFECTIVE: list[tuple[str, object]] = [
    ("max_tokens", 0),
    ("max_tokens", 16),
    ("n", 2),
    ("n_keep", -1),
    ("n_discard", 1),
    ("stop", ["x"]),
    ("ignore_eos", True),
    ("t_max_predict_ms", 100),
    ("temperature", 0.0),
    ("temperature", 0.9),
    ("dynatemp_range", 0.5),
    ("top_k", 41),
    ("top_k", 0),
    ("top_p", 0.5),
    ("top_p", 1.0),
    ("min_p", 0.1),
    ("min_p", 0.0),
    ("top_n_sigma", 1.0),
    ("typical_p", 0.9),
    ("tfs_z", 0.9),
    ("xtc_probability", 0.5),
    ("repeat_penalty", 1.1),
    ("frequency_penalty", 0.1),
    ("presence_penalty", -0.1),
    ("dry_multiplier", 0.8),
    ("mirostat", 2),
    ("adaptive_target", 0.5),
    ("min_keep", 1),
    ("samplers", ["temperature"]),
    ("backend_sampling", True),
    ("logit_bias", [[1, -1.0]]),
    ("grammar_lazy", True),
    ("preserved_tokens", ["x"]),
    ("lora", [{"id": 0, "scale": 1.0}]),
    ("cache_prompt", False),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in NEUTRAL for value in values]
)
def test_a_field_at_its_neutral_value_is_not_in_the_key(name: str, value: object) -> None:
    assert key(**{name: value}) == PLAIN


@pytest.mark.parametrize(("name", "value"), EFFECTIVE)
def test_a_field_that_can_change_tokens_changes_the_key(name: str, value: object) -> None:
    assert key(**{name: value}) != PLAIN


@pytest.mark.parametrize("name", [*dict(EFFECTIVE), *DEFAULTS, "n_predict", "grammar", "tools"])
def test_null_means_the_default(name: str) -> None:
    assert key(**{name: None}) == PLAIN


@pytest.mark.parametrize(("name", "value"), [*DEFAULTS.items()])
def test_a_default_said_aloud_is_the_same_request(name: str, value: object) -> None:
    assert key(**{name: value}) == PLAIN


DEPENDENT = [
    ("dynatemp_exponent", "dynatemp_range", 0.5),
    ("xtc_threshold", "xtc_probability", 0.5),
    ("repeat_last_n", "repeat_penalty", 1.1),
    ("repeat_last_n", "frequency_penalty", 0.1),
    ("repeat_last_n", "presence_penalty", 0.1),
    ("dry_base", "dry_multiplier", 0.8),
    ("dry_allowed_length", "dry_multiplier", 0.8),
    ("dry_penalty_last_n", "dry_multiplier", 0.8),
    ("dry_sequence_breakers", "dry_multiplier", 0.8),
    ("mirostat_tau", "mirostat", 1),
    ("mirostat_eta", "mirostat", 1),
    ("adaptive_decay", "adaptive_target", 0.5),
]


@pytest.mark.parametrize(("name", "switch", "on"), DEPENDENT)
def test_a_dependent_field_counts_only_when_its_switch_is_on(
    name: str, switch: str, on: object
) -> None:
    value: object = ["\n"] if name == "dry_sequence_breakers" else 7
    assert key(**{name: value}) == PLAIN
    assert key(**{switch: on, name: value}) != key(**{switch: on})


def test_a_switch_among_the_defaults_makes_the_dependent_field_count() -> None:
    binding = make_binding(defaults={**DEFAULTS, "mirostat": 2})
    assert key(binding=binding, mirostat_tau=3.0) != key(binding=binding)
    assert key(binding=binding, mirostat=0, mirostat_tau=3.0) == PLAIN


@pytest.mark.parametrize("better", ["n_predict", "max_completion_tokens", "max_tokens"])
def test_aliases_are_one_field(better: str) -> None:
    assert key(**{better: 16}) == key(max_tokens=16) != PLAIN


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("n_predict", "max_completion_tokens"),
        ("n_predict", "max_tokens"),
        ("max_completion_tokens", "max_tokens"),
        ("n_cmpl", "n"),
        ("mirostat", "mirostat_mode"),
    ],
)
def test_of_two_aliases_the_one_that_the_server_prefers_wins_in_any_order(
    first: str, second: str
) -> None:
    expected = key(**{first: 2})
    assert key(**{first: 2, second: 1}) == key(**{second: 1, first: 2}) == expected
    assert key(**{first: None, second: 2}) == expected


def test_an_alias_replaces_a_default_of_the_other_name() -> None:
    binding = make_binding(defaults={**DEFAULTS, "n_predict": 100})
    assert key(binding=binding, max_tokens=16) == key(max_tokens=16)
    assert key(binding=binding) == key(max_tokens=100)


@given(
    st.sampled_from([name for name, kind in EFFECTIVE if isinstance(kind, float)]),
    st.floats(0.1, 3),
)
@settings(max_examples=60, deadline=None)
def test_floats_that_are_one_float32_give_one_key(name: str, value: float) -> None:
    rounded = plain_float32(value)
    assert key(**{name: value}) == key(**{name: rounded})


@pytest.mark.parametrize("name", ["temperature", "min_p", "xtc_probability", "dry_multiplier"])
def test_zero_is_zero_in_every_spelling(name: str) -> None:
    assert key(**{name: 0}) == key(**{name: 0.0}) == key(**{name: -0.0})


def test_an_integer_field_takes_a_whole_float() -> None:
    assert key(top_k=20.0, max_tokens=5.0) == key(top_k=20, max_tokens=5)


def test_one_stop_string_is_a_list_of_one() -> None:
    assert key(stop="x") == key(stop=["x"]) != key(stop=["x", "y"]) != key(stop=["y", "x"])


# --- Samplers.


def test_a_new_neutral_sampler_in_the_servers_defaults_changes_no_key() -> None:
    newer = make_binding(
        defaults={
            **DEFAULTS,
            "samplers": ["penalties", "shiny", "top_k", "dry", "top_p", "min_p", "temperature"],
            "shiny_probability": 0.0,
        }
    )
    assert key(binding=newer) == PLAIN
    assert key(binding=newer, temperature=0.3) == key(temperature=0.3)


def test_an_unknown_sampler_that_the_caller_lists_is_kept() -> None:
    asked = [*DEFAULTS["samplers"], "shiny"]  # type: ignore[misc]
    assert key(samplers=asked) != PLAIN


def test_a_sampler_that_is_switched_off_does_not_count_though_the_caller_lists_it() -> None:
    without = [name for name in DEFAULTS["samplers"] if name != "penalties"]  # type: ignore[attr-defined]
    assert key(samplers=without) == PLAIN
    assert key(samplers=without, repeat_penalty=1.1) != key(repeat_penalty=1.1)


def test_the_order_of_samplers_counts() -> None:
    turned = list(reversed(DEFAULTS["samplers"]))  # type: ignore[call-overload]
    assert key(samplers=turned) != PLAIN


def test_samplers_that_are_no_names_are_keyed_or_refused() -> None:
    try:
        assert key(samplers=[{"name": "top_k"}]) != PLAIN
    except RequestError as error:
        assert "samplers" in str(error)  # noqa: PT017


# --- Input, capture, unknown fields, and what is outside.


@pytest.mark.parametrize("name", ["tools", "functions"])
def test_member_order_in_tools_is_part_of_the_key(name: str) -> None:
    turned = [{"type": "function", "function": {"name": "act", "parameters": {"a": 2, "b": 1}}}]
    assert key(**{name: TOOLS}) != key(**{name: turned})


@pytest.mark.parametrize("name", ["response_format", "json_schema"])
def test_member_order_in_schemas_is_part_of_the_key(name: str) -> None:
    assert key(**{name: {"p": {"a": 1, "b": 2}}}) != key(**{name: {"p": {"b": 2, "a": 1}}})


def test_member_order_of_template_kwargs_is_part_of_the_key() -> None:
    one = key(chat_template_kwargs={"a": 1, "b": 2})
    assert one != key(chat_template_kwargs={"b": 2, "a": 1})
    assert one != PLAIN


def messages_with_arguments(arguments: object) -> list[dict[str, object]]:
    call = {"type": "function", "function": {"name": "act", "arguments": arguments}}
    return [{"role": "assistant", "content": None, "tool_calls": [call]}]


def test_member_order_of_tool_call_arguments_is_part_of_the_key() -> None:
    one = messages_with_arguments({"a": 1, "b": 2})
    other = messages_with_arguments({"b": 2, "a": 1})
    assert key(messages=one) != key(messages=other)


def test_member_order_elsewhere_is_not() -> None:
    assert key(messages=[{"role": "user", "content": "x"}]) == key(
        messages=[{"content": "x", "role": "user"}]
    )
    parts = [{"type": "text", "text": "x"}], [{"text": "x", "type": "text"}]
    assert key(messages=[{"role": "user", "content": parts[0]}]) == key(
        messages=[{"role": "user", "content": parts[1]}]
    )
    assert key(tool_choice={"a": 1, "b": 2}) == key(tool_choice={"b": 2, "a": 1})
    assert key(logit_bias={"5": 1, "6": 2}) == key(logit_bias={"6": 2, "5": 1})
    assert key(stream_options={"a": 1, "b": 2}) == key(stream_options={"b": 2, "a": 1})


def test_member_order_of_the_body_is_not() -> None:
    forwards = {"top_k": 3, "messages": [], "stop": ["x"], "zz": 1, "aa": 2, "verbose": True}
    backwards = dict(reversed(forwards.items()))
    binding = make_binding()
    assert (
        Request("chat", binding, PATH, forwards).asked_key
        == Request("chat", binding, PATH, backwards).asked_key
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [("\u00e9", "e\u0301"), ("a b", "a  b"), ("a", "a\n"), ("ﬁ", "fi"), ("", " ")],
)
def test_text_is_not_normalised(one: str, other: str) -> None:
    assert chat(one).asked_key != chat(other).asked_key


def test_a_prompt_of_token_ids_is_not_its_text() -> None:
    binding = make_binding()
    prompts: list[object] = ["12", [12], [1, 2], ["12"]]
    keys = {
        Request("completion", binding, "/v1/completions", {"prompt": p}).asked_key for p in prompts
    }
    assert len(keys) == len(prompts)


def test_of_another_api_no_field_is_taken_for_sampling() -> None:
    binding = replace(make_binding(), defaults={"opaque": {"temperature": 0.5}})
    request = Request("opaque", binding, "POST /v1/messages", {"temperature": 0.7})
    assert b'"sampling":{},"seed":null' in request.identity(seed=None)


@pytest.mark.parametrize("endpoint", ["completion", "embedding", "opaque"])
def test_the_endpoint_is_part_of_the_key(endpoint: str) -> None:
    body = chat().body
    assert Request(endpoint, make_binding(), PATH, body).asked_key != PLAIN  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stream", True),
        ("stream_options", {"include_usage": True}),
        ("logprobs", True),
        ("n_probs", 5),
        ("top_logprobs", 5),
        ("verbose", True),
        ("timings_per_token", True),
        ("return_progress", True),
        ("return_tokens", True),
    ],
)
def test_what_changes_the_payload_is_part_of_the_key(name: str, value: object) -> None:
    assert key(**{name: value}) != PLAIN
    assert key(**{name: None}) == PLAIN
    assert key(**{name: False}) == PLAIN


def test_log_probabilities_of_no_alternatives_are_not_no_log_probabilities() -> None:
    assert key(logprobs=0) != PLAIN


@given(
    st.text("abcdefghij_", min_size=1, max_size=12).map(lambda name: "x_" + name),
    json_values(floats=False),
)
@settings(max_examples=60, deadline=None)
def test_an_unknown_field_is_never_dropped(name: str, value: object) -> None:
    assert key(**{name: value}) != PLAIN
    assert key(**{name: value}) != key(**{name + "x": value})


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}])
def test_an_unknown_field_counts_even_where_it_holds_nothing(value: object) -> None:
    assert key(unheard_of=value) != PLAIN


@pytest.mark.parametrize(
    ("name", "value"),
    [("user", "me"), ("model", "another alias"), ("metadata", {"run": 1}), ("store", True),
     ("safety_identifier", "x")],
)  # fmt: skip
def test_who_asks_is_outside_the_key(name: str, value: object) -> None:
    assert key(**{name: value}) == PLAIN


def test_path_and_kind_are_outside_the_key() -> None:
    body = chat().body
    assert Request("chat", make_binding(), "/elsewhere", body, kind="act").asked_key == PLAIN


def test_weights_template_and_their_kind_are_part_of_the_key() -> None:
    strong = make_binding(weights="f" * 64)
    template = make_binding(template={"sha256": "f" * 64})
    unknown = ModelBinding(NAME, "llama-server", strong.identity, None, {"chat": DEFAULTS})
    weak = ModelBinding(
        NAME, "llama-server", ModelIdentity("fingerprint", strong.identity.content),
        strong.template, {"chat": DEFAULTS},
    )  # fmt: skip
    keys = [PLAIN, *(key(binding=binding) for binding in (strong, template, unknown, weak))]
    assert len(set(keys)) == len(keys)


def test_every_part_of_the_model_is_part_of_the_key() -> None:
    base: dict[str, object] = {"files": ["a" * 64]}
    contents: list[dict[str, object]] = [
        base,
        {"files": ["a" * 64, "c" * 64]},
        {"files": ["c" * 64, "a" * 64]},
        {**base, "lora": [{"sha256": "d" * 64, "scale": 1.0}]},
        {**base, "lora": [{"sha256": "d" * 64, "scale": 0.5}]},
        {**base, "mmproj": "d" * 64},
        {**base, "draft": "d" * 64},
    ]
    keys = {
        key(
            binding=ModelBinding(
                NAME, "llama-server", ModelIdentity("gguf", content), {"sha256": "b" * 64},
                {"chat": DEFAULTS},
            )
        )
        for content in contents
    }  # fmt: skip
    assert len(keys) == len(contents)


def test_the_name_and_what_is_undeclared_are_outside_the_key() -> None:
    other = ModelBinding(
        "another name", "llama-server", make_binding().identity, {"sha256": "b" * 64},
        {"chat": DEFAULTS}, undeclared=("mmproj",),
    )  # fmt: skip
    assert key(binding=other) == PLAIN


def test_a_completion_has_no_template_in_its_key() -> None:
    keys = {
        Request("completion", make_binding(template={"sha256": digit * 64}), "/v1/completions",
                {"prompt": "x"}).asked_key
        for digit in "bf"
    }  # fmt: skip
    assert len(keys) == 1


def test_a_default_grammar_counts_until_the_request_brings_its_own() -> None:
    binding = make_binding(defaults={**DEFAULTS, "grammar": "root ::= [a]"})
    assert key(binding=binding) == key(grammar="root ::= [a]") != PLAIN
    assert key(binding=binding, grammar="root ::= [b]") == key(grammar="root ::= [b]")
    assert key(binding=binding, json_schema={"type": "object"}) == key(
        json_schema={"type": "object"}
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 2**64, "\ud800", {1: 2}])
@pytest.mark.parametrize("name", ["messages", "unheard_of", "tools", "top_k", "stream_options"])
def test_a_request_without_canonical_form_has_no_key(name: str, bad: object) -> None:
    with pytest.raises(RequestError):
        key(**{name: [bad] if name in {"messages", "tools"} else bad})


# --- Seeds.


@pytest.mark.parametrize("seed", [None, -1, 4294967295, -1.0, 4294967295.0])
def test_no_seed_minus_one_and_the_largest_uint32_all_mean_none(seed: object) -> None:
    assert normalise_seed(seed) is None
    assert key(seed=seed) == PLAIN


@pytest.mark.parametrize("seed", [0, 1, 42, 42.0, 4294967294])
def test_a_seed_is_part_of_the_key(seed: float) -> None:
    assert normalise_seed(seed) == seed
    assert key(seed=seed) != PLAIN
    assert key(seed=seed) == key(seed=int(seed))


@pytest.mark.parametrize("seed", [-2, 2**32, 1.5, "42", True, False, [], {}, float("nan")])
def test_what_is_no_seed_is_refused(seed: object) -> None:
    with pytest.raises(RequestError, match="seed"):
        normalise_seed(seed)


SCOPES = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@given(st.integers(-(2**63), 2**63), SCOPES, st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_a_derived_seed_is_never_one_that_means_random(run_seed: int, scope: str, i: int) -> None:
    for seed in (
        event_seed(run_seed=run_seed, scope=scope, i=i),
        content_seed(run_seed=run_seed, scope=scope, asked_key=PLAIN, n=i),
    ):
        assert 1 <= seed <= 0xFFFFFFFE
        assert normalise_seed(seed) == seed


def derived(parts: list[object]) -> int:
    # A remainder by 4294967294, and 1: whatever the digest is, never 0 and never 4294967295.
    text = json.dumps(["sr1", *parts], ensure_ascii=False, separators=(",", ":"))
    number = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)
    return number % 4294967294 + 1


@given(st.integers(-(2**63), 2**63), SCOPES, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_derived_seeds_are_the_published_recipe(run_seed: int, scope: str, i: int) -> None:
    assert event_seed(run_seed=run_seed, scope=scope, i=i) == derived(["event", run_seed, scope, i])
    assert content_seed(run_seed=run_seed, scope=scope, asked_key=PLAIN, n=i) == derived(
        ["content", run_seed, scope, PLAIN, i]
    )


def test_seeds_of_calls_differ_by_run_scope_ordinal_and_repeat() -> None:
    seeds = {
        event_seed(run_seed=run, scope=scope, i=i)
        for run in (1, 2)
        for scope in ("alice", "bob")
        for i in (0, 1)
    } | {
        content_seed(run_seed=run, scope=scope, asked_key=asked, n=n)
        for run in (1, 2)
        for scope in ("alice", "bob")
        for asked in (PLAIN, key(top_k=1))
        for n in (0, 1)
    }
    assert len(seeds) == 24


def test_a_request_with_another_seed_is_otherwise_the_same() -> None:
    request = Request("chat", make_binding(), PATH, {"b": 1, "a": 2}, kind="act")
    sent = request.with_seed(5)
    assert dict(sent.body) == {"b": 1, "a": 2, "seed": 5}
    assert list(sent.body) == ["b", "a", "seed"]
    assert (sent.kind, sent.path, sent.endpoint) == ("act", PATH, "chat")
    assert request.seed is None
