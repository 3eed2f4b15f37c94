"""Differences that follow from others, and differences of their own."""

from __future__ import annotations

from pathlib import Path

from swarm_repro.compare.diff import DiffReport
from tests.support.diff_reports import Recording, calls_of, causes_of, followed, of, report_of
from tests.support.recordings import Call, record
from tests.support.society import comparing
from tests.support.tiny_model import completion_of

# --- What followed, and from what.

YES, NO = "ada says that yes, she will", "ada says that no, never again"


def test_words_of_a_call_that_only_followed_lead_to_its_origin_and_prove_nothing(
    tmp_path: Path,
) -> None:
    """Cleo repeats ben, and ben's words followed from ada's."""
    ben = ("ben agrees with all of it", "ben thinks otherwise, and says it")
    sides = [
        of(
            Call("1", said),
            Call(said, answer, "ben", (0, 1)),
            Call(answer, "good", "cleo", (0, 2)),
        )
        for said, answer in zip((YES, NO), ben, strict=True)
    ]
    report = report_of(tmp_path, *sides)
    assert calls_of(report) == [
        ("ada 0", "root", [0], None),
        ("ben 0", "fallout", [0], True),
        ("cleo 0", "fallout", [0], False),
    ]
    assert report["origins"][0]["fallout"] == followed(proven=1, assumed=1)


def test_an_unexplained_difference_is_assumed_of_the_first_origin_and_may_be_shared(
    tmp_path: Path,
) -> None:
    sides = [
        of(
            Call("1", said, at=(0, 0)),
            Call("1", said, "ben", (0, 1)),
            Call(f"your reputation is {number}", "fine", "cleo", (0, 2)),
        )
        for said, number in ((YES, 1), (NO, 2))
    ]
    report = report_of(tmp_path, *sides)
    assert calls_of(report) == [
        ("ada 0", "root", [0], None),
        ("ben 0", "root", [1], None),
        ("cleo 0", "fallout", [0], False),
    ]
    assert [origin["fallout"] for origin in report["origins"]] == [
        followed(assumed=1, shared=1), followed(),
    ]  # fmt: skip


def test_a_later_origin_that_came_after_a_call_does_not_share_it(tmp_path: Path) -> None:
    sides = [
        of(
            Call("1", said, at=(0, 0)),
            Call(f"your reputation is {number}", "fine", "ben", (0, 1)),
            Call("1", said, "cleo", (0, 2)),
        )
        for said, number in ((YES, 1), (NO, 2))
    ]
    report = report_of(tmp_path, *sides)
    assert [origin["fallout"] for origin in report["origins"]] == [
        followed(assumed=1), followed(),
    ]  # fmt: skip


def test_a_prompt_that_repeats_two_roots_follows_from_both(tmp_path: Path) -> None:
    words = (("the mill is open all day", "the inn is full tonight"),
             ("a storm comes from the sea", "no cloud is in the sky"))  # fmt: skip
    sides = [
        of(
            Call("1", ada),
            Call("1", ben, "ben"),
            Call(f"{ada}\n{ben}", "fine", "cleo", (0, 1)),
        )
        for ada, ben in zip(*words, strict=True)
    ]
    report = report_of(tmp_path, *sides)
    assert calls_of(report)[2] == ("cleo 0", "fallout", [0, 1], True)
    assert [origin["fallout"] for origin in report["origins"]] == [followed(proven=1)] * 2


def test_two_origins_by_words_that_only_followed_are_shared(tmp_path: Path) -> None:
    ben = ("ben agrees with all of it", "ben thinks otherwise, and says it")
    dan = ("dan would rather go to sleep", "with this dan is quite happy")
    sides = [
        of(
            Call("1", said),
            Call("1", f"eve: {said}", "eve"),
            Call(said.upper(), one, "ben", (0, 1)),
            Call(f"eve: {said}", other, "dan", (0, 1)),
            Call(f"{one}\n{other}", "good", "fay", (0, 2)),
        )
        for said, one, other in zip((YES, NO), ben, dan, strict=True)
    ]
    report = report_of(tmp_path, *sides)
    assert calls_of(report) == [
        ("ada 0", "root", [0], None),
        ("eve 0", "root", [1], None),
        ("ben 0", "fallout", [0], False),
        ("dan 0", "fallout", [0, 1], True),
        ("fay 0", "fallout", [0, 1], False),
    ]
    assert [origin["fallout"] for origin in report["origins"]] == [
        followed(proven=1, assumed=2, shared=2), followed(proven=1, assumed=1, shared=1),
    ]  # fmt: skip


