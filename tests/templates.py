"""Chat templates of the kinds that models come with, for the model in the box: each writes tools and calls another way."""

from __future__ import annotations

_TOOLS = """\
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set said = messages[1:] %}\
{% else %}{% set system = '' %}{% set said = messages %}{% endif %}\
{%- if system or tools %}<|im_start|>system
{{ system }}{% if tools %}
You may use these tools:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}<|im_end|>
{% endif %}"""

_TURNS = """\
{%- for message in said %}\
{% if message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant
@THOUGHT@{{ message.content or '' }}{% if message.tool_calls %}@CALLS@{% endif %}<|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}{% endfor %}\
{%- if add_generation_prompt %}<|im_start|>assistant
@OPENING@{% endif %}"""


def _template(calls: str, *, opening: str = "", thought: str = "") -> str:
    return _TOOLS + _TURNS.replace("@CALLS@", calls).replace("@OPENING@", opening).replace("@THOUGHT@", thought)


def _each(call: str, between: str = "") -> str:
    after = f"{{% if not loop.last %}}{between}{{% endif %}}" if between else ""
    return f"{{% for call in message.tool_calls %}}{call}{after}{{% endfor %}}"


_NAMED = '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}'
_TAGGED = _each(f"\n<tool_call>\n{_NAMED}}}\n</tool_call>")
_THOUGHT = "{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}"
_SWITCH = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
_EFFORT = "{% if reasoning_effort is defined %}effort: {{ reasoning_effort }}\n{% endif %}"

TEMPLATES: dict[str, str] = {
    # Hermes, Qwen 2.5: JSON between tags, a call each.
    "tags": _template(_TAGGED),
    # Qwen 3: the same, and thinking that can be switched off.
    "thinking": _EFFORT + _template(_TAGGED, opening=_SWITCH, thought=_THOUGHT),
    # DeepSeek R1, QwQ: the prompt opens the block of thinking.
    "opened": _template(_TAGGED, opening="<think>\n", thought=_THOUGHT),
    # Llama 3.1: the bare object, with another word for the arguments.
    "bare": _template(_each(_NAMED.replace('"arguments"', '"parameters"') + "}", "; ")),
    # Mistral, older: one list of all.
    "list": _template("[TOOL_CALLS] [" + _each(_NAMED + "}", ", ") + "]"),
    # Mistral, newer: an id in each.
    "ids": _template("[TOOL_CALLS] [" + _each(_NAMED + ', "id": "{{ call.id }}"}', ", ") + "]"),
    # Qwen 3 Coder: no JSON.
    "xml": _template(
        _each(
            "\n<tool_call>\n<function={{ call.function.name }}>\n{% for key, value in call.function.arguments.items() %}"
            "<parameter={{ key }}>\n{{ value }}\n</parameter>\n{% endfor %}</function>\n</tool_call>"
        )
    ),
    # Gemma: no tools, and no system message.
    "plain": """\
{%- for message in messages %}{% if message.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must take turns') }}{% endif %}\
<|im_start|>{{ message.role }}
{{ message.content | trim }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}""",
}
