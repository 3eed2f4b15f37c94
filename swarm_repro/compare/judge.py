"""Which differences between two recordings are roots, which only followed from them.

A *root* is the same sent key with another completion. A *cause* is a request that differs for a
reason of its own: other settings, or a text that no earlier completion can have changed. Both are
*origins*. A request that differs in its texts after an origin is *fallout*: proven where it repeats
words of a completion that differs because of that origin, else assumed, since an origin also acts
through numbers, such as an agent's reputation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from swarm_repro.cassette.entries import Entry
from swarm_repro.cassette.index import CassetteIndex, OnStep
from swarm_repro.cassette.reader import Cassette
from swarm_repro.cassette.records import CallRecord
from swarm_repro.compare.align import Pair, align, precedes
from swarm_repro.compare.carriers import Carriers
from swarm_repro.compare.causes import (
    ABSENT,
    KIND,
    Cause,
    Edit,
    settings_causes,
    text_edits,
)
from swarm_repro.compare.judged import Class, Judged, Judgements
from swarm_repro.completion import same_but_volatile

_RUN_SEED = "run seed"


@dataclass
class Origin:
    """Where two recordings begin to differ.

    Attributes:
        id: Its number, in causal order.
        pair: The first pair it shows in.
        cause: What differs, or None for a root.
        calls: Pairs it shows in.
        scopes: Whose calls these are.
        proven: Later differences that repeat words of its completions.
        assumed: Later differences that nothing else explains.
        shared: Those of ``assumed`` that a later origin may explain as well.
    """

    id: int
    pair: Pair
    cause: Cause | None
    calls: int = 1
    scopes: set[str] = field(default_factory=set)
    proven: int = 0
    assumed: int = 0
    shared: int = 0


class Comparison:
    """Two cassettes, compared.

    Attributes:
        a: The first cassette.
        b: The second.
        judged: Every call of both, in causal order.
        origins: Where they begin to differ, in causal order.
    """

    def __init__(
        self, a: CassetteIndex, b: CassetteIndex, *, on_judged: OnStep | None = None
    ) -> None:
        """Compare.

        Args:
            a: The first cassette.
            b: The second.
            on_judged: Called now and then with the calls judged so far and all of them.

        Raises:
            CassetteDamagedError: A call's bytes are not the recorded ones.
        """
        self.a = a
        self.b = b
        self.origins: list[Origin] = []
        self._firsts: list[Origin] = []
        self._lowest: dict[tuple[frozenset[int], str], int] = {}
        self._by_cause: dict[object, Origin] = {}
        self._known_lines: dict[tuple[str, str], int] = {}
        self._settings: dict[tuple[bytes, bytes], list[Cause]] = {}
        self._carriers = Carriers()
        self._same_models = a.cassette.models == b.cassette.models
        self._length = _length_cause(a.cassette, b.cassette)
        self._common_seeds = {*run_seeds(a.cassette)} & {*run_seeds(b.cassette)}
        pairs = align(a.entries, b.entries)
        self.judged = Judgements(pairs)
        for step in pairs.steps():
            self._judge_step(step)
            if on_judged is not None:
                on_judged(step.stop, len(pairs))

    def _judge_step(self, step: range) -> None:
        """Judge the calls of one step: roots first, since who acted before whom is not recorded.

        Within a scope the order is known: nothing is judged before what came before it.
        """
        parted: set[str] = set()
        for number in step:
            pair = self.judged.pairs[number]
            if pair.entry.scope not in parted:
                judged = self._judge_same_request(pair)
                if judged is None:
                    parted.add(pair.entry.scope)
                else:
                    self.judged.keep(judged)
        for number in filter(self.judged.is_open, step):
            pair = self.judged.pairs[number]
            self.judged.keep(self._judge_same_request(pair) or self._judge_other_request(pair))

    def _judge_same_request(self, pair: Pair) -> Judged | None:
        """Judge two calls with one sent key; None where the keys differ or a call is missing."""
        if pair.a is None or pair.b is None or pair.a.sent != pair.b.sent:
            return None
        if pair.a.answer == pair.b.answer:
            return Judged(pair, Class.IDENTICAL)
        one, other = self.a.call(pair.a), self.b.call(pair.b)
        if same_but_volatile(self.a.completion_of(one), self.b.completion_of(other)):
            return Judged(pair, Class.IDENTICAL)
        rendered = _rendered(one, other)
        if rendered is None:
            cls, origin = Class.ROOT, self._add_origin(pair, None)
        else:
            cls, origin = Class.CHANGED, self._origin_of(rendered, pair)
        self._carry(pair, one, other, (origin.id,), own=True)
        return Judged(pair, cls, (origin.id,))

    def _judge_other_request(self, pair: Pair) -> Judged:
        """Judge two calls whose requests differ, or a call that only one side has."""
        if pair.a is None or pair.b is None:
            return self._judge_alone(pair)
        one, other = self.a.call(pair.a), self.b.call(pair.b)
        known = self._first_origin(pair)
        edits = text_edits(one, other)
        causes = self._settings_of(pair.a, one, pair.b, other)
        if one.kind != other.kind:
            # An agent's calls are shifted, by an earlier difference if there is one: these are not
            # the same question, and nothing else in them can be compared.
            causes = [cause for cause in causes if cause.field == KIND and known is None]
        seed = self._seed_cause(pair, one, other, edits)
        causes = causes if seed is None else [seed, *causes]
        own = [self._origin_of(cause, pair).id for cause in causes]
        if known is None and causes and causes[0].field in {KIND, _RUN_SEED}:
            # Ids and draws of a simulation follow from its seed, another question from its kind.
            known = self.origins[own[0]]
        own += self._own_texts(pair, edits, known)
        if not own and known is None:
            unknown = Cause("key", pair.a.sent.hex()[:12], pair.b.sent.hex()[:12])
            own = [self._origin_of(unknown, pair).id]
        follows = self._unexplained(edits) if known is not None else []
        judged = self._follow(pair, follows, own, known)
        if pair.a.answer != pair.b.answer:
            self._carry(pair, one, other, judged.origins, own=judged.cls is Class.CHANGED)
        return judged

    def _judge_alone(self, pair: Pair) -> Judged:
        cls = Class.ONLY_A if pair.b is None else Class.ONLY_B
        known = self._first_origin(pair)
        cause = self._missing_cause(pair)
        if cause is None and known is None:
            entry = pair.entry
            cause = self._length or _missing("call", f"call {entry.i} of {entry.scope}", cls)
        if cause is not None:
            return Judged(pair, cls, (self._origin_of(cause, pair).id,))
        if known is None:
            raise ValueError("a difference without an origin")
        known.assumed += 1
        known.shared += self._is_shared(known, pair)
        return Judged(pair, cls, (known.id,), proven=False)

    def _missing_cause(self, pair: Pair) -> Cause | None:
        """Why only one recording has a call, where that follows from nothing."""
        entry, cls = pair.entry, Class.ONLY_A if pair.b is None else Class.ONLY_B
        if self._common_seeds and entry.seeds and not entry.seeds & self._common_seeds:
            return _missing("run", f"seed {_shown(sorted(entry.seeds))}", cls)
        runs = (self.b if pair.b is None else self.a).cassette.runs
        if self._length is None or entry.at is None or not runs:
            return None
        epochs, steps = max(run.epochs for run in runs), max(run.steps for run in runs)
        return self._length if entry.at[0] >= epochs or entry.at[1] >= steps else None

    def _seed_cause(
        self, pair: Pair, one: CallRecord, other: CallRecord, edits: Sequence[Edit]
    ) -> Cause | None:
        """Why derived seeds differ, which are never a cause themselves; or ids made from seeds."""
        if pair.a is None or pair.b is None:
            return None
        policies = (self.a.cassette.header.seed_policy, self.b.cassette.header.seed_policy)
        derived = (one.asked_seed, other.asked_seed) == (None, None) and (
            one.sent_seed != other.sent_seed
        )
        if derived and policies[0] != policies[1]:
            return Cause("seed policy", *policies)
        if pair.a.seeds and pair.b.seeds:
            differ = pair.a.seeds.isdisjoint(pair.b.seeds) and (derived or bool(edits))
        else:
            same = (one.asked, one.n) == (other.asked, other.n)
            differ = derived and (policies[0] == "event" or same)
        if not differ:
            return None
        return Cause(_RUN_SEED, _shown(sorted(pair.a.seeds)), _shown(sorted(pair.b.seeds)))

    def _settings_of(self, a: Entry, one: CallRecord, b: Entry, other: CallRecord) -> list[Cause]:
        if a.settings == b.settings and self._same_models:
            return []
        key = (a.settings, b.settings)
        found = self._settings.get(key)
        if found is None:
            models = (self.a.cassette.models[one.model], self.b.cassette.models[other.model])
            found = self._settings[key] = settings_causes(one, other, models)
        return found

    def _own_texts(self, pair: Pair, edits: Sequence[Edit], known: Origin | None) -> list[int]:
        """Texts that no origin can have changed, or that differ as they did before any could."""
        own: list[int] = []
        for edit in edits:
            repeated = {
                self._known_lines[line] for line in _lines(edit) if line in self._known_lines
            }
            for number in repeated:
                self._show_again(self.origins[number], pair)
            own += repeated
            if not repeated and (known is None or self._is_persona(pair, edit)):
                origin = self._origin_of(edit.cause, pair)
                for line in _lines(edit):
                    self._known_lines.setdefault(line, origin.id)
                own.append(origin.id)
        return own

    def _is_persona(self, pair: Pair, edit: Edit) -> bool:
        """Whether a text was set before the run: an agent's first system message."""
        return (
            pair.entry.i == 0
            and edit.role == "system"
            and pair.a is not None
            and pair.b is not None
            and pair.a.kind == pair.b.kind
            and not self._carriers.found_in(pair, [edit])
        )

    def _unexplained(self, edits: Iterable[Edit]) -> list[Edit]:
        """The texts with a difference that is not known to be one of its own."""
        return [
            edit
            for edit in edits
            if not _lines(edit) or any(line not in self._known_lines for line in _lines(edit))
        ]

    def _follow(
        self, pair: Pair, edits: list[Edit], own: list[int], known: Origin | None
    ) -> Judged:
        """Find out what texts follow from, and count it there."""
        cls = Class.CHANGED if own else Class.FALLOUT
        if known is None or (own and not edits):
            return Judged(pair, cls, _unique(own))
        found = self._carriers.found_in(pair, edits)
        certain = _unique(origin for carrier in found if carrier.own for origin in carrier.origins)
        # Words of a call that only followed lead to its origin too, but prove nothing.
        likely = _unique(origin for carrier in found for origin in carrier.origins)
        if not likely and not own:
            likely = (known.id,)
        for number in likely:
            origin = self.origins[number]
            if number in certain:
                origin.proven += 1
            else:
                origin.assumed += 1
                origin.shared += len(likely) > 1 or self._is_shared(origin, pair)
        return Judged(pair, cls, _unique((*own, *certain, *likely)), proven=bool(certain))

    def _first_origin(self, pair: Pair) -> Origin | None:
        return next((first for first in self._firsts if precedes(first.pair, pair)), None)

    def _is_shared(self, first: Origin, pair: Pair) -> bool:
        return any(
            origin is not first and precedes(origin.pair, pair)
            for origin in self.origins[first.id + 1 : first.id + 2]
        )

    def _origin_of(self, cause: Cause, pair: Pair) -> Origin:
        """The origin of a cause: one for all calls that differ in the same way."""
        origin = self._by_cause.get(cause)
        if origin is None:
            origin = self._by_cause[cause] = self._add_origin(pair, cause)
        else:
            self._show_again(origin, pair)
        return origin

    def _add_origin(self, pair: Pair, cause: Cause | None) -> Origin:
        origin = Origin(len(self.origins), pair, cause, scopes={pair.entry.scope})
        self.origins.append(origin)
        # An agent's later origin precedes no call that its first one does not precede as well.
        place = (pair.seeds, pair.entry.scope)
        if pair.entry.i < self._lowest.get(place, pair.entry.i + 1):
            self._lowest[place] = pair.entry.i
            self._firsts.append(origin)
        return origin

    def _show_again(self, origin: Origin, pair: Pair) -> None:
        origin.calls += 1
        origin.scopes.add(pair.entry.scope)

    def _carry(
        self,
        pair: Pair,
        one: CallRecord,
        other: CallRecord,
        origins: tuple[int, ...],
        *,
        own: bool,
    ) -> None:
        self._carriers.add(
            pair,
            self.a.completion_of(one).text,
            self.b.completion_of(other).text,
            origins=origins,
            own=own,
        )


