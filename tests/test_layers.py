"""Imports point one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

# Each layer may import itself and those before it.
LAYERS: list[tuple[str, ...]] = [
    ("gpt.version",),
    ("gpt.types",),
    ("gpt.errors",),
    ("gpt.protocol",),
    ("gpt.backend", "gpt.database", "gpt.flows"),
    ("gpt.layers", "gpt.otel", "gpt.prices", "gpt.tokenizer"),
    ("gpt.remote", "gpt.local"),
    ("gpt.stream", "gpt.models", "gpt.sdkconfiguration", "gpt.utils", "gpt.parts", "gpt.pages"),
    ("gpt.structured",),
    ("gpt.tools",),
    ("gpt.client",),
    ("gpt.fallback",),
    ("gpt.batch",),
    ("gpt.server",),
    ("gpt.testing",),
    ("gpt.check",),
    ("gpt.cli",),
    ("gpt.__main__", "gpt"),
]
MODULES = sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def layer(module: str) -> int:
    for place, names in enumerate(LAYERS):
        if any(module == name or (name != "gpt" and module.startswith(f"{name}.")) for name in names):
            return place
    raise AssertionError(f"{module} is in no layer")


def is_for_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(path: Path) -> list[str]:
    """What a module imports when it runs, in functions too."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if is_for_checkers(node):
            for child in node.orelse:  # type: ignore[attr-defined]
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: a relative import, which hides its layer"
            assert 0 == node.level, f"{path}: a relative import, which hides its layer"
            modules = {name_of(other) for other in MODULES}
            found.extend(
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in modules else node.module
                for alias in node.names
            )
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_direction(path: Path) -> None:
    """A module imports its own layer and those below it."""
    own = name_of(path)
    ours = [name for name in imports(path) if name == "gpt" or name.startswith("gpt.")]
    assert [] == [name for name in ours if layer(name) > layer(own)]


def test_remote_and_local_are_strangers() -> None:
    """Neither way of answering knows the other."""
    for path in MODULES:
        name = name_of(path)
        for mine, other in (("gpt.remote", "gpt.local"), ("gpt.local", "gpt.remote")):
            if name.startswith(mine):
                assert not [found for found in imports(path) if found.startswith(other)]


OUTSIDE = {
    "xllamacpp": ["gpt.local.llama"],
    "huggingface_hub": ["gpt.local.weights"],
    "httptools": ["gpt.remote.http.parse"],
    "opentelemetry": ["gpt.otel"],
    "ray": ["gpt.batch.cluster"],
    "sqlite3": ["gpt.database"],
    "tiktoken": ["gpt.tokenizer"],
    "pyarrow": ["gpt.batch.parquet"],
}


@pytest.mark.parametrize(("library", "homes"), OUTSIDE.items())
def test_one_file_an_outside_world(library: str, homes: list[str]) -> None:
    """Each outside world has one file that imports it."""
    found = [name_of(path) for path in MODULES if any(name.partition(".")[0] == library for name in imports(path))]
    assert homes == found


def test_protocol_is_pure() -> None:
    """No sockets, clocks, threads or randomness in the protocol."""
    forbidden = {"socket", "ssl", "time", "threading", "asyncio", "random", "os", "subprocess", "select"}
    for path in MODULES:
        if name_of(path).startswith("gpt.protocol"):
            assert set() == forbidden & {name.partition(".")[0] for name in imports(path)}, path
