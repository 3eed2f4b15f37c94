"""What the records of a study say of how it was made, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarm_repro import __version__
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.runs import RunRecord
from swarm_repro.environment import Environment
from swarm_repro.model import ModelBinding
from swarm_repro.serving.models import KNOWN_MODELS

_SEEDS = {
    "event": "derived from the run's seed, the agent and the ordinal of its call",
    "content": "derived from the run's seed, the agent and the request",
    "as-is": "as the program gave them",
}


@dataclass(frozen=True)
class Study:
    """Cassettes, and what is said of the models in them.

    Attributes:
        cassettes: By path.
        sources: Where weights came from, by SHA-256.
    """

    cassettes: Mapping[Path, Cassette]
    sources: Mapping[str, str]

    @classmethod
    def of(cls, paths: Iterable[Path], *, sources: Mapping[str, str]) -> Study:
        """Read cassettes.

        Args:
            paths: The files.
            sources: Where weights came from, by SHA-256; known models need not be named.

        Raises:
            CassetteAccessError: A file that is missing or no cassette.
            CassetteDamagedError: Not the bytes that were written.
        """
        known: dict[str, str] = {}
        for model in KNOWN_MODELS.values():
            where = model.url or (model.wheel and f"PyPI: {model.wheel.requirement}")
            if model.sha256 and where:
                known[model.sha256] = where
        return cls({path: read_cassette(path) for path in paths}, {**known, **sources})

    @property
    def runs(self) -> list[RunRecord]:
        """All recorded runs."""
        return [run for cassette in self.cassettes.values() for run in cassette.runs]

    @property
    def models(self) -> list[ModelBinding]:
        """The models that answered, each once."""
        found = {
            model.encoded_identity: model
            for cassette in self.cassettes.values()
            for model in cassette.models.values()
        }
        return list(found.values())

    @property
    def environments(self) -> list[Environment]:
        """Where they answered, each once."""
        found = {
            sha256: environment
            for cassette in self.cassettes.values()
            for sha256, environment in cassette.envs.items()
        }
        return list(found.values())

    def source_of(self, sha256: str) -> str | None:
        """Where a file of weights came from, if that is known."""
        return self.sources.get(sha256)


def files_of(model: ModelBinding) -> list[str]:
    """SHA-256 of a model's files of weights; empty where it is known otherwise."""
    files = model.identity.content.get("files")
    return [str(sha256) for sha256 in files] if isinstance(files, (list, tuple)) else []


def methods_paragraph(study: Study) -> str:
    """A paragraph for the methods section, of sentences that follow from the records."""
    calls = [call for cassette in study.cassettes.values() for call in cassette.calls.values()]
    prompt = sum(call.tokens.get("prompt") or 0 for call in calls)
    completion = sum(call.tokens.get("completion") or 0 for call in calls)
    headers = [cassette.header for cassette in study.cassettes.values()]
    recorders = _listed({header.recorder for header in headers})
    recorded = (
        f"All {len(calls)} model calls ({prompt} prompt and {completion} completion tokens) were "
        f"recorded once with swarm_repro {recorders} and are replayed from the recording, so that "
        "the results follow from it without the model."
    )
    said = [recorded]
    said += [_model_sentence(study, model) for model in study.models]
    said += [_environment_sentence(environment) for environment in study.environments]
    policies = sorted({header.seed_policy for header in headers})
    said.append(f"Sampling seeds were {' or '.join(_SEEDS[policy] for policy in policies)}.")
    if all(header.strict for header in headers):
        said.append(
            "Calls were made in strict mode: one slot, no prompt cache, an explicit seed for each."
        )
    said += _run_sentences(study.runs)
    return " ".join(said)


def _model_sentence(study: Study, model: ModelBinding) -> str:
    files = files_of(model)
    if not files:
        return f"The model {model.name} is known by {model.identity.label} only."
    digests = _listed(
        f"{sha256} ({study.source_of(sha256) or 'source not stated'})" for sha256 in files
    )
    template = (model.template or {}).get("sha256") or (model.template or {}).get("name")
    shown = f", with the chat template {template}" if template else ""
    return f"The model {model.name} has the weights with SHA-256 {digests}{shown}."


def _environment_sentence(environment: Environment) -> str:
    content = environment.content
    words = [f"It was run by {content.get('backend')}, build {content.get('build') or 'unknown'}"]
    if content.get("binary_sha256"):
        words.append(f"(SHA-256 of the binary {content['binary_sha256']})")
    if content.get("cpu"):
        words.append(f"on {content['cpu']}, {content.get('system')} {content.get('machine')}")
    flags = content.get("flags")
    if isinstance(flags, Sequence) and not isinstance(flags, str) and flags:
        words.append(f"with the flags `{' '.join(map(str, flags))}`")
    return " ".join(words) + "."


def _run_sentences(runs: Sequence[RunRecord]) -> list[str]:
    by_scenario: dict[tuple[str, int, int], list[RunRecord]] = {}
    for run in runs:
        by_scenario.setdefault((run.scenario, run.epochs, run.steps), []).append(run)
    sentences = []
    for (scenario, epochs, steps), group in sorted(by_scenario.items()):
        seeds = _listed(str(run.seed) for run in group)
        versions = _listed(
            {f"swarm-safety {run.versions.get('swarm-safety', 'unknown')}" for run in group}
        )
        sentences.append(
            f"The scenario {scenario} was simulated with {versions}, {epochs} epochs of {steps} "
            f"steps, seed {seeds}."
        )
    return sentences


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))


def citation(*, title: str, authors: Sequence[str]) -> str:
    """A ``CITATION.cff`` for the bundle.

    Args:
        title: Of the study.
        authors: Their names.
    """
    quoted = "".join(f'  - name: "{_escaped(author)}"\n' for author in authors)
    return (
        "cff-version: 1.2.0\n"
        f'title: "{_escaped(title)}"\n'
        'message: "If you use these recordings, please cite them as below."\n'
        "type: dataset\n"
        f"authors:\n{quoted}"
        "references:\n"
        "  - type: software\n"
        '    title: "swarm_repro"\n'
        f'    version: "{__version__}"\n'
        '    authors:\n      - name: "The swarm_repro developers"\n'
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
