"""Which server is known to be which."""

from __future__ import annotations

import pytest

from gpt.errors import InvalidRequestError
from gpt.protocol.profiles import Profile
from gpt.protocol.servers import SERVERS, profile_named, profile_of
from gpt.protocol.wire import Origin
from gpt.types import ChatRequest


def https(host: str, port: int = 443) -> Origin:
    return Origin("https", host, port)


PLACES: list[tuple[Origin, str]] = [
    (https("api.openai.com"), "openai"),
    (Origin("http", "api.openai.com", 80), ""),
    (https("api.openai.com", 8443), ""),
    (https("xapi.openai.com"), ""),
    (https("api.openai.com.example.org"), ""),
    (https("my-resource.openai.azure.com"), "azure"),
    (https("my-resource.cognitiveservices.azure.com"), "azure"),
    (https("my-resource.services.ai.azure.com"), "azure"),
    (https("services.ai.azure.com"), ""),
    (https("openai.azure.com"), ""),
    (https("myopenai.azure.com"), ""),
    (Origin("http", "my-resource.openai.azure.com", 80), ""),
    (Origin("http", "127.0.0.1", 8080), ""),
    (Origin("http", "127.0.0.1", 8000), ""),
    (Origin("http", "localhost", 11434), "ollama"),
    (Origin("http", "gpu-box", 11434), "ollama"),
    (https("gpu-box", 11434), ""),
    (Origin("http", "localhost", 1234), ""),
    (https("openrouter.ai"), "openrouter"),
    (https("api.deepseek.com"), "deepseek"),
    (https("api.moonshot.cn"), "moonshot"),
    (https("api.minimax.io"), "minimax"),
    (https("api.mistral.ai"), "mistral"),
    (https("api.groq.com"), "groq"),
    (https("api.cerebras.ai"), "cerebras"),
    (https("localhost"), ""),
]


@pytest.mark.parametrize(("origin", "name"), PLACES, ids=str)
def test_by_place(origin: Origin, name: str) -> None:
    """A known server has its profile, by its own place alone; any other what is safe with every server."""
    assert (profile_named(name) if name else Profile()) == profile_of(origin)


def test_by_name() -> None:
    """Each row has its name, one row a name; an unknown one is refused with all that there are."""
    names = [server.profile.name for server in SERVERS]
    assert len(SERVERS) == len(set(names))
    assert [server.profile for server in SERVERS] == [profile_named(name) for name in names]
    with pytest.raises(
        InvalidRequestError, match="profile: 'vlm' is the name of none; there are openai, azure, vllm"
    ) as caught:
        profile_named("vlm")
    assert "profile" == caught.value.param


@pytest.mark.parametrize("profile", [server.profile for server in SERVERS], ids=[server.profile.name for server in SERVERS])
def test_rows(profile: Profile) -> None:
    """Each parameter that a row names is one of the protocol's."""
    known = set(ChatRequest.__struct_fields__)
    assert (
        set()
        == {*(name.partition(": ")[0] for name in profile.ignores), *(name for pair in profile.renames for name in pair)}
        - known
    )


def test_thinking() -> None:
    """What thinking goes back to whom."""
    echoing = [server.profile.name for server in SERVERS if server.profile.echoes != "never"]
    assert ["openrouter", "deepseek", "moonshot", "minimax"] == echoing
    assert ("<think>", "</think>") == profile_named("minimax").think_tags
