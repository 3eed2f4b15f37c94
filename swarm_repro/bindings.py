"""Which model each name of a session stands for: found once, from the cassette or the backend."""

from __future__ import annotations

from swarm_repro.backends.base import Backend, Bound
from swarm_repro.cassette.store import CassetteStore
from swarm_repro.environment import Environment
from swarm_repro.errors import SwarmReproError, named
from swarm_repro.mode import Mode
from swarm_repro.model import ModelBinding, require_same_model


class Bindings:
    """The models that a session has asked; not safe for threads by itself."""

    def __init__(self, *, mode: Mode, strict: bool, store: CassetteStore | None) -> None:
        """Begin with none.

        Args:
            mode: Whether a model may be called at all.
            strict: Whether backends must keep what strict mode promises.
            store: The cassette, or None.
        """
        self._mode = mode
        self._strict = strict
        self._store = store
        self._bound: dict[tuple[str, str], Bound] = {}
        self._unbound: dict[str, SwarmReproError] = {}

    @property
    def unknown(self) -> SwarmReproError | None:
        """Why a model is still not known, or None."""
        return next(iter(self._unbound.values()), None)

    def known(self) -> list[ModelBinding]:
        """The models that were asked."""
        return [bound.binding for bound in self._bound.values()]

    def find(self, name: str, backend: Backend) -> Bound | None:
        """The model a name stands for; None where a replay's cassette does not know it.

        Args:
            name: As the application writes it.
            backend: Where its calls go; asked once for each name, in modes that call.

        Raises:
            ModelConflictError: The name stands for another model in the cassette.
            StrictModeError: The backend cannot keep what strict mode promises.
            BackendError: It cannot be reached.
        """
        key = (name, backend.address if self._mode.calls_model else "")
        bound = self._bound.get(key)
        if bound is not None:
            return bound
        recorded = self._store.binding(name) if self._store else None
        if not self._mode.calls_model:
            if recorded is None:
                return None
            bound = Bound(binding=recorded, environment=None)
        else:
            try:
                bound = self._identify(name, backend, recorded)
            except Exception as error:
                self._unbound[name] = named(error)
                raise
        self._unbound.pop(name, None)
        self._bound[key] = bound
        return bound

    def _identify(self, name: str, backend: Backend, recorded: ModelBinding | None) -> Bound:
        if self._strict:
            backend.check_strict()
        bound = backend.identify(name)
        if recorded is not None:
            require_same_model(recorded, bound.binding, defaults=self._mode is Mode.AUTO)
        for (other, _), known in self._bound.items():
            if other == name:
                require_same_model(known.binding, bound.binding, defaults=True)
        return bound

    def environment_of(self, binding: ModelBinding) -> Environment:
        """Where a model answers; two backends may have equal models, with other settings."""
        known = [
            (bound.binding, bound.environment)
            for bound in self._bound.values()
            if bound.environment is not None
        ]
        same = [environment for known_binding, environment in known if known_binding is binding]
        equal = [environment for known_binding, environment in known if known_binding == binding]
        return (same or equal)[0]
