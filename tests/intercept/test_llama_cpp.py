"""``llama_cpp.Llama`` under a session where llama-cpp-python is not installed, and where it is.

Where it is installed a module of a few lines stands for it here: it cannot be built on every
machine. The tests with the real one are in ``tests/live``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from swarm_repro import use_cassette
from swarm_repro.completion import IN_PROCESS, IN_PROCESS_STREAM, Completion
from swarm_repro.errors import ReplayMiss, RequestError, SessionTripped, UsageError
from swarm_repro.intercept.llama_cpp import llama_cpp_module
from swarm_repro.intercept.transports import patch_libraries
from swarm_repro.mode import Mode
from swarm_repro.opening import header_of, open_session
from swarm_repro.request import Endpoint
from swarm_repro.session import Session
from tests.support.tiny_model import TinyModel, make_binding

MODEL = "models/m.gguf"
ASK = [{"role": "user", "content": "hi"}]
CHAT = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}}]}
TEXT = {"choices": [{"index": 0, "text": "fine"}]}


@pytest.fixture(autouse=True)
def not_installed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Hide an installed llama-cpp-python, and leave nothing of its stand-in."""
    kept = sys.modules.pop("llama_cpp", None)
    if "installed" not in request.fixturenames:
        find_spec = importlib.machinery.PathFinder.find_spec
        monkeypatch.setattr(
            importlib.machinery.PathFinder,
            "find_spec",
            lambda name, *how: None if name == "llama_cpp" else find_spec(name, *how),
        )
    patch_libraries()  # whose hook stays for good
    before = list(sys.meta_path)
    yield
    sys.modules.pop("llama_cpp", None)
    if kept is not None:
        sys.modules["llama_cpp"] = kept
    assert sys.meta_path == before


class Recorded(TinyModel):
    """A model file's answers, whatever is asked of it."""

    def __init__(self, answer: Completion) -> None:
        super().__init__(binding=make_binding(name="m.gguf"), trouble=lambda _n: answer)

    def render(self, _request: object) -> Any:
        return lambda: None


def record(
    path: Path,
    method: str,
    body: dict[str, Any],
    *answers: object,
    endpoint: Endpoint = "chat",
    default_seed: int | None = None,
    times: int = 1,
) -> None:
    """Record a call as llama-cpp-python's own would be, or a stream of several answers."""
    if len(answers) == 1:
        answer = Completion(200, IN_PROCESS, json.dumps(answers[0]).encode())
    else:
        events = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in answers)
        answer = Completion(200, IN_PROCESS_STREAM, events + b"data: [DONE]\n\n")
    header = header_of(seed_policy="as-is", strict=False)
    session = open_session(path, mode=Mode.AUTO, header=header, seed=0)
    for _ in range(times):
        session.call(
            Recorded(answer),
            endpoint=endpoint,
            model="m.gguf",
            path=method,
            body=body,
            default_seed=default_seed,
        )
    assert session.store is not None
    session.store.finish(used=session.ledger.used, run=None, keep=True)
    session.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


def llama(*args: Any, **settings: Any) -> Any:
    return importlib.import_module("llama_cpp").Llama(*(args or (MODEL,)), **settings)


def replayed(path: Path, use: Callable[[], object]) -> None:
    with use_cassette(path):
        use()


# --- The stand-in.


def test_each_method_gives_what_was_recorded_of_it(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK, "top_k": 1}, CHAT)
    with use_cassette(path):
        assert llama().create_chat_completion(iter(ASK), top_k=1) == CHAT
    for prompt, given in (("Once", "Once"), ([1, 2], (1, 2))):
        other = path.with_name(f"{len(prompt)}.jsonl")
        record(other, "create_completion", {"prompt": prompt}, TEXT, endpoint="completion", times=2)
        with use_cassette(other):
            assert llama().create_completion(given) == TEXT
            assert llama()(given) == TEXT


