"""Runs a small share of each trial; a trial fails if it finds anything."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.support.command import ROOT


def tried(name: str, share: float = 0.01) -> dict[str, Any]:
    """The counts of a share of a trial."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.acceptance", name, "--share", str(share), "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counted: dict[str, Any] = json.loads(done.stdout)["trials"][name]
    return counted


def test_no_answered_call_is_lost_when_a_recording_is_killed() -> None:
    counted = tried("kill")
    assert counted["recordings killed"] == 10
    assert counted["answered calls"] > 50


def test_no_answered_call_is_lost_with_the_power_of_the_machine() -> None:
    counted = tried("power-loss")
    assert counted["losses of power"] >= 200
    assert counted["answered calls"] > 1000


def test_no_answered_call_is_lost_on_a_full_disk() -> None:
    assert tried("full-disk")["disks"] == 1


def test_processes_that_share_a_cassette_record_each_call_once() -> None:
    counted = tried("writers", share=0.005)
    assert (counted["processes"], counted["calls"]) == (8, 800)
    assert counted["looks at running recordings"] > 0


def test_a_study_that_is_stopped_and_gone_on_with_gives_the_same_table() -> None:
    counted = tried("stops")
    assert (counted["studies"], counted["stops"]) == (3, 3)
    assert counted["while calls were made"] == 3
    assert counted["calls"] >= 3 * 16


def test_every_flipped_bit_is_detected() -> None:
    counted = tried("flips", share=0.001)
    assert counted["detected"] == counted["damaged files"] >= 700
    assert counted["checked"] > 10


def test_no_edit_gives_a_wrong_answer() -> None:
    counted = tried("edits", share=0.004)
    assert counted["damaged files"] == 400
    assert counted["detected"] > 360
    assert counted["checked"] == 8


def test_whatever_a_file_holds_reading_ends_in_a_result_or_an_error_of_the_cassette() -> None:
    counted = tried("fuzz", share=0.001)
    assert counted["read"] + counted["read: refused"] == 1_000
    assert counted["read"] > 10
    assert counted["most resident MiB"] < 200
