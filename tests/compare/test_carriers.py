"""Words of a completion that a later prompt repeats: how they are remembered and found."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_repro.cassette.entries import Entry
from swarm_repro.compare.align import Pair
from swarm_repro.compare.carriers import Carriers, differing_texts
from swarm_repro.compare.causes import Edit


def pair(scope: str, i: int, step: int) -> Pair:
    entry = Entry(0, 0, 0, scope, i, 0, (0, step), None, bytes(32), bytes(32), b"", b"", "env")
    return Pair(0, entry, entry)


SPEAKER, LATER = pair("ada", 0, 0), pair("ben", 0, 1)


def edit(a: str, b: str) -> Edit:
    """Two versions of a text, and the lines that only one of them has."""
    lines_a, lines_b = a.splitlines(), b.splitlines()
    return Edit(
        field="messages[0].content",
        role="user",
        a=a,
        b=b,
        removed=tuple(line for line in lines_a if line not in lines_b),
        added=tuple(line for line in lines_b if line not in lines_a),
    )


def origins_found(
    said: tuple[str, str], prompts: tuple[str, str], *, who: Pair = SPEAKER, at: Pair = LATER
) -> list[tuple[int, ...]]:
    """Origins found for the edits of one completion."""
    carriers = Carriers()
    carriers.add(who, *said, origins=(3,), own=True)
    return [carrier.origins for carrier in carriers.found_in(at, [edit(*prompts)])]


SAID = ("we meet at the mill tonight", "we meet at the well tonight")


def test_a_prompt_that_repeats_one_version_each_is_found() -> None:
    assert origins_found(SAID, (f"ada: {SAID[0]}!", f"ada: {SAID[1]}!")) == [(3,)]


def test_the_words_of_one_version_suffice() -> None:
    assert origins_found(SAID, (f"ada: {SAID[0]}", "ada is silent")) == [(3,)]
    assert origins_found(SAID, ("ada is silent", f"ada: {SAID[1]}")) == [(3,)]
    assert origins_found(("", SAID[1]), ("ada is silent", f"ada: {SAID[1]}")) == [(3,)]
    assert origins_found((SAID[0], ""), (f"ada: {SAID[0]}", "ada is silent")) == [(3,)]


def test_words_that_stand_in_the_other_version_too_prove_nothing() -> None:
    both = f"ada: {SAID[0]}"
    assert origins_found(SAID, (f"1 {both}", f"2 {both}")) == []
    assert origins_found(SAID, ("ada is silent", f"ada: {SAID[0]}")) == [], "on the wrong side"
    assert origins_found(SAID, (f"ada: {SAID[1]}", "ada is silent")) == [], "on the wrong side"


def test_words_in_a_line_that_does_not_differ_prove_nothing() -> None:
    same = f"ada: {SAID[0]}"
    assert origins_found(SAID, (f"{same}\n1", f"{same}\n2")) == []


def test_later_words_of_the_same_agent_are_not_looked_for() -> None:
    prompts = (f"ada: {SAID[0]}", f"ada: {SAID[1]}")
    assert origins_found(SAID, prompts, at=pair("ada", 1, 0)) == [(3,)]
    assert origins_found(SAID, prompts, who=pair("ada", 1, 0), at=pair("ada", 0, 0)) == []


def test_twelve_characters_prove_something_and_eleven_do_not() -> None:
    for length, expected in ((12, [(3,)]), (11, [])):
        said = ("a" * length, "b" * length)
        assert origins_found(said, (f"he said {said[0]}.", "nothing")) == expected


def test_blanks_around_the_words_do_not_count() -> None:
    assert origins_found((f"   {'a' * 11}   ", "b"), (f"   {'a' * 11}   ", "c")) == []
    assert origins_found((f"   {'a' * 12}   ", "b"), ("a" * 12, "c")) == [(3,)]


def test_sixty_four_characters_on_each_side_are_looked_for() -> None:
    before, after = "<" * 64, ">" * 63
    said = (f"far{before}A{after}far", f"far{before}B{after}far")
    assert origins_found(said, (f"{before}A{after}", "cut")) == [(3,)]
    assert origins_found(said, (f"{before[1:]}A{after}", "cut")) == []
    assert origins_found(said, (f"{before}A{after[1:]}", "cut")) == []


def test_words_end_with_their_line() -> None:
    said = ("first line\nthe mill is open\nlast line", "first line\nthe inn is open\nlast line")
    assert origins_found(said, ("> the mill is open <", "nothing")) == [(3,)]
    assert origins_found(said, ("nothing", "> the inn is open <")) == [(3,)]


def test_a_text_that_goes_on_where_the_other_ends_is_known_by_what_it_adds() -> None:
    said = ("it is late", "it is late, so we go home")
    assert origins_found(said, ("nothing", "it is late, so we go home")) == [(3,)]
    assert origins_found(said, ("it is late", "nothing")) == []


def test_any_string_of_a_json_answer_is_looked_for() -> None:
    said = (
        '{"say": "we meet at the mill", "why": "it was ground there"}',
        '{"say": "we meet at the well", "why": "it was dug very deep"}',
    )
    assert origins_found(said, ("it was ground there", "x")) == [(3,)]
    assert origins_found(said, ("x", "we meet at the well")) == [(3,)]


def test_each_of_several_edits_is_looked_at() -> None:
    carriers = Carriers()
    carriers.add(SPEAKER, *SAID, origins=(1,), own=False)
    carriers.add(SPEAKER, "hello to all of you", "good bye my friends", origins=(2, 4), own=True)
    edits = [edit("x", f"y {SAID[1]}"), edit("hello to all of you", "good bye my friends")]
    found = carriers.found_in(LATER, edits)
    assert [(carrier.origins, carrier.own, carrier.pair) for carrier in found] == [
        ((1,), False, SPEAKER),
        ((2, 4), True, SPEAKER),
    ]
    assert carriers.found_in(LATER, []) == []


def test_a_carrier_is_found_once_in_a_text_that_repeats_both_of_its_strings() -> None:
    said = ('["one of these words", "another of the words"]', '["1", "2"]')
    assert origins_found(said, ("one of these words, another of the words", "x")) == [(3,)]


def test_the_first_and_the_latest_of_many_carriers_are_looked_for() -> None:
    carriers = Carriers()
    words = [f"<this was said as number {number}>" for number in range(200)]
    for number, word in enumerate(words):
        carriers.add(SPEAKER, word, f"-{word}", origins=(number,), own=True)
    found = carriers.found_in(LATER, [edit("\n".join(words), "nothing")])
    assert [carrier.origins[0] for carrier in found] == [*range(64), *range(136, 200)]


def test_a_carrier_without_distinctive_words_takes_no_place() -> None:
    carriers = Carriers()
    for number in range(200):
        carriers.add(SPEAKER, "yes", "no", origins=(number,), own=True)
    carriers.add(SPEAKER, *SAID, origins=(200,), own=True)
    for number in range(128):
        carriers.add(SPEAKER, f"later {'x' * 20} {number}", "y", origins=(number,), own=True)
    found = carriers.found_in(LATER, [edit(SAID[0], SAID[1])])
    assert [carrier.origins for carrier in found] == [(200,)]


# --- Which texts of two completions differ.

leaves = st.none() | st.integers(0, 3) | st.text("ab", max_size=3)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
    ),
    max_leaves=8,
)


def leaves_of(value: object, place: tuple[object, ...] = ()) -> dict[tuple[object, ...], object]:
    """Every value of a JSON document by its place."""
    if not isinstance(value, (dict, list)):
        return {place: value}
    members = value.items() if isinstance(value, dict) else enumerate(value)
    found: dict[tuple[object, ...], object] = {place: value}
    for name, member in members:
        found |= leaves_of(member, (*place, name))
    return found


@settings(max_examples=40)
@given(values, values)
def test_differing_strings_of_two_json_answers_are_given(a: object, b: object) -> None:
    one, other = leaves_of(a), leaves_of(b)
    expected = Counter(
        tuple(value if isinstance(value, str) else "" for value in both)
        for place in {*one, *other}
        for both in [(one.get(place), other.get(place))]
        if both[0] != both[1] and not any(isinstance(value, (dict, list)) for value in both)
    )
    assert Counter(differing_texts(json.dumps(a), json.dumps(b))) == expected


def test_other_values_count_as_empty_strings() -> None:
    assert list(differing_texts('{"a": 1, "b": "x"}', '{"a": 2, "b": null}')) == [
        ("", ""),
        ("x", ""),
    ]
    assert list(differing_texts('"x"', "7")) == [("x", "")]


@settings(max_examples=40)
@given(st.text("ab ", max_size=5), st.text("ab ", max_size=5))
def test_texts_other_than_json_are_compared_as_a_whole(a: str, b: str) -> None:
    expected = [] if a == b else [(a, b)]
    assert list(differing_texts(a, b)) == expected
    assert list(differing_texts("{}", f"no json {b}")) == [("{}", f"no json {b}")]


@settings(max_examples=40)
@given(st.text("abc", min_size=12, max_size=30), st.integers(0, 29), st.sampled_from("xyz"))
def test_a_quotation_that_differs_is_found_and_the_same_one_is_not(
    words: str, at: int, letter: str
) -> None:
    place = min(at, len(words) - 1)
    said = (words, words[:place] + letter + words[place + 1 :])
    assert origins_found(said, (f"ada: {said[0]}", f"ada: {said[1]}")) == [(3,)]
    assert origins_found(said, (f"1: {said[0]}", f"2: {said[0]}")) == []