def test_embeddings_are_given_in_the_forms_of_their_methods(path: Path) -> None:
    document = {"data": [{"embedding": [0.5]}]}
    asked = {"input": "x", "model": None}
    record(path, "create_embedding", asked, document, endpoint="embedding")
    record(path, "embed", {"input": ["x"], "normalize": True}, [[0.5]], endpoint="embedding")
    counted = {"input": "x", "return_count": True}
    record(path, "embed", counted, [[0.5], 3], endpoint="embedding")
    with use_cassette(path):
        one = llama(embedding=True)
        assert one.create_embedding("x") == document
        assert one.embed(["x"], normalize=True) == [[0.5]]
        assert one.embed("x", return_count=True) == ([0.5], 3)


def test_a_stream_is_an_iterator_of_its_pieces(path: Path) -> None:
    pieces = [{"choices": [{"delta": {"content": text}}]} for text in "ab"]
    record(path, "create_chat_completion", {"messages": ASK, "stream": True}, *pieces)
    with use_cassette(path):
        stream = llama().create_chat_completion(ASK, stream=True)
        assert next(stream) == pieces[0]
        assert list(stream) == pieces[1:]


def test_a_model_has_a_seed_for_calls_that_have_none(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT, default_seed=5, times=3)
    record(path, "create_chat_completion", {"messages": ASK, "seed": 6}, CHAT)
    record(path, "create_chat_completion", {"messages": ASK}, CHAT)
    with use_cassette(path):
        one = llama(seed=5)
        one.create_chat_completion(ASK)
        one.create_chat_completion(ASK, seed=6)
        llama(seed=-1).create_chat_completion(ASK)
        other = llama()
        other.set_seed(5)
        other.create_chat_completion(ASK)
        other.create_chat_completion(ASK)
    with pytest.raises(ReplayMiss), use_cassette(path):
        llama(seed=7).create_chat_completion(ASK)


def test_arguments_are_recorded_as_a_request_that_means_the_same(path: Path) -> None:
    body = {"prompt": "Once", "logit_bias": {"3": 1.5}, "grammar": "root ::= x", "max_tokens": -1}
    record(path, "create_completion", body, TEXT, endpoint="completion", times=3)
    (path.parent / "x.gbnf").write_text("root ::= x", encoding="utf-8")
    with use_cassette(path):
        module = importlib.import_module("llama_cpp")
        one = llama()
        for grammar in (
            module.LlamaGrammar.from_string("root ::= x", verbose=False),
            module.LlamaGrammar.from_file(path.parent / "x.gbnf"),
            "root ::= x",
        ):
            asked = {"logit_bias": {3: 1.5}, "grammar": grammar, "max_tokens": None}
            one.create_completion("Once", **asked)
        with pytest.raises(UsageError, match="needs llama-cpp-python, which is not installed"):
            module.LlamaGrammar.from_json_schema("{}")


def test_for_chats_no_limit_is_the_default(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK, "max_tokens": None}, CHAT)
    with use_cassette(path):
        llama().create_chat_completion(ASK, max_tokens=None)


def test_methods_that_need_no_model_do_nothing(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT)
    with use_cassette(path):
        one = llama()
        for nothing in (one.reset(), one.set_cache(object()), one.close()):
            assert nothing is None
        assert one.create_chat_completion(ASK) == CHAT


def test_methods_that_need_the_model_end_the_replay(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT)
    with use_cassette(path) as session:
        one = llama()
        assert not hasattr(one, "__len__")
        one.create_chat_completion(ASK)
    with use_cassette(path, mode="live"):
        one = llama()
    with pytest.raises(ReplayMiss, match=r"the program used tokenize of llama_cpp\.Llama"):
        replayed(path, lambda: one.tokenize(b"x"))
    assert session.tripped is None


def test_a_setting_that_cannot_be_recorded_is_refused_and_not_forgotten(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT)

    def swallow() -> None:
        with contextlib.suppress(UsageError):
            llama(draft_model=object())
        llama(draft_model=None, verbose=False).create_chat_completion(ASK)

    with pytest.raises(UsageError, match="draft_model"):
        replayed(path, swallow)


def test_the_stand_in_is_there_until_the_last_block_ends(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT)
    with use_cassette(path):
        with use_cassette(path):
            assert llama().create_chat_completion(ASK) == CHAT
        assert llama().create_chat_completion(ASK) == CHAT
        kept = importlib.import_module("llama_cpp").Llama
    assert "llama_cpp" not in sys.modules
    with pytest.raises(ImportError):
        importlib.import_module("llama_cpp")
    with pytest.raises(UsageError, match="is not installed, and no cassette is in use"):
        kept(MODEL)


