"""The settings that are measured."""

from __future__ import annotations

import pytest

from swarm_repro.audit.experiments import EXPERIMENTS, experiments_named
from swarm_repro.audit.settings import IN_PROCESS, QUICK, SETTINGS, Setting, settings_named
from swarm_repro.errors import UsageError
from swarm_repro.serving.profiles import PROFILES, common_params_fields

SERVERS = [setting for setting in SETTINGS if setting.profile is not None]


@pytest.mark.parametrize("setting", SERVERS, ids=lambda setting: setting.name)
def test_the_flags_to_copy_are_those_that_the_prebuilt_server_understands_and_starts_with(
    setting: Setting,
) -> None:
    flags = setting.flags(threads=2, n_ctx=4096)
    shown = common_params_fields(flags)
    assert setting.profile is not None
    started = PROFILES[setting.profile].render(threads=2, n_ctx=4096, parallel=1)
    assert shown == common_params_fields([*started, *setting.more_flags])
    assert shown["n_parallel"] == (-1 if setting.auto_slots else 1)


def test_the_command_to_copy_names_profile_threads_and_context() -> None:
    commands = {s.name: s.start_command(model="m.gguf", threads=2, n_ctx=4096) for s in SETTINGS}
    start = "swarm-repro server start --model m.gguf --profile"
    more = "--threads 2 --ctx-size 4096"
    assert commands["cpu-strict"] == f"{start} cpu-strict {more}"
    assert commands["default"] == f"{start} default-1slot {more} -- -np -1"
    assert commands["in-process"] == ""
    assert IN_PROCESS.flags(threads=2, n_ctx=4096) == ()


def test_the_ladder_begins_with_the_defaults_and_the_quick_one_is_part_of_it() -> None:
    names = [setting.name for setting in SETTINGS]
    assert names[0] == "default"
    assert SETTINGS[0].request == {}
    assert [setting.name for setting in settings_named(QUICK)] == list(QUICK)
    assert settings_named(("cpu-strict", "default"))[0].name == "default"


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no setting 'fast'; there are default, no-cache"):
        settings_named(("default", "fast"))
    with pytest.raises(UsageError, match=r"no experiment 'luck'; there are repeat, restart"):
        experiments_named(("luck",))


def test_experiments_have_names_of_their_own_and_kinds_stand_together() -> None:
    names = [one.name for one in EXPERIMENTS]
    assert len(set(names)) == len(names)
    kinds = [one.kind for one in EXPERIMENTS]
    assert kinds == sorted(kinds, key=["within", "across", "seed"].index)


def test_what_each_setting_changes() -> None:
    off = {"cache_prompt": False}
    assert [
        (one.name, one.profile, one.auto_slots, dict(one.request), one.needs_device)
        for one in SETTINGS
    ] == [
        ("default", "default-1slot", True, {}, False),
        ("no-cache", "default-1slot", True, off, False),
        ("one-slot", "default-1slot", False, {}, False),
        ("one-slot-no-cache", "default-1slot", False, off, False),
        ("metal-1slot", "metal-1slot", False, off, True),
        ("cpu-strict", "cpu-strict", False, off, False),
        ("in-process", None, False, {}, False),
    ]
    assert QUICK == ("default", "one-slot-no-cache", "cpu-strict")


@pytest.mark.parametrize("setting", SERVERS, ids=lambda setting: setting.name)
def test_flags_are_those_of_the_profile_with_one_slot_or_as_many_as_the_server_likes(
    setting: Setting,
) -> None:
    assert setting.profile is not None
    assert setting.flags(threads=2, n_ctx=4096) == (
        *("-c", "4096", "-np", "-1" if setting.auto_slots else "1", "-t", "2", "-tb", "2"),
        *PROFILES[setting.profile].flags,
    )


def test_the_model_in_the_command_to_copy_is_quoted_for_a_shell() -> None:
    command = SETTINGS[2].start_command(model="my model.gguf", threads=1, n_ctx=2)
    assert command == (
        "swarm-repro server start --model 'my model.gguf' --profile default-1slot"
        " --threads 1 --ctx-size 2"
    )


def test_an_unknown_name_is_refused_with_all_there_are() -> None:
    with pytest.raises(UsageError) as raised:
        settings_named(("fast",))
    assert str(raised.value) == (
        "no setting 'fast'; there are default, no-cache, one-slot, one-slot-no-cache,"
        " metal-1slot, cpu-strict, in-process"
    )
    assert settings_named(()) == ()
