"""A small simulator that is not SWARM: neighbours write letters with fresh ids and time stamps.

Without help it asks the model something else in every run: each letter has a new id and a new
date, and who writes to whom is drawn.
"""

from __future__ import annotations

import random
import uuid
from datetime import datetime

import openai

NEIGHBOURS = ("Ada", "Ben", "Cleo")


def write_letter(client: openai.OpenAI, writer: str, reader: str) -> str:
    prompt = (
        f"Letter {uuid.uuid4()} of {datetime.now():%Y-%m-%d %H:%M:%S.%f}. "  # noqa: DTZ005
        f"You are {writer}. Write one line to {reader}."
    )
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": prompt}],
        max_tokens=16,
    )
    return f"{uuid.uuid4()} {writer} to {reader}: {answer.choices[0].message.content!r}"


def main() -> None:
    client = openai.OpenAI()
    for _ in range(4):
        writer, reader = random.sample(NEIGHBOURS, 2)
        print(write_letter(client, writer, reader))


if __name__ == "__main__":
    main()