def test_a_stand_in_that_was_not_set_up_is_asked_in_vain_as_any_object_is() -> None:
    module = llama_cpp_module(lambda: None)  # type: ignore[arg-type,return-value]
    blank = module.Llama.__new__(module.Llama)
    for name in ("_calls", "__deepcopy__"):
        with pytest.raises(AttributeError, match=name):
            getattr(blank, name)


def test_a_module_is_made_for_whichever_session_is_found(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT)
    header = header_of(seed_policy="as-is", strict=False)
    sessions: list[Session] = []
    module = llama_cpp_module(lambda: sessions[-1])
    for _ in range(2):
        sessions.append(open_session(path, mode=Mode.REPLAY, header=header, seed=0))
        assert module.Llama(MODEL).create_chat_completion(ASK) == CHAT
    assert [session.ledger.hits for session in sessions] == [1, 1]
    sessions[-1].trips = True
    with pytest.raises(SessionTripped):
        module.Llama(MODEL, draft_model=object())
    for session in sessions:
        session.close()


# --- The class of an installed llama-cpp-python.

INSTALLED = '''
class Llama:
    """As far as it is changed."""

    made = []
    done = []

    def __init__(
        self, model_path, *, n_ctx=512, seed=4294967295, chat_format=None, draft_model=None,
        verbose=True, **kwargs
    ):
        """The real constructor."""
        self.model_path, self.n_ctx, self.seed = model_path, n_ctx, seed
        self.chat_format, self.draft_model, self.verbose = chat_format, draft_model, verbose
        self.others = kwargs
        self.loaded = True
        self.made.append(self)

    def __getstate__(self):
        if self.others.get("old"):
            raise AttributeError("__getstate__")
        known = ("model_path", "n_ctx", "seed", "chat_format", "draft_model", "verbose")
        return {**{name: getattr(self, name) for name in known}, "unknown": 1}

    def create_chat_completion(self, messages, top_k=40, seed=None, stream=False):
        return ("chat", messages, top_k)

    def create_completion(self, prompt, suffix=None, max_tokens=16):
        return ("completion", prompt, max_tokens)

    def __call__(self, prompt, suffix=None, max_tokens=128):
        return ("call", prompt, max_tokens)

    def create_embedding(self, input, model=None):
        return ("embedding", input)

    def embed(self, input, normalize=False, truncate=True, return_count=False):
        return ("embed", input)

    def close(self):
        self.done.append("close")

    def reset(self):
        self.done.append("reset")

    def set_cache(self, cache):
        self.done.append(cache)

    def set_seed(self, seed):
        self.done.append(seed)
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "llama_cpp.py").write_text(INSTALLED)
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("llama_cpp", None)


def real() -> ModuleType:
    return importlib.import_module("llama_cpp")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("early", [False, True], ids=["in the block", "before it"])
def test_a_model_made_in_a_replay_loads_nothing_before_it_is_used_outside(
    path: Path, early: bool
) -> None:
    record(path, "create_chat_completion", {"messages": ASK, "top_k": 1}, CHAT)
    record(path, "create_completion", {"prompt": "x", "max_tokens": 3}, TEXT, endpoint="completion")
    record(path, "create_completion", {"prompt": "y", "suffix": "z"}, TEXT, endpoint="completion")
    if early:
        real()
    with use_cassette(path):
        one = real().Llama(MODEL, n_ctx=64, seed=-1)
        assert one.create_chat_completion(ASK, 1) == CHAT
        assert one.create_completion("x", max_tokens=3) == TEXT
        assert one("y", "z") == TEXT
        assert (one.close(), one.reset(), one.set_cache(1), one.set_seed(-1)) == (None,) * 4
        assert real().Llama.made == []
    assert one.create_chat_completion(ASK) == ("chat", ASK, 40)
    assert one("y") == ("call", "y", 128)
    assert one.create_completion("y") == ("completion", "y", 16)
    assert (one.create_embedding("e"), one.embed("e")) == (("embedding", "e"), ("embed", "e"))
    assert (one.n_ctx, len(real().Llama.made)) == (64, 1)
    one.close()
    one.reset()
    one.set_cache("cache")
    one.set_seed(3)
    assert one.done == ["close", "reset", "cache", 3]
    assert real().Llama.__init__.__doc__ == "The real constructor."


@pytest.mark.usefixtures("installed")
def test_a_model_made_outside_is_asked_of_the_cassette_inside(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT, default_seed=5)
    record(path, "create_chat_completion", {"messages": ASK}, CHAT, default_seed=6)
    one = real().Llama(MODEL, n_ctx=64, seed=5, chat_format="chat_template.default")
    with use_cassette(path):
        assert one.create_chat_completion(ASK) == CHAT
        one.set_seed(6)
        assert one.create_chat_completion(ASK) == CHAT
        assert one.n_ctx == 64
    assert one.done == [6]
    assert one.create_chat_completion(ASK) == ("chat", ASK, 40)
    assert len(one.made) == 1


@pytest.mark.usefixtures("installed")
def test_a_release_without_a_known_constructor_is_refused(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT)
    one = real().Llama(MODEL, old=True)
    with pytest.raises(UsageError, match="does not tell how a Llama was made"):
        replayed(path, lambda: one.create_chat_completion(ASK))


@pytest.mark.usefixtures("installed")
def test_attributes_set_by_the_constructor_are_refused_in_a_replay_and_work_elsewhere(
    path: Path,
) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT)
    with use_cassette(path):
        one = real().Llama(MODEL)
        assert not hasattr(one, "__len__")
        one.create_chat_completion(ASK)
    with pytest.raises(ReplayMiss, match=r"the program used loaded of llama_cpp\.Llama"):
        replayed(path, lambda: one.loaded)
    assert real().Llama.made == []
    with use_cassette(path, mode="live"):
        another = real().Llama(MODEL)
        assert another.loaded
        with pytest.raises(AttributeError, match="'Llama' object has no attribute 'nothing'"):
            _ = another.nothing
    assert len(real().Llama.made) == 1
    assert one.loaded, "after the block it may be made"


@pytest.mark.usefixtures("installed")
def test_settings_that_cannot_be_recorded_are_refused_of_the_real_class(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT)
    one = real().Llama(MODEL, draft_model="another")
    for make in (lambda: real().Llama(MODEL, draft_model="x"), lambda: one("x")):
        with pytest.raises(UsageError, match="draft_model"):
            replayed(path, make)


@pytest.mark.usefixtures("installed")
def test_a_module_is_changed_once_and_keeps_its_loader(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT)
    with use_cassette(path):
        module = real()
        spec = module.__spec__
        assert spec is not None
        assert type(spec.loader).__module__ == "_frozen_importlib_external"
        changed = module.Llama.create_completion
        real().Llama(MODEL).create_chat_completion(ASK)
    with use_cassette(path):
        assert real() is module
        assert module.Llama.create_completion is changed
        real().Llama(MODEL).create_chat_completion(ASK)
    assert sys.modules["llama_cpp"] is module


class First(importlib.machinery.PathFinder):
    """Asked before the finders that were there, as that of an editable install may be."""


@pytest.mark.usefixtures("installed")
def test_a_model_is_replayed_though_another_finder_comes_first(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT)
    sys.meta_path.insert(0, First)
    try:
        with use_cassette(path):
            assert real().Llama(MODEL).create_chat_completion(ASK) == CHAT
    finally:
        sys.meta_path.remove(First)


@pytest.mark.usefixtures("installed")
def test_wrong_arguments_are_pythons_own_error(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT)
    with use_cassette(path):
        one = real().Llama(MODEL)
        with pytest.raises(TypeError):
            one.create_chat_completion()
        with pytest.raises(TypeError):
            real().Llama()
        one.create_chat_completion(ASK)


def test_a_call_that_cannot_be_keyed_is_refused(path: Path) -> None:
    record(path, "create_chat_completion", {"messages": ASK}, CHAT)
    with pytest.raises(RequestError), use_cassette(path):
        llama().create_chat_completion(ASK, temperature=float("nan"))
