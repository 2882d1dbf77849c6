"""A form filled in by the model in the box, without a server: a call that must come keeps to the schema of its tool.

python examples/local_tools.py "Two tickets to Bergen on the ferry, please."
"""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import msgspec

from gpt import EndRun, Gpt


def book(
    place: Annotated[str, msgspec.Meta(max_length=30)],
    by: Literal["bus", "ferry", "train"],
    seats: Annotated[int, msgspec.Meta(ge=1, le=9)],
) -> EndRun:
    """Book a journey.

    Args:
        place: Where to.
        by: How to travel.
        seats: For how many.
    """
    return EndRun(f"{seats} to {place} by {by}")


def main(client: Gpt, wish: str) -> None:
    """Book what is wished for."""
    run = client.chat.run_tools(wish, tools=[book], tool_choice="required", temperature=0, max_tokens=100)
    print(run.messages[-1].content)


if __name__ == "__main__":
    with Gpt(server_url="local:") as box:
        main(box, " ".join(sys.argv[1:]) or "Two tickets to Bergen on the ferry, please.")
