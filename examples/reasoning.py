"""What the model thinks, apart from what it answers; then a second question, with the first answer as history.

OPENAI_BASE_URL=http://127.0.0.1:8080/v1 python examples/reasoning.py

Whether thinking goes back with the history is the server's rule: that of known ones is in `gpt.protocol.profiles`; for your own
say `Profile(echoes="tools")`. One that leaves thinking in the content, between tags, needs `Profile(think_tags=...)`.
"""

from __future__ import annotations

from gpt import Gpt, Message, UserMessage


def main(client: Gpt) -> None:
    """Prints thinking and answer, each under its name."""
    said: list[Message] = [UserMessage("How many r are in strawberry?")]
    part = ""
    with client.chat.stream(said) as stream:
        for event in stream:
            if event.type in ("reasoning", "content"):
                if event.type != part:
                    part = event.type
                    print(f"\n[{part}] ", end="")
                print(event.delta, end="", flush=True)
    said += [stream.completion.message, UserMessage("And in raspberry?")]
    answer = client.chat.complete(said).message
    print(f"\n[reasoning] {answer.reasoning}\n[content] {answer.content}")


if __name__ == "__main__":
    main(Gpt(model="some-model"))
