"""Running the ``run:`` steps of a workflow or composite action, as GitHub's runner does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.command import ROOT
from tests.support.shell_commands import shell_commands

#: A step may ask a model; how long a test may take is limited as for all.
_LIMIT_S = 1800
_EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")


@dataclass
class Runner:
    """What a job has: folders, the event, and what steps leave for later ones.

    Attributes:
        workspace: The checked-out repository.
        temp: ``RUNNER_TEMP``.
        values: What expressions evaluate to, such as ``inputs.mode``.
        env: Variables of the workflow and those that steps added.
        outputs: What steps wrote to ``GITHUB_OUTPUT``.
        results: Exit code, stdout and stderr by step name.
    """

    workspace: Path
    temp: Path
    values: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    results: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.temp.mkdir(parents=True, exist_ok=True)
        for name in ("summary", "output", "env"):
            (self.temp / name).touch()

    @property
    def summary(self) -> str:
        return (self.temp / "summary").read_text("utf-8")

    def evaluate(self, value: object) -> str:
        """A string with its expressions replaced by what this job knows; unknown ones are empty."""

        def one(match: re.Match[str]) -> str:
            alternatives = match.group(1).split(" || ")
            return next((self.values[name] for name in alternatives if self.values.get(name)), "")

        return _EXPRESSION.sub(one, str(value))

    def run(self, step: Mapping[str, object]) -> subprocess.CompletedProcess[str]:
        """Run one step's script."""
        name = str(step["name"])
        script = self.temp / "step.sh"
        script.write_text(str(step["run"]), encoding="utf-8")
        given = step.get("env") or {}
        assert isinstance(given, Mapping)
        with shell_commands(_LIMIT_S) as path:
            self.results[name] = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
                cwd=self.workspace,
                env={
                    **os.environ,
                    "PATH": path,
                    "RUNNER_TEMP": str(self.temp),
                    "GITHUB_WORKSPACE": str(self.workspace),
                    "GITHUB_ACTION_PATH": str(ROOT),
                    "GITHUB_STEP_SUMMARY": str(self.temp / "summary"),
                    "GITHUB_OUTPUT": str(self.temp / "output"),
                    "GITHUB_ENV": str(self.temp / "env"),
                    **self.env,
                    **{key: self.evaluate(value) for key, value in given.items()},
                },
                capture_output=True,
                text=True,
                timeout=_LIMIT_S,
                check=False,
            )
        if "id" in step:
            for line in (self.temp / "output").read_text().splitlines():
                key, _, value = line.partition("=")
                self.values[f"steps.{step['id']}.outputs.{key}"] = value
        self.env |= dict(
            line.split("=", 1) for line in (self.temp / "env").read_text().splitlines()
        )
        return self.results[name]


def load(path: Path) -> dict[str | bool, Any]:
    """A YAML file; ``on`` is read as YAML 1.1's True, as PyYAML does."""
    loaded = yaml.safe_load(path.read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def require_sound_steps(steps: list[dict[str, object]]) -> None:
    """What every step must keep to: no expression in a script, actions by version, bash checked."""
    for step in steps:
        if "run" in step:
            assert "${{" not in str(step["run"]), f"{step['name']}: an expression in a script"
            assert step.get("shell", "bash") == "bash"
            checked = subprocess.run(
                [Path(sys.executable).with_name("shellcheck"), "--shell=bash", "-"],
                input="#!/usr/bin/env bash\nset -eo pipefail\n" + str(step["run"]),
                capture_output=True,
                text=True,
                check=False,
            )
            assert checked.returncode == 0, checked.stdout
        else:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", str(step["uses"]))