def test_a_call_that_one_side_lacks_is_assumed_and_may_be_shared(tmp_path: Path) -> None:
    sides = [
        of(
            Call("1", said),
            Call("1", said, "ben", (0, 1)),
            *([Call("more", "fine", "cleo", (0, 2))] if said == NO else []),
        )
        for said in (YES, NO)
    ]
    report = report_of(tmp_path, *sides)
    assert calls_of(report)[2] == ("cleo 0", "only_b", [0], False)
    assert (report["calls"][2]["a"], report["calls"][2]["b"]) == (None, 2)
    assert [origin["fallout"] for origin in report["origins"]] == [
        followed(assumed=1, shared=1), followed(),
    ]  # fmt: skip


def test_a_line_that_differs_in_many_calls_is_one_cause_though_a_root_came_before(
    tmp_path: Path,
) -> None:
    """The market's line changed by itself: it differs before anybody said anything."""
    sides = [
        of(
            Call(f"hello\nthe market is {word}", said),
            Call(f"go on\nthe market is {word}", "fine", at=(0, 1)),
            Call(f"ada: {said}\nthe market is {word}", "fine", "ben", (0, 1)),
        )
        for said, word in ((YES, "calm"), (NO, "wild"))
    ]
    report = report_of(tmp_path, *sides)
    assert calls_of(report) == [
        ("ada 0", "changed", [0], None),
        ("ada 1", "changed", [0], None),
        ("ben 0", "changed", [0], True),
    ]
    (origin,) = report["origins"]
    assert (origin["calls"], origin["scopes"]) == (3, ["ada", "ben"])
    assert origin["fallout"] == followed(proven=1)
    assert report["verdict"].endswith(
        "character 20: 'hello\\nthe market is calm' in A, 'hello\\nthe market is wild' in B "
        "(call 0 of ada and 2 more)"
    )


def test_a_persona_is_a_cause_of_its_own_only_in_an_agents_first_call(tmp_path: Path) -> None:
    def side(said: str, word: str) -> Recording:
        return of(
            Call("1", said),
            Call("1", who="ben", at=(0, 1), system=f"You are {word}."),
            Call("1", who="cleo", at=(0, 1), system="You are cleo."),
            Call("2", who="cleo", at=(0, 2), system=f"You are cleo, and {word}."),
        )

    report = report_of(tmp_path, side(YES, "calm"), side(NO, "wild"))
    assert [cause[0] for cause in causes_of(report)] == [
        "root", "system prompt, messages[0].content",
    ]  # fmt: skip
    assert calls_of(report) == [
        ("ada 0", "root", [0], None),
        ("ben 0", "changed", [1], None),
        ("cleo 1", "fallout", [0], False),
    ]


def test_a_first_system_prompt_that_repeats_a_root_is_no_persona(tmp_path: Path) -> None:
    sides = [
        of(Call("1", said), Call("1", who="ben", at=(0, 1), system=f"You heard: {said}"))
        for said in (YES, NO)
    ]
    report = report_of(tmp_path, *sides)
    assert causes_of(report) == [("root",)]
    assert calls_of(report)[1] == ("ben 0", "fallout", [0], True)


def test_a_users_text_in_a_first_call_is_no_persona(tmp_path: Path) -> None:
    sides = [
        of(Call("1", said), Call(f"you have {coins} coins", who="ben", at=(0, 1)))
        for said, coins in ((YES, 3), (NO, 4))
    ]
    assert causes_of(report_of(tmp_path, *sides)) == [("root",)]


