"""What an Inspect log says of the whole: its task, model, environment, and SWARM's metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalMetric,
    EvalPlan,
    EvalPlanStep,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
)

from swarm_repro.cassette.reader import Cassette
from swarm_repro.cassette.runs import RunRecord
from swarm_repro.export.inspect_messages import stable_id


def spec_of(
    cassette: Cassette,
    *,
    created: str,
    models: Mapping[str, str],
    digest: str,
    samples: Sequence[EvalSample],
    runs: int,
) -> EvalSpec:
    """The header.

    Args:
        cassette: The cassette.
        created: When the log's clock starts.
        models: Models' names in the log by their names in the cassette.
        digest: SHA-256 of the file.
        samples: The samples of the log.
        runs: How many epochs the samples have.
    """
    header = cassette.header
    versions = dict(cassette.runs[0].versions) if cassette.runs else {}
    python = versions.pop("python", None)
    used = [call.model for call in cassette.calls.values()]
    main = max(models, key=used.count, default=None)
    return EvalSpec(
        eval_id=stable_id("eval", digest),
        run_id=stable_id("run", digest),
        task_id=stable_id("task", header.scenario or cassette.path.name),
        created=created,
        task=header.scenario or cassette.path.name.partition(".")[0],
        task_args={
            "seeds": [run.seed for run in cassette.runs],
            "seed_policy": header.seed_policy,
            "strict": header.strict,
        },
        dataset=EvalDataset(
            name="agents",
            samples=len({sample.id for sample in samples}),
            sample_ids=list(dict.fromkeys(sample.id for sample in samples)),
        ),
        model="none/none" if main is None else models[main],
        model_args={} if main is None else cassette.models[main].to_json(),
        config=EvalConfig(epochs=max(runs, 1)),
        packages={"swarm-repro": header.recorder, **versions},
        tags=["swarm-repro", *(["strict"] if header.strict else [])],
        metadata={
            "cassette": cassette.path.name,
            "cassette_sha256": digest,
            "key": next(iter(cassette.calls.values())).asked.partition(":")[0]
            if cassette.calls
            else None,
            "python": python,
            "requests": [rule.to_json() for rule in header.requests],
            "times": "durations as recorded, calls one after the other; the dates mean nothing",
            "models": [
                {"label": model.identity.label, **model.to_json()}
                for model in cassette.models.values()
            ],
            "environments": {sha: dict(env.content) for sha, env in cassette.envs.items()},
            "witnesses": {sha: len(calls) for sha, calls in cassette.witnesses.items()},
            "runs": [_run_metadata(run) for run in cassette.runs],
        },
    )


def _run_metadata(run: RunRecord) -> dict[str, object]:
    return {
        "scenario": run.scenario,
        "scenario_sha256": run.scenario_sha256,
        "seed": run.seed,
        "epochs": run.epochs,
        "steps": run.steps,
        "versions": dict(run.versions),
        "calls": len(run.calls),
        "artifacts": {name: artifact.sha256 for name, artifact in sorted(run.artifacts.items())},
    }


def plan_of(cassette: Cassette) -> EvalPlan:
    """The runs as the steps of the plan."""
    return EvalPlan(
        steps=[
            EvalPlanStep(
                solver=f"swarm/{run.scenario}",
                params={"seed": run.seed, "epochs": run.epochs, "steps": run.steps},
            )
            for run in cassette.runs
        ]
    )


def results_of(cassette: Cassette, samples: int) -> EvalResults:
    """SWARM's metrics, one score for each epoch of a run.

    Args:
        cassette: The cassette.
        samples: How many samples the log has.
    """
    scores = []
    for number, run in enumerate(cassette.runs, start=1):
        for place, epoch in enumerate(run.metrics):
            label = f"epoch {epoch.get('epoch', place)}"
            if len(cassette.runs) > 1:
                label = f"run {number}, seed {run.seed}, {label}"
            metrics = dict(_numbers(epoch))
            metrics.pop("epoch", None)
            scores.append(
                EvalScore(
                    name=label,
                    scorer=label,
                    metrics={
                        name: EvalMetric(name=name, value=value) for name, value in metrics.items()
                    },
                )
            )
    return EvalResults(total_samples=samples, completed_samples=samples, scores=scores)


def _numbers(value: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """The numbers in an object, with the names of the objects they are in before theirs."""
    for name, member in value.items():
        if isinstance(member, Mapping):
            yield from _numbers(member, f"{prefix}{name}.")
        elif isinstance(member, (int, float)) and not isinstance(member, bool):
            yield f"{prefix}{name}", member
