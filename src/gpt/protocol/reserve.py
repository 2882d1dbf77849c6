"""How many tokens a call may take, before it is made, and what answers teach about that.

Reserved is what the prompt is estimated at and the most that the answer may have: what the request asks for, else as many
tokens as the largest of the last answers had. Not their mean, which half of them pass. Azure counts so too, when a request
arrives ("How to: manage quota": prompt text, max_tokens, and the number of answers).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from gpt.protocol.tokens import Correction, count, estimate
from gpt.types import Usage

ANSWER = 1000
"""Tokens of an answer, before there was any."""

PART = 1000
"""Tokens of an image, a sound or a file: no number holds for all servers. Answers put it right, as all of the estimate."""

LAST = 32
"""Answers that are looked back on."""

Count = Callable[[Mapping[str, Any]], int]
"""How many tokens the prompt of a request has; the request is as it is sent, in plain values."""


class Reserved:
    """What one call was reserved: `prompt` tokens, and at most `answer` for each of its `choices`."""

    __slots__ = ("answer", "asked", "choices", "estimated", "prompt")

    def __init__(self, prompt: int, estimated: int, answer: int, choices: int, *, asked: bool) -> None:
        self.prompt = prompt
        self.estimated = estimated
        """The prompt before what was learnt."""
        self.answer = answer
        self.choices = choices
        self.asked = asked
        """Whether the request says how long an answer may be."""

    @property
    def output(self) -> int:
        """The most that all answers may have."""
        return self.answer * self.choices

    @property
    def tokens(self) -> int:
        """All of it."""
        return self.prompt + self.output

    def within(self, tokens: float | None, output: float | None) -> None:
        """Have it fit into limits on all tokens and on those of answers, where it is only supposed how long they may be.

        An answer without a limit may be short: that it could be longer than the server lets through in a minute is no reason to
        refuse the call.
        """
        if not self.asked:
            most = min(math.inf if tokens is None else tokens - self.prompt, math.inf if output is None else output)
            if 1 <= most / self.choices < self.answer:
                self.answer = int(most / self.choices)


class Reckoning:
    """What answers taught: how far the estimates of prompts are off, and how long answers are."""

    __slots__ = ("_answers", "_correction", "_count", "_largest")

    def __init__(self, count_prompt: Count | None = None) -> None:
        self._count = count_prompt
        self._correction = Correction()
        self._answers: deque[float] = deque(maxlen=LAST)
        self._largest = ANSWER

    def reserve(self, request: Mapping[str, Any]) -> Reserved:
        """What a call of this request may take. `request` is as it is sent, in plain values."""
        if self._count is not None:
            prompt = estimated = self._count(request)
        else:
            estimated, uncounted = count(request, estimate)
            estimated += PART * len(uncounted)
            prompt = self._correction.apply(estimated)
        most = request.get("max_completion_tokens") or request.get("max_tokens")
        return Reserved(prompt, estimated, most or self._largest, request.get("n") or 1, asked=bool(most))

    def learn(self, reserved: Reserved, usage: Usage) -> None:
        """Learn from what a call took."""
        if self._count is None and usage.prompt_tokens > 0:
            self._correction = self._correction.learn(reserved.estimated, usage.prompt_tokens)
        if not reserved.asked and usage.completion_tokens > 0:
            # A request with a limit says nothing of those without.
            self._answers.append(usage.completion_tokens / reserved.choices)
            self._largest = round(max(self._answers))
