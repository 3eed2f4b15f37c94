"""``swarm-repro show``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarm_repro.canonical import encode_json
from swarm_repro.cassette.reader import Cassette, read_cassette, reading
from swarm_repro.cassette.records import CallRecord
from swarm_repro.errors import UsageError
from swarm_repro.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command("show")
@click.argument("cassette", type=click.Path(path_type=Path))
@click.argument("call", required=False, metavar="[KEY|N]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(cassette: Path, call: str | None, as_json: bool) -> None:
    """Show a CASSETTE's calls, or one of them whole.

    A call is named by its number in the file, from 0, or by the beginning of its asked or sent
    key.
    """
    found = read_cassette(cassette)
    calls = list(found.calls.values())
    if call is None:
        _show_all(found, calls, as_json=as_json)
    else:
        number = _choose(calls, call, cassette)
        _show_one(cassette, number, calls[number], as_json=as_json)


def _choose(calls: Sequence[CallRecord], wanted: str, path: Path) -> int:
    if wanted.isdecimal() and int(wanted) < len(calls):
        return int(wanted)
    prefix = wanted if wanted.startswith("sr1:") else f"sr1:{wanted}"
    matching = [
        number
        for number, call in enumerate(calls)
        if call.asked.startswith(prefix) or call.sent.startswith(prefix)
    ]
    if not matching:
        raise UsageError(f"{path} has no call {wanted}; it has {len(calls)}, numbered from 0")
    if len(matching) > 1:
        raise UsageError(f"{len(matching)} calls have a key that begins with {wanted}")
    return matching[0]


def _show_all(cassette: Cassette, calls: Sequence[CallRecord], *, as_json: bool) -> None:
    if as_json:
        click.echo(
            encode_json(
                {
                    "header": cassette.header.to_json(),
                    "models": [model.to_json() for model in cassette.models.values()],
                    "environments": [dict(env.content) for env in cassette.envs.values()],
                    "calls": [_brief(number, call) for number, call in enumerate(calls)],
                }
            )
        )
        return
    header = cassette.header
    click.echo(f"scenario {header.scenario}, seed policy {header.seed_policy}", nl=False)
    click.echo(", strict" if header.strict else "")
    for model in cassette.models.values():
        click.echo(f"model {model.name}: {model.identity.label} on {model.backend}")
    click.echo(f"{'n':>4}  {'at':>7}  {'scope':<24} {'kind':<10} {'tokens':>11}  completion")
    for number, call in enumerate(calls):
        at = f"{call.at[0]}.{call.at[1]}" if call.at else "-"
        tokens = f"{_count(call, 'prompt')}+{_count(call, 'completion')}"
        text = printable(_completion_text(cassette.path, call))
        shown = text if len(text) <= 60 else text[:59] + "…"
        scope, kind = printable(call.scope), printable(call.kind or "-")
        click.echo(f"{number:>4}  {at:>7}  {scope:<24} {kind:<10} {tokens:>11}  {shown}")


def _show_one(path: Path, number: int, call: CallRecord, *, as_json: bool) -> None:
    with reading(path, call):
        body, completion = call.body, call.completion
    if as_json:
        click.echo(
            encode_json(
                {
                    **_brief(number, call),
                    "request": {"path": call.path, "body": body},
                    "response": completion.documents,
                }
            )
        )
        return
    click.echo(
        printable(f"call {call.i} of {call.scope}, repeat {call.n}, at {call.at}, {call.kind}")
    )
    click.echo(f"asked  {call.asked}  seed {call.asked_seed}")
    click.echo(f"sent   {call.sent}  seed {call.sent_seed}")
    click.echo(f"model  {call.model}, {call.duration_s:.2f} s, tokens {dict(call.tokens)}")
    messages = body.get("messages")
    if isinstance(messages, list):
        for message in messages:
            known = message if isinstance(message, dict) else {"content": message}
            click.echo(printable(f"--- {known.get('role')}"))
            click.echo(printable(str(known.get("content")), keep_lines=True))
    for name, value in body.items():
        if name != "messages" or not isinstance(messages, list):
            click.echo(printable(f"{name}: {encode_json(value).decode()}"))
    click.echo("--- completion")
    click.echo(printable(completion.text, keep_lines=True))


def _brief(number: int, call: CallRecord) -> dict[str, object]:
    return {
        "n": number,
        "scope": call.scope,
        "i": call.i,
        "repeat": call.n,
        "at": call.at,
        "kind": call.kind,
        "asked": call.asked,
        "sent": call.sent,
        "seed": {"asked": call.asked_seed, "sent": call.sent_seed},
        "model": call.model,
        "tokens": dict(call.tokens),
        "duration_s": call.duration_s,
    }


def _completion_text(path: Path, call: CallRecord) -> str:
    with reading(path, call):
        return call.completion.text


def _count(call: CallRecord, name: str) -> str:
    count = call.tokens.get(name)
    return "?" if count is None else str(count)