def _unique(numbers: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(numbers))


def _lines(edit: Edit) -> list[tuple[str, str]]:
    return [("-", line) for line in edit.removed] + [("+", line) for line in edit.added]


def _rendered(one: CallRecord, other: CallRecord) -> Cause | None:
    """The backend made another prompt of the same request."""
    prompts = (one.prompt_sha256, other.prompt_sha256)
    if None in prompts or prompts[0] == prompts[1]:
        return None
    return Cause("rendered prompt", f"sha256 {prompts[0]}"[:19], f"sha256 {prompts[1]}"[:19])


def _missing(field: str, shown: str, cls: Class) -> Cause:
    return Cause(field, *((shown, ABSENT) if cls is Class.ONLY_A else (ABSENT, shown)))


def _length_cause(a: Cassette, b: Cassette) -> Cause | None:
    """Why one recording has calls that the other has not."""
    if not a.runs or not b.runs:
        return None
    for name in ("epochs", "steps"):
        one, other = (
            _shown(sorted({getattr(run, name) for run in cassette.runs})) for cassette in (a, b)
        )
        if one != other:
            return Cause(name, one, other)
    return None


def _shown(values: Iterable[int]) -> str:
    return ", ".join(map(str, values)) or "(not recorded)"


def run_seeds(cassette: Cassette) -> list[int]:
    """Seeds of the runs of a cassette."""
    return sorted({run.seed for run in cassette.runs if run.seed is not None})
