"""Functions that the model calls, with a question before each that costs something.

OPENAI_BASE_URL=http://127.0.0.1:8080/v1 python examples/tools.py
"""

from __future__ import annotations

import json

from gpt import Gpt, ToolCall, ToolContext, ToolStep, tool

STOCK = {"apple": 3, "pear": 0}


def in_stock(fruit: str) -> int:
    """How many of a fruit there are.

    Args:
        fruit: Its name in the singular.
    """
    return STOCK[fruit]


@tool(name="order", strict=True)
async def order_fruit(fruit: str, count: int = 1) -> str:
    """Order a fruit."""
    STOCK[fruit] += count
    return f"{count} ordered"


def approve(call: ToolCall, _: ToolContext) -> bool | str:
    """Orders are for small numbers only."""
    if call.function.name == "order" and json.loads(call.function.arguments).get("count", 1) > 5:
        return "that is too many; order fewer"
    return True


def show(step: ToolStep) -> None:
    """A line a result."""
    if step.type == "result":
        print(f"  {step.call.function.name}({step.call.function.arguments}) -> {step.message.content}")


def main(client: Gpt) -> None:
    """Runs the conversation and prints what came of it."""
    run = client.chat.run_tools(
        "Are there pears? If not, order some.",
        tools=[in_stock, order_fruit],
        approve=approve,
        on_step=show,
        max_turns=6,
        deadline=120,
    )
    print(run.text or f"(ended: {run.ended})")
    print(f"{len(run.completions)} answers, {run.usage.total_tokens if run.usage else 'unknown'} tokens")


if __name__ == "__main__":
    main(Gpt(model="some-model"))
