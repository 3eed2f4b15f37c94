"""The mutation testing script: its faults, and its choice of tests."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from mutation.equivalent import Equivalent, read_equivalents
from mutation.mutants import Mutant, mutants_of, parses
from mutation.report import table, wilson
from mutation.rooms import room_of, unused_patterns
from mutation.touched import Touched, package_files
from mutation.trying import Outcome, draw

ROOT = Path(__file__).resolve().parents[1]
FILE = "swarm_repro/cassette/merge.py"
MODULE = '''"""What a module says."""

LIMIT = 3


def shorten(text: str, most: int = LIMIT) -> str:
    """Say less."""
    if len(text) > most:  # ä is two bytes
        return text[:most] + "…"
    return text


class Box:
    def __init__(self) -> None:
        self.inside = {"a": True}
'''


def faults(source: str) -> list[tuple[str, str]]:
    """Each mutant's operator, and the lines concerned as it leaves them."""
    return [(mutant.operator, mutant.after) for mutant in mutants_of(source.encode(), FILE)]


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("if ready(): pass", ("negate condition", "if (not (ready())): pass")),
        ("x = [y for y in z if y]", ("negate condition", "x = [y for y in z if (not (y))]")),
        ("x = 1 if ready() else 2", ("negate condition", "x = 1 if (not (ready())) else 2")),
        ("x = a == b", ("swap comparison", "x = a != b")),
        ("x = a < b", ("swap comparison", "x = a <= b")),
        ("x = a < b", ("swap comparison", "x = a >= b")),
        ("x = a not in b", ("swap comparison", "x = a in b")),
        ("x = a is not b", ("swap comparison", "x = a is b")),
        ("x = a and b", ("swap and/or", "x = a or b")),
        ("x = not a", ("drop not", "x = (a)")),
        ("x = a + b", ("swap arithmetic", "x = a - b")),
        ("x += y", ("swap arithmetic", "x -= y")),
        ("x = -y", ("drop sign", "x = (y)")),
        ("x = y[3]", ("integer + 1", "x = y[4]")),
        ("x = y[3]", ("integer - 1", "x = y[2]")),
        ("f(True)", ("flip boolean", "f(False)")),
        ('x = y["a"]', ("other text", "x = y['aX']")),
        ('x = y == "a"', ("other text", "x = y == 'aX'")),
        ('x = {b"a"}', ("other text", "x = {b'aX'}")),
        ('def f(x="a"): pass', ("other text", "def f(x='aX'): pass")),
        ('match x:\n    case "a": pass', ("other text", "case 'aX': pass")),
        ("def f():\n    return x", ("return None", "return None")),
        ("f()", ("delete statement", "pass")),
        ("self.x = 1", ("delete statement", "pass")),
        ("x: int\nx[0]: int = 1", ("delete statement", "pass")),
        ("raise x", ("delete statement", "pass")),
        ("del x", ("delete statement", "pass")),
        ("f(a=b, c=d)", ("drop keyword", "f(c=d)")),
        ("f(a=b, c=d)", ("drop keyword", "f(a=b, )")),
        ("f(a, b)", ("swap arguments", "f(b, a)")),
        ("async def f():\n    await x", ("drop await", "(x)")),
        ("x = [y]", ("empty list", "x = []")),
        ("x = {y: z}", ("empty dict", "x = {}")),
        ("x = {y}", ("empty set", "x = set()")),
        ("try: f()\nexcept X: g()", ("handler never matches", "except (): g()")),
        ("while x: break", ("break to continue", "while x: continue")),
        ("while x: continue", ("continue to break", "while x: break")),
        ("x = y[:z]", ("slice bound + 1", "x = y[:(z) + 1]")),
        ("def f(x=y): pass", ("default to None", "def f(x=None): pass")),
    ],
)
def test_a_fault_that_people_make_is_a_mutant(source: str, fault: tuple[str, str]) -> None:
    assert fault in faults(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""Says."""',
        'def f(x: Literal["a", 3]) -> dict["a", 3]: ...',
        'Kind = Literal["a", "b"]',
        '__all__ = ["a", "b"]',
        "from a import b",
        "if TYPE_CHECKING:\n    x = 1",
        "def f():\n    return None",
        'T = TypeVar("T", bound=int)',
        "@dataclass(frozen=True)\nclass X: ...",
    ],
)
def test_code_no_test_could_check_is_left_unchanged(source: str) -> None:
    assert faults(source) == []


def test_the_words_of_a_message_are_left_unchanged() -> None:
    assert faults('raise XError("it is gone")') == [("delete statement", "pass")]
    assert faults('f(x, help="the one")') == [("delete statement", "pass")]


def test_a_mutant_changes_its_piece_and_no_other_byte() -> None:
    source = MODULE.replace("\n", "\r\n").encode()
    for mutant in mutants_of(source, FILE):
        changed = mutant.apply(source)
        assert changed[: mutant.start] == source[: mutant.start]
        assert changed.endswith(source[mutant.end :])
        assert changed != source
        assert parses(changed)


def test_a_mutant_says_where_it_is() -> None:
    [mutant] = [one for one in mutants_of(MODULE.encode(), FILE) if one.operator == "empty dict"]
    assert (mutant.line, mutant.function, mutant.lines) == (15, "Box.__init__", (15, 15))
    assert mutant.before == 'self.inside = {"a": True}'
    assert mutant.after == "self.inside = {}"


def package(folder: Path, module: str = MODULE) -> Path:
    """A repository with one module."""
    path = folder / FILE
    path.parent.mkdir(parents=True)
    path.write_text(module)
    return folder


def test_a_seed_draws_the_same_mutants_and_more_of_them_begin_with_these(tmp_path: Path) -> None:
    root = package(tmp_path)
    few = draw(root, ["merge"], count=3, seed=1)
    assert few == draw(root, ["merge"], count=3, seed=1)
    assert few == draw(root, ["merge"], count=9, seed=1)[:3]
    assert few != draw(root, ["merge"], count=3, seed=2)
    assert len(set(draw(root, ["merge"], count=1000, seed=1))) == len(faults(MODULE))
    assert draw(root, ["cache"], count=3, seed=1) == []


def test_only_the_given_lines_are_drawn_from(tmp_path: Path) -> None:
    drawn = draw(package(tmp_path), ["merge"], count=1000, seed=1, lines={FILE: {8}})
    assert {mutant.line for mutant in drawn} == {8}
    assert {mutant.after for mutant in drawn} == {
        "if len(text) >= most: # ä is two bytes",
        "if len(text) <= most: # ä is two bytes",
    }


def test_an_equivalent_mutant_is_found_again_when_lines_move() -> None:
    entry = Equivalent(
        file=FILE,
        function="shorten",
        before="if len(text) > most:  # ä is two bytes",
        after="if len(text) >= most:  # ä is two bytes",
        reason="for the test",
    )
    for source in (MODULE, MODULE.replace("LIMIT = 3", "LIMIT = 3\n\nOTHER = 4")):
        found = [mutant for mutant in mutants_of(source.encode(), FILE) if entry.is_of(mutant)]
        assert [mutant.operator for mutant in found] == ["swap comparison"]


def test_an_equivalent_mutant_without_a_reason_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "equivalent.yaml"
    path.write_text("- {file: a, function: f, before: x, after: y, reason: ''}")
    with pytest.raises(ValueError, match="no reason is given"):
        read_equivalents(path)
    path.write_text("- {file: a}")
    with pytest.raises(ValueError, match="function"):
        read_equivalents(path)


def test_each_module_is_in_one_room_and_no_pattern_is_left_over() -> None:
    files = package_files(ROOT)
    assert {room_of(file) for file in files}
    assert unused_patterns(files) == []


def known(root: Path, lines: dict[str, list[int]]) -> Touched:
    """The measurements of tests that run these lines; each takes a second longer than the last."""
    path = root / ".mutation" / "touched.json"
    path.parent.mkdir()
    tests = {
        name: {
            "seconds": float(number),
            "passed": True,
            "lines": {FILE: f"{sum(1 << line for line in own):x}"},
        }
        for number, (name, own) in enumerate(lines.items())
    }
    path.write_bytes(orjson.dumps({"files": {}, "tests": tests}))
    touched = Touched(root)
    touched.save()  # what the module is now
    return Touched(root)


def test_the_tests_of_a_mutant_run_its_lines_or_use_what_it_defines(tmp_path: Path) -> None:
    root = package(tmp_path, MODULE.replace("return text\n", "return text or LIMIT\n", 1))
    touched = known(root, {"first": [8, 10], "box": [15], "second": [8, 9], "import": [1, 3, 6]})

    def tests_of(line: int) -> list[str]:
        mutants = mutants_of((root / FILE).read_bytes(), FILE)
        return touched.tests_of(next(one for one in mutants if one.line == line))

    assert tests_of(8) == ["first", "second"]
    assert tests_of(9) == ["second"]
    assert tests_of(15) == ["box"]
    assert tests_of(3) == ["first", "second"]  # the constant is used in the function


def test_what_only_an_unmeasured_function_uses_is_touched_by_who_uses_the_function(
    tmp_path: Path,
) -> None:
    # As the hook of an audit: its lines are run, and no measurement says so.
    hook = "def hook(event):\n    return NAMES[event]\n"
    module = f"NAMES = {{3: 1}}\n{hook}def install():\n    return hook\n"
    touched = known(package(tmp_path, module), {"installs": [5], "other": [1]})
    [mutant] = [one for one in mutants_of(module.encode(), FILE) if one.operator == "empty dict"]
    assert touched.tests_of(mutant) == ["installs"]


def test_what_a_cached_function_uses_is_touched_by_all_who_use_the_function(tmp_path: Path) -> None:
    cached = "@cache\ndef rules():\n    return [*NAMES, 0]\n"
    module = f"NAMES = {{3: 1}}\n{cached}def find():\n    return rules()\n"
    touched = known(package(tmp_path, module), {"first": [4, 6], "second": [6], "other": [1]})
    mutants = mutants_of(module.encode(), FILE)
    for operator, line in (("empty dict", 1), ("integer + 1", 4)):
        [mutant] = [one for one in mutants if (one.operator, one.line) == (operator, line)]
        assert touched.tests_of(mutant) == ["first", "second"]


def test_within_a_budget_the_quick_tests_that_run_little_else_come_first(tmp_path: Path) -> None:
    touched = known(package(tmp_path), {"0 s": [8], "1 s": [8, *range(20, 90)], "2 s": [8, 10]})
    assert touched.pick(["0 s", "1 s", "2 s"], 2.5) == ["0 s", "2 s"]
    assert touched.pick(["0 s", "1 s", "2 s"], 3.0) == ["0 s", "1 s", "2 s"]


def test_when_a_file_has_changed_the_tests_of_all_of_it_are_taken(tmp_path: Path) -> None:
    touched = known(package(tmp_path), {"a": [8], "box": [15]})
    (tmp_path / FILE).write_text("\n\n" + MODULE)
    [mutant] = [
        one
        for one in mutants_of((tmp_path / FILE).read_bytes(), FILE)
        if one.operator == "empty dict"
    ]
    fresh = Touched(tmp_path)
    assert fresh.is_stale(FILE)
    assert set(fresh.tests_of(mutant)) == {"a", "box"}
    assert set(touched.tests_of(mutant)) == {"a", "box"}


def test_the_share_leaves_equivalent_mutants_out() -> None:
    mutant = Mutant(FILE, "", "delete statement", 1, 0, 1, "pass", "f()", "pass", (1, 1))
    statuses = ["killed", "timeout", "survived", "untouched", "equivalent"]
    row = list(table([Outcome(mutant, "merge", status) for status in statuses]))[1]
    assert row.split() == ["merge", "5", "2", "1", "2", "1", "1", "50%", "15%", "to", "85%"]


@pytest.mark.parametrize(
    ("killed", "tried", "low", "high"), [(8, 10, 0.490, 0.943), (0, 10, 0, 0.278), (0, 0, 0, 1)]
)
def test_wilsons_interval(killed: int, tried: int, low: float, high: float) -> None:
    assert wilson(killed, tried) == pytest.approx((low, high), abs=0.001)
