"""The servers that are known: data, not code. What nobody has seen a server do is not here.

A row is chosen by the server's host, or by its name (`profile="vllm"`). Ollama's also by its port, 11434, which nothing else is
known to use. Ports that several servers have (1234, 4000, 8000, 8080) choose none: a row that is chosen wrongly refuses
what the server could do. A server that is not known gets what is safe with every one.

Each fact has its source: a thread (owner/repository#number), a page, or a file of the server's own.
"""

from __future__ import annotations

from typing import NamedTuple

from gpt.errors import InvalidRequestError
from gpt.protocol.profiles import HOSTED, THINK, Profile
from gpt.protocol.wire import Origin

LEGACY = ("functions", "function_call")
"""What tools were called before. Servers that came later mostly never had it."""

SEARCHED_AND_SPOKEN = ("modalities", "web_search_options")
"""What only services have: other outputs than text, and a search of theirs."""


class Server(NamedTuple):
    """A known server: its profile, and where it is found."""

    profile: Profile
    hosts: tuple[str, ...] = ()
    """Hosts that are it, by https on its own port; one that begins with a dot stands for all below it."""
    port: int | None = None
    """A port that is its alone, by http on any host."""


SERVERS: tuple[Server, ...] = (
    # Its API reference, "stream_options".
    Server(Profile(name="openai", streams_usage=True), (HOSTED.host,)),
    Server(
        Profile(
            name="azure",
            dialect="azure",
            # "api-key: $AZURE_OPENAI_API_KEY", tokens of Entra ID as "Authorization: Bearer", of both generations:
            # learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle, "REST".
            key_header="api-key",
            paths="azure",
            # Takes stream_options since 2024-09-01-preview (same page) and refuses it in older versions: agno#1066,
            # openai-python#1469. So nobody is asked for usage who did not ask for it.
        ),
        # The second is the one that a resource for several services has: dagger/dagger#9808. The third is a Foundry resource's:
        # learn.microsoft.com/azure/ai-foundry/foundry-models/concepts/endpoints; openai/openai-java, AzureUrlCategory.kt.
        (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"),
    ),
    Server(
        Profile(
            name="vllm",
            # vllm/entrypoints/openai/chat_completion/protocol.py: it has the field, and none of those that are listed; fields
            # that it does not have are let through. `parallel_tool_calls: false` it keeps by giving the first call alone:
            # maybe_filter_parallel_tool_calls.
            streams_usage=True,
            ignores=(*LEGACY, *SEARCHED_AND_SPOKEN),
        )
    ),
    Server(
        Profile(
            name="llama.cpp",
            # Seen with its own server: tests/test_engine_server.py.
            streams_usage=True,
            dialect="grammar",
            rungs=("json_schema", "json_object", "prompt"),
            ignores=(*LEGACY, *SEARCHED_AND_SPOKEN),
        )
    ),
    Server(
        Profile(
            name="ollama",
            # docs/api/openai-compatibility.mdx, "Supported request fields"; openai/openai.go, ChatCompletionRequest.
            streams_usage=True,
            renames=(("max_completion_tokens", "max_tokens"),),
            # tool_choice, "none" too: ollama/ollama#17921, ollama/ollama#11171.
            ignores=("n", "tool_choice", "parallel_tool_calls", "logit_bias", *LEGACY, *SEARCHED_AND_SPOKEN),
            rungs=("json_schema", "json_object", "prompt"),
            # Left out of the prompt by most templates: earendil-works/pi#140, ollama/ollama#18305; "model dependent":
            # ollama/ollama-python#453.
            roles=(("developer", "system"),),
        ),
        port=11434,
    ),
    Server(
        Profile(
            name="lm-studio",
            # lmstudio.ai/docs/developer/api-changelog, 0.3.18.
            streams_usage=True,
            # lmstudio.ai/docs/developer/openai-compat/chat-completions, "Supported payload parameters": max_tokens alone.
            renames=(("max_completion_tokens", "max_tokens"),),
            # "'response_format.type' must be 'json_schema' or 'text'": lmstudio-ai/lmstudio-bug-tracker#189. A tool_choice is a
            # word there, not a tool: same page, 0.3.15.
            rungs=("json_schema", "prompt"),
        )
    ),
    Server(
        Profile(
            name="tgi",
            # router/src/lib.rs, ChatRequest: n is "UNUSED", and the others are no fields of it, of which it takes any.
            streams_usage=True,
            ignores=("n", "parallel_tool_calls", *LEGACY, *SEARCHED_AND_SPOKEN),
            # GrammarType, there: a json_object must have a schema as its `value`.
            rungs=("json_schema", "tool", "prompt"),
        )
    ),
    Server(
        Profile(
            name="mlx-lm",
            # mlx_lm/server.py, do_POST and what it calls: these are the fields of the body that it never reads.
            streams_usage=True,
            ignores=(
                "n",
                "tool_choice",
                "parallel_tool_calls",
                "response_format",
                *LEGACY,
                *SEARCHED_AND_SPOKEN,
            ),
            rungs=("prompt",),
        )
    ),
    # openrouter.ai/docs/use-cases/reasoning-tokens, "Preserving reasoning": all of it, unchanged. Usage always comes:
    # openrouter.ai/docs/use-cases/usage-accounting. What a model behind it does not take it leaves out, model by model, unless
    # body={"provider": {"require_parameters": True}}: openrouter.ai/docs/features/provider-routing.
    Server(Profile(name="openrouter", echoes="always"), ("openrouter.ai",)),
    # Refuses what the model behind it does not take, unless told to drop it: docs.litellm.ai/docs/completion/drop_params.
    Server(Profile(name="litellm")),
    # api-docs.deepseek.com/guides/thinking_mode: 400 if thinking is missing in a turn with tool calls, whose last message has
    # none itself; elsewhere what comes back is ignored. So all of it (rikkahub#1587, command-code#840).
    Server(Profile(name="deepseek", echoes="always"), ("api.deepseek.com",)),
    # platform.kimi.ai/docs/guide/use-kimi-k2-thinking-model: keep all of it; what it does not want it ignores. "thinking is
    # enabled but reasoning_content is missing in assistant tool call message": mastra#12592, continue#11600.
    Server(Profile(name="moonshot", echoes="always"), ("api.moonshot.ai", "api.moonshot.cn")),
    # platform.minimax.io/docs/api-reference/text-openai-api: "the content field will contain <think> tag content, which must be
    # preserved completely".
    Server(Profile(name="minimax", echoes="always", think_tags=THINK), ("api.minimax.io", "api.minimaxi.com")),
    # Refuse what they do not know, thinking in the history too: mistralai/platform-docs-public#7, crush#1590 and, of
    # stream_options, openai-agents-python#442; freellmapi#1070; kilocode#10375.
    Server(
        # 422 "extra_forbidden" for max_completion_tokens: editor-code-assistant/eca#231, Gitlawb/openclaude#739.
        Profile(name="mistral", echoes="never", renames=(("max_completion_tokens", "max_tokens"),)),
        ("api.mistral.ai",),
    ),
    Server(Profile(name="groq", echoes="never"), ("api.groq.com",)),
    Server(Profile(name="cerebras", echoes="never"), ("api.cerebras.ai",)),
)

_BY_HOST = {host: server.profile for server in SERVERS for host in server.hosts}
_BY_PORT = {server.port: server.profile for server in SERVERS if server.port is not None}
_BY_NAME = {server.profile.name: server.profile for server in SERVERS}


def profile_of(origin: Origin) -> Profile:
    """The profile of the server at `origin`."""
    if origin.scheme == "https" and origin.port == 443:
        host = origin.host
        found = _BY_HOST.get(host)
        while found is None and host:
            _, dot, host = host.partition(".")
            found = _BY_HOST.get(dot + host)
        return found or Profile()
    return (_BY_PORT.get(origin.port) if origin.scheme == "http" else None) or Profile()


def profile_named(name: str) -> Profile:
    """The profile of this name. Raises InvalidRequestError, with the names that there are."""
    found = _BY_NAME.get(name)
    if found is None:
        raise InvalidRequestError(
            f"profile: {name!r} is the name of none; there are {', '.join(_BY_NAME)}, and Profile(...) for others",
            param="profile",
        )
    return found
