"""The HTTP library of the installed openai client: httpx of openai 2, httpx2 of openai 3."""

from __future__ import annotations

import importlib
from types import ModuleType

import openai

_base = openai.DefaultHttpxClient.__base__
assert _base is not None
NAME = _base.__module__.partition(".")[0]
#: What opens its connections.
CORE = NAME.replace("httpx", "httpcore")

httpx: ModuleType = importlib.import_module(NAME)
