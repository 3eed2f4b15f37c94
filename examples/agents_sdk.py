"""The OpenAI Agents SDK: an agent whose answers come from chat completions."""

from __future__ import annotations

import asyncio

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    set_tracing_disabled,
)
from openai import AsyncOpenAI


async def main() -> None:
    set_tracing_disabled(True)
    model = OpenAIChatCompletionsModel(model="smollm2", openai_client=AsyncOpenAI())
    agent = Agent(
        name="Namer",
        instructions="Answer in one word.",
        model=model,
        model_settings=ModelSettings(temperature=0.7, max_tokens=12, extra_body={"seed": 7}),
    )
    for thing in ("colour", "fruit"):
        result = await Runner.run(agent, f"Name a {thing}.")
        print(result.final_output)


if __name__ == "__main__":
    asyncio.run(main())
