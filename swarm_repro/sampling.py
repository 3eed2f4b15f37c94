"""Which request fields can change a completion's tokens, and when they cannot.

The tables are frozen as part of key version ``sr1``: a change to them is a new key version. A field
at its neutral value has no effect and is left out of the key, so that a sampler which a later
llama.cpp adds, switched off, changes no key.

Source: llama.cpp ``tools/server/server-schema.cpp`` and ``common/sampling.cpp``;
docs/reference/key.md lists the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from swarm_repro.canonical import to_float32

Kind = Literal["float32", "integer", "boolean", "list", "json"]


class Field(NamedTuple):
    """One sampling field.

    Attributes:
        kind: How its value is normalised before it is hashed.
        neutral: The value without effect, or None where every value has one.
        of: The field without which this one does nothing (``mirostat_tau`` of ``mirostat``).
    """

    kind: Kind
    neutral: object = None
    of: tuple[str, ...] = ()


_PENALTIES = ("repeat_penalty", "frequency_penalty", "presence_penalty")

FIELDS: Mapping[str, Field] = {
    "max_tokens": Field("integer", -1),
    "n": Field("integer", 1),
    "n_keep": Field("integer", 0),
    "n_discard": Field("integer", 0),
    "n_indent": Field("integer", 0),
    "n_cache_reuse": Field("integer", 0),
    "stop": Field("list", ()),
    "ignore_eos": Field("boolean", False),
    "t_max_predict_ms": Field("integer", -1),
    "temperature": Field("float32"),
    "dynatemp_range": Field("float32", 0.0),
    "dynatemp_exponent": Field("float32", of=("dynatemp_range",)),
    "top_k": Field("integer", 0),
    "top_p": Field("float32", 1.0),
    "min_p": Field("float32", 0.0),
    "top_n_sigma": Field("float32", -1.0),
    "typical_p": Field("float32", 1.0),
    "tfs_z": Field("float32", 1.0),
    "xtc_probability": Field("float32", 0.0),
    "xtc_threshold": Field("float32", of=("xtc_probability",)),
    "repeat_penalty": Field("float32", 1.0),
    "frequency_penalty": Field("float32", 0.0),
    "presence_penalty": Field("float32", 0.0),
    "repeat_last_n": Field("integer", 0, of=_PENALTIES),
    "dry_multiplier": Field("float32", 0.0),
    "dry_base": Field("float32", of=("dry_multiplier",)),
    "dry_allowed_length": Field("integer", of=("dry_multiplier",)),
    "dry_penalty_last_n": Field("integer", of=("dry_multiplier",)),
    "dry_sequence_breakers": Field("list", of=("dry_multiplier",)),
    "mirostat": Field("integer", 0),
    "mirostat_tau": Field("float32", of=("mirostat",)),
    "mirostat_eta": Field("float32", of=("mirostat",)),
    "adaptive_target": Field("float32", -1.0),
    "adaptive_decay": Field("float32", of=("adaptive_target",)),
    "min_keep": Field("integer", 0),
    "samplers": Field("list"),
    "backend_sampling": Field("boolean", False),
    "logit_bias": Field("json", ()),
    "grammar_lazy": Field("boolean", False),
    "grammar_triggers": Field("list", ()),
    "preserved_tokens": Field("list", ()),
    "lora": Field("json", ()),
    "cache_prompt": Field("boolean"),
}

#: Other names of the same field, in the order in which llama-server looks for them.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "max_tokens": ("n_predict", "max_completion_tokens", "max_tokens"),
    "n": ("n_cmpl", "n"),
    "mirostat": ("mirostat", "mirostat_mode"),
}

CANONICAL_NAME: Mapping[str, str] = {
    alias: name for name, aliases in ALIASES.items() for alias in aliases
} | {name: name for name in FIELDS}

#: A sampler of llama-server's ``samplers`` list, and the fields that switch it on.
_SAMPLER_SWITCHES: Mapping[str, tuple[str, ...]] = {
    "penalties": _PENALTIES,
    "dry": ("dry_multiplier",),
    "top_n_sigma": ("top_n_sigma",),
    "top_k": ("top_k",),
    "typ_p": ("typical_p",),
    "typical_p": ("typical_p",),
    "top_p": ("top_p",),
    "min_p": ("min_p",),
    "xtc": ("xtc_probability",),
    "temperature": ("temperature",),
    "adaptive_p": ("adaptive_target",),
}


def _float32(value: Any) -> object:
    return to_float32(value) if _is_number(value) else value


def _integer(value: Any) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _list(value: Any) -> object:
    return [value] if isinstance(value, str) else value


def _as_is(value: Any) -> object:
    return value


_NORMALISE: Mapping[Kind, Callable[[Any], object]] = {
    "float32": _float32,
    "integer": _integer,
    "boolean": _as_is,
    "list": _list,
    "json": _as_is,
}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def normalise(values: Mapping[str, object]) -> dict[str, object]:
    """Bring fields to their canonical names and values; unset (None) fields are left out.

    Args:
        values: Fields by canonical name or alias. Of several aliases the one that llama-server
            prefers wins.

    Raises:
        RequestError: A number that float32 cannot hold.
    """
    found: dict[str, object] = {}
    for name, value in values.items():
        canonical = CANONICAL_NAME.get(name)
        if canonical is None or value is None:
            continue
        aliases = ALIASES.get(canonical)
        if aliases is not None and any(
            values.get(better) is not None for better in aliases[: aliases.index(name)]
        ):
            continue
        found[canonical] = _NORMALISE[FIELDS[canonical].kind](value)
    return found


def effective(fields: Mapping[str, object], *, asked: Mapping[str, object]) -> dict[str, object]:
    """Leave out what has no effect.

    Args:
        fields: Normalised fields, the backend's defaults filled in.
        asked: The normalised fields the caller gave; a sampler name that this table does not know
            is kept only if the caller listed it.

    Returns:
        The fields that can change tokens.
    """
    kept = {
        name: value
        for name, value in fields.items()
        if not _is_neutral(name, value) and _is_switched_on(FIELDS[name], fields)
    }
    samplers = kept.get("samplers")
    if isinstance(samplers, list):
        kept["samplers"] = [
            sampler
            for sampler in samplers
            if (
                any(switch in kept for switch in _SAMPLER_SWITCHES[sampler])
                if isinstance(sampler, str) and sampler in _SAMPLER_SWITCHES
                else "samplers" in asked
            )
        ]
    return kept


def _is_neutral(name: str, value: object) -> bool:
    neutral = FIELDS[name].neutral
    if neutral is None:
        return False
    if neutral == ():
        return not value
    if name in {"max_tokens", "t_max_predict_ms", "top_n_sigma", "adaptive_target"}:
        return _is_number(value) and value < 0  # type: ignore[operator]
    if name == "top_k":
        return _is_number(value) and value <= 0  # type: ignore[operator]
    return value == neutral


def _is_switched_on(field: Field, fields: Mapping[str, object]) -> bool:
    if not field.of:
        return True
    return any(name in fields and not _is_neutral(name, fields[name]) for name in field.of)
