"""gpt: given a list of messages comprising a conversation, the model returns a response.

    from gpt import Gpt
    print(Gpt(server_url="local:").chat.complete("Name three rivers.").text)

Names load when they are asked for, so that `import gpt` costs nothing that is not used.

PYTEST_DONT_REWRITE: the package has a plugin of pytest, and who imports it before pytest starts would be warned of that.
"""

from __future__ import annotations

from gpt.version import __version__ as __version__

# Not from `typing`, whose import is a good part of what `gpt --help` takes.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpt.backend import AsyncBackend as AsyncBackend
    from gpt.backend import Backend as Backend
    from gpt.backend import CallOptions as CallOptions
    from gpt.backend import in_threads as in_threads
    from gpt.client import AsyncGpt as AsyncGpt
    from gpt.client import Gpt as Gpt
    from gpt.errors import *  # noqa: F403
    from gpt.fallback import AsyncFallback as AsyncFallback
    from gpt.fallback import Fallback as Fallback
    from gpt.layers.cache import AsyncCache as AsyncCache
    from gpt.layers.cache import Cache as Cache
    from gpt.layers.cache import repeatable as repeatable
    from gpt.layers.limit import AsyncLimit as AsyncLimit
    from gpt.layers.limit import Limit as Limit
    from gpt.layers.limit import Pace as Pace
    from gpt.layers.meter import UsageTotals as UsageTotals
    from gpt.layers.record import AsyncRecord as AsyncRecord
    from gpt.layers.record import AsyncReplay as AsyncReplay
    from gpt.layers.record import Record as Record
    from gpt.layers.record import Replay as Replay
    from gpt.layers.store import CacheStats as CacheStats
    from gpt.layers.watch import CallEvent as CallEvent
    from gpt.local.backend import Local as Local
    from gpt.pages import AsyncListing as AsyncListing
    from gpt.pages import AsyncPage as AsyncPage
    from gpt.pages import Page as Page
    from gpt.prices import Cost as Cost
    from gpt.prices import Price as Price
    from gpt.prices import Prices as Prices
    from gpt.protocol.profiles import Profile as Profile
    from gpt.protocol.retry import Retry as Retry
    from gpt.protocol.tokens import TokenCount as TokenCount
    from gpt.protocol.wire import Timeout as Timeout
    from gpt.remote.http.connect import Network as Network
    from gpt.sdkconfiguration import SERVERS as SERVERS
    from gpt.sdkconfiguration import SDKConfiguration as SDKConfiguration
    from gpt.stream import *  # noqa: F403
    from gpt.structured.parse import Parsed as Parsed
    from gpt.structured.stream import AsyncParsedStream as AsyncParsedStream
    from gpt.structured.stream import ParsedStream as ParsedStream
    from gpt.tools.functions import EndRun as EndRun
    from gpt.tools.functions import PythonTool as PythonTool
    from gpt.tools.functions import ToolContext as ToolContext
    from gpt.tools.functions import tool as tool
    from gpt.tools.loop import AnswerStep as AnswerStep
    from gpt.tools.loop import CallStep as CallStep
    from gpt.tools.loop import ResultStep as ResultStep
    from gpt.tools.loop import ToolRun as ToolRun
    from gpt.tools.loop import ToolStep as ToolStep
    from gpt.tools.stream import AsyncToolStream as AsyncToolStream
    from gpt.tools.stream import RunDoneEvent as RunDoneEvent
    from gpt.tools.stream import ToolStream as ToolStream
    from gpt.tools.stream import ToolStreamEvent as ToolStreamEvent
    from gpt.types import *  # noqa: F403

_HOMES = {
    "client": ("AsyncGpt", "Gpt"),
    "backend": ("AsyncBackend", "Backend", "CallOptions", "in_threads"),
    "fallback": ("AsyncFallback", "Fallback"),
    "layers.cache": ("AsyncCache", "Cache", "repeatable"),
    "layers.limit": ("AsyncLimit", "Limit", "Pace"),
    "layers.meter": ("UsageTotals",),
    "layers.record": ("AsyncRecord", "AsyncReplay", "Record", "Replay"),
    "layers.store": ("CacheStats",),
    "layers.watch": ("CallEvent",),
    "local.backend": ("Local",),
    "pages": ("AsyncListing", "AsyncPage", "Page"),
    "prices": ("Cost", "Price", "Prices"),
    "protocol.profiles": ("Profile",),
    "protocol.retry": ("Retry",),
    "protocol.tokens": ("TokenCount",),
    "protocol.wire": ("Timeout",),
    "remote.http.connect": ("Network",),
    "structured.parse": ("Parsed",),
    "structured.stream": ("AsyncParsedStream", "ParsedStream"),
    "tools.functions": ("EndRun", "PythonTool", "ToolContext", "tool"),
    "tools.loop": ("AnswerStep", "CallStep", "ResultStep", "ToolRun", "ToolStep"),
    "tools.stream": ("AsyncToolStream", "RunDoneEvent", "ToolStream", "ToolStreamEvent"),
    "sdkconfiguration": ("SERVERS", "SDKConfiguration"),
}
_WHOLE = ("types", "errors", "stream")
"""Modules whose whole `__all__` is public here."""


_MODULES = ("backend", "batch", "client", "errors", "models", "parts", "prices", "sdkconfiguration", "stream", "types", "utils")
"""Modules that `import gpt` alone makes reachable, as `gpt.models.components`."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__all__":
        return __dir__()
    if name in _MODULES:
        return import_module(f"gpt.{name}")
    for home, names in _HOMES.items():
        if name in names:
            return _keep(name, getattr(import_module(f"gpt.{home}"), name))
    for home in _WHOLE if not name.startswith("_") else ():
        module = import_module(f"gpt.{home}")
        if name in module.__all__:
            return _keep(name, getattr(module, name))
    raise AttributeError(f"module 'gpt' has no attribute {name!r}")


def _keep(name: str, value: Any) -> Any:
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    from importlib import import_module

    whole = [name for home in _WHOLE for name in import_module(f"gpt.{home}").__all__]
    return sorted({"__version__", *whole, *(name for names in _HOMES.values() for name in names)})
