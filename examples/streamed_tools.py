"""A run of tools while it happens: the text as it comes, each call and its result.

OPENAI_BASE_URL=http://127.0.0.1:8080/v1 python examples/streamed_tools.py
"""

from __future__ import annotations

from gpt import Gpt

DEPTHS = {"Baikal": 1642, "Geneva": 310, "Garda": 346}


def depth_of(lake: str) -> int:
    """The depth of a lake in metres.

    Args:
        lake: Its English name, without "Lake".
    """
    return DEPTHS[lake]


def main(client: Gpt) -> None:
    """Runs the conversation and prints it as it comes."""
    with client.chat.stream_tools("Which is deeper, Baikal or Como?", tools=[depth_of], max_turns=6, deadline=120) as stream:
        for event in stream:
            if event.type == "content":
                print(event.delta, end="", flush=True)
            elif event.type == "answer" and event.completion.text:
                print()
            elif event.type == "call":
                print(f"  {event.call.function.name}({event.call.function.arguments}) ...")
            elif event.type == "result":
                print(f"  -> {event.message.content}")
            elif event.type == "done":
                print(f"{event.run.ended} after {len(event.run.completions)} answers")


if __name__ == "__main__":
    main(Gpt(model="some-model"))
