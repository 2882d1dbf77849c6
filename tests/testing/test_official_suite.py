"""A suite that was written against the official client, run unchanged against our server on loopback.

`tests/testing/official/` has the application and its suite, which know nothing of this project. What is added for the run is one
file, `conftest.py`: it says which server answers, and what.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SUITE = Path(__file__).parent / "official"

CONFTEST = '''
import pytest

from gpt import ChatCompletion, Choice, ConnectError, InvalidRequestError, RateLimitError, ResponseMessage, Usage
from gpt.testing import Fault, Scripted, tool_call

COMPLETION = ChatCompletion(model="m", choices=[Choice("stop", 0, ResponseMessage("Done."))], usage=Usage(5, 6, 11))
asked_before = set()


def said(request):
    """What the server says: a model for these tests, in a few lines."""
    if not request.messages:
        raise InvalidRequestError("messages: the list is empty", param="messages")
    last = request.messages[-1]
    text = last["content"]
    if last["role"] == "tool":
        return f"It is {text.partition(':')[2].strip(' }')} km long."
    if "[busy]" in text:
        raise RateLimitError("too many", 429, retry_after=0, should_retry=False)
    if "[gone]" in text:
        raise ConnectError("gone")
    if "[once]" in text and text not in asked_before:
        asked_before.add(text)
        raise RateLimitError("once", 429, retry_after=0)
    if "Where is" in text:
        return '{"country": "Egypt", "continent": "Africa"}'
    if "How long is the" in text:
        return tool_call("length_of", river=text.split()[-1].strip("?"))
    if "Count" in text:
        return COMPLETION
    return "The Nile is a river."


@pytest.fixture(autouse=True)
def answered(gpt_server):
    gpt_server.reply = Scripted(said)
    gpt_server.faults = FAULTS
'''


@pytest.mark.parametrize("faults", ["[]", "[Fault(slices=7, uneven=True)]"], ids=["as it comes", "cut anywhere"])
def test_unchanged(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, faults: str) -> None:
    """All of it passes, with the network refused, with nothing but the environment to lead it here, and wherever the answers are
    cut on their way.
    """
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    texts = {"application": (SUITE / "application.py").read_text(), "test_suite": (SUITE / "suite.py").read_text()}
    assert not [name for name, text in texts.items() if "import gpt" in text or "from gpt" in text]
    pytester.makepyfile(**texts, conftest=CONFTEST.replace("FAULTS", faults))
    result = pytester.runpytest_subprocess(
        "-p", "gpt.testing.plugin", "--gpt-network=refuse", "-W", "error", "--strict-markers"
    )
    result.assert_outcomes(passed=15)