def test_within_a_step_roots_come_first_and_may_explain_other_agents(tmp_path: Path) -> None:
    sides = [of(Call(f"zoe: {said}", "fine", "ada"), Call("1", said, "zoe")) for said in (YES, NO)]
    report = report_of(tmp_path, *sides)
    assert calls_of(report) == [("ada 0", "fallout", [0], True), ("zoe 0", "root", [0], None)]
    assert report["origins"][0]["call"] == 1


def test_within_a_step_an_agents_own_calls_keep_their_order(tmp_path: Path) -> None:
    sides = [
        of(Call(f"the weather is {word}", "fine"), Call("1", said))
        for word, said in (("fine", YES), ("bad", NO))
    ]
    report = report_of(tmp_path, *sides)
    assert causes_of(report) == [
        ("messages[0].content", "'the weather is fine'", "'the weather is bad'"), ("root",),
    ]  # fmt: skip


def test_answers_that_differ_in_volatile_members_alone_are_identical(tmp_path: Path) -> None:
    sides = [of(Call("1", completion_of("yes", number=number))) for number in (1, 2)]
    report = report_of(tmp_path, *sides)
    assert (report["identical"], report["counts"]["identical"]) == (True, 1)
    assert report["verdict"] == (
        "identical: 1 calls, the same requests and the same completions"
    )  # fmt: skip


def test_calls_of_several_runs_name_all_their_seeds(tmp_path: Path) -> None:
    """Runs 2 and 3 ask the same with a seed of their own, so that they share the call."""
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path, seeds in zip(paths, ((1,), (1, 2, 3)), strict=True):
        for seed in seeds:
            calls = [Call("1", fields={"seed": 5 if seed == 1 else 6})]
            record(path, calls, seed=seed)
    with comparing(*paths) as found:
        report = DiffReport(found).to_json()
    assert causes_of(report) == [("run", "(absent)", "seed 2, 3")]


def test_another_run_seed_is_no_cause_where_neither_seeds_nor_texts_differ(tmp_path: Path) -> None:
    a = of(Call("1", fields={"seed": 5, "top_k": 3}), seed=1)
    b = of(Call("1", fields={"seed": 5, "top_k": 4}), seed=2)
    assert causes_of(report_of(tmp_path, a, b)) == [("top_k", "3", "4")]


def test_runs_of_several_lengths_are_named_by_all_of_them(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path, lengths in zip(paths, ((1, 2), (3,)), strict=True):
        for steps in lengths:
            calls = [Call(f"{n}", at=(0, n)) for n in range(steps)]
            record(path, calls, steps=steps)
    with comparing(*paths) as found:
        assert causes_of(DiffReport(found).to_json()) == [("steps", "1, 2", "3")]


def test_a_line_that_differs_in_two_runs_is_one_cause_though_neither_reaches_the_other(
    tmp_path: Path,
) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path, word in zip(paths, ("calm", "wild"), strict=True):
        for seed in (1, 2):
            record(path, [Call(f"day {seed}\nthe market is {word}")], seed=seed)
    with comparing(*paths) as found:
        report = DiffReport(found).to_json()
    assert [origin["calls"] for origin in report["origins"]] == [2]  # type: ignore[attr-defined]


def test_lines_in_another_order_follow_from_a_root_and_prove_nothing(tmp_path: Path) -> None:
    sides = [
        of(Call("1", said), Call(prompt, fields={"top_k": number}))
        for said, prompt, number in ((YES, "a\nb", 3), (NO, "b\na", 4))
    ]
    report = report_of(tmp_path, *sides)
    assert calls_of(report) == [("ada 0", "root", [0], None), ("ada 1", "changed", [1], False)]


def test_a_recording_without_a_run_has_no_length_to_differ_in(tmp_path: Path) -> None:
    made, none = of(Call("1")), of(run=False)
    assert causes_of(report_of(tmp_path, made, none)) == [("call", "call 0 of ada", "(absent)")]
