"""The seed's view of a client's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpt.version import __version__

SERVERS = ["https://api.openai.com/v1"]
"""The servers that `server_idx` chooses among."""


@dataclass
class SDKConfiguration:
    """Settings as the seed names them. `client` and `security_client` are the ways out; keys do not show in repr."""

    client: Any = None
    security_client: Any = None
    server_url: str = ""
    server_idx: int = 0
    language: str = "python"
    openapi_doc_version: str = "2.3.0"
    sdk_version: str = __version__
    gen_version: str = ""
    user_agent: str = f"gpt-in-the-box/{__version__}"
    retry_config: Any = None

    def get_server_details(self) -> tuple[str, dict[str, str]]:
        """The server's URL, and no parameters: they have been filled in."""
        return self.server_url or SERVERS[self.server_idx], {}


def configuration(backend: Any) -> SDKConfiguration:
    """The configuration of a client with this backend; `server_url` is "" when no server answers."""
    endpoint = getattr(backend, "endpoint", None)
    url = f"{endpoint.origin}{endpoint.path}" if endpoint else ""
    transport = getattr(backend, "_transport", None)
    return SDKConfiguration(client=transport, security_client=transport, server_url=url)
