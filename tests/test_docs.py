"""The documents: every link leads somewhere, every example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpt import Local

from places import EngineServer

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("changelog.d/*.md")])
EXAMPLES = [
    pytest.param(code, info, id=f"{page.name}-{number}")
    for page in PAGES
    for number, (info, code) in enumerate(re.findall(r"```python([^\n]*)\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links(page: Path) -> None:
    """A link to a file leads to one; a file named in code is there."""
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    for target in re.findall(r"`((?:docs|tests|src|bench|changelog\.d)/[\w./-]+)`", text):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize(("code", "info"), EXAMPLES)
def test_examples(
    code: str, info: str, box: Local, engine_server: EngineServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples run as printed, in a folder of their own; those against a server against the engine's, by its address and key."""
    monkeypatch.chdir(tmp_path)
    if "server" in info:
        assert "http://127.0.0.1:8080/v1" in code
        code = code.replace(
            'server_url="http://127.0.0.1:8080/v1"', f"server_url={engine_server.url!r}, api_key={engine_server.key!r}"
        )
        code = code.replace(
            'messages=[{"role": "user", "content": "hi"}]', 'messages=[{"role": "user", "content": "hi"}], max_tokens=5'
        )
        code = code.replace('"model": "some-model"}', '"model": "some-model", "max_tokens": 5}').replace(
            "temperature=0)", "max_tokens=20)"
        )
        code = code.replace("timeout=30)", "timeout=30, max_tokens=20)")
    exec(compile(code, "example", "exec", dont_inherit=True), {})
