"""The cache directory, a property computed once, and sequences that make their items."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_repro.cachedir import cache_folder
from swarm_repro.once import once
from swarm_repro.packed import Packed


def test_the_cache_is_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_REPRO_CACHE_DIR", str(tmp_path))
    assert cache_folder("archives") == tmp_path / "archives"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWARM_REPRO_CACHE_DIR", "here")
    assert cache_folder("archives") == tmp_path / "here" / "archives"
    users = Path(platformdirs.user_cache_dir("swarm_repro"))
    monkeypatch.setenv("SWARM_REPRO_CACHE_DIR", "")
    assert cache_folder("archives") == users / "archives"
    monkeypatch.delenv("SWARM_REPRO_CACHE_DIR")
    assert cache_folder("indexes") == users / "indexes"
    assert not (tmp_path / "here").exists(), "asking makes no folder"


class Thing:
    """Counts what is computed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.computed = 0

    @once
    def doubled(self) -> int:
        """Twice the number."""
        self.computed += 1
        return self.number * 2


def test_a_property_is_computed_once_for_each_object() -> None:
    one, two = Thing(1), Thing(2)
    assert one.computed == 0
    assert (one.doubled, one.doubled, two.doubled) == (2, 2, 4)
    assert (one.computed, two.computed) == (1, 1)
    one.number = 5
    assert one.doubled == 2, "it is not computed again"
    assert isinstance(Thing.doubled, once)
    assert Thing.doubled.__doc__ == "Twice the number."


def test_a_property_that_fails_is_computed_again() -> None:
    class Failing:
        tries = 0

        @once
        def value(self) -> str:
            Failing.tries += 1
            if Failing.tries == 1:
                raise ValueError("not yet")
            return "now"

    thing = Failing()
    with pytest.raises(ValueError, match="not yet"):
        _ = thing.value
    assert thing.value == "now"


class Squares(Packed[int]):
    """So many squares."""

    def __init__(self, count: int) -> None:
        self.size = count
        self.made: list[int] = []

    def __len__(self) -> int:
        return self.size

    def _item(self, number: int) -> int:
        self.made.append(number)
        return number * number


@given(
    st.integers(0, 8),
    st.integers(-12, 12),
    st.slices(8) | st.builds(slice, st.none(), st.none(), st.sampled_from([None, 2, -1, -3])),
)
def test_a_packed_sequence_is_as_a_list(count: int, place: int, part: slice) -> None:
    packed, listed = Squares(count), [number * number for number in range(count)]
    assert list(packed) == listed
    assert packed[part] == listed[part]
    assert list(reversed(packed)) == listed[::-1]
    assert (9 in packed) == (9 in listed)
    if -count <= place < count:
        packed.made.clear()
        assert packed[place] == listed[place]
        assert packed.made == [place % count], "no other item is made"
    else:
        with pytest.raises(IndexError):
            packed[place]
