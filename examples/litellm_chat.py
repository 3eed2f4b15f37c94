"""litellm: a completion, an async one and a stream."""

from __future__ import annotations

import asyncio
import os
from typing import Any

# Prices come from the package: litellm would fetch them from the network when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
# Its async calls would go over aiohttp, which a cassette does not see; this keeps them on httpx.
os.environ["DISABLE_AIOHTTP_TRANSPORT"] = "True"

import litellm


def ask(thing: str) -> dict[str, Any]:
    return {
        "model": "openai/smollm2",
        "messages": [{"role": "user", "content": f"Name a {thing}."}],
        "max_tokens": 12,
        "seed": 7,
    }


async def ask_async(thing: str) -> str:
    answer = await litellm.acompletion(**ask(thing))
    return str(answer.choices[0].message.content)


def main() -> None:
    print(litellm.completion(**ask("colour")).choices[0].message.content)
    print(asyncio.run(ask_async("fruit")))
    stream = litellm.completion(**ask("river"), stream=True)
    print("".join(event.choices[0].delta.content or "" for event in stream))


if __name__ == "__main__":
    main()
