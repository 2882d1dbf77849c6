from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from gpt.remote.http.connect import Network

from transports import Blocking, OnAsyncio

Make = Callable[..., "Blocking | OnAsyncio"]


@pytest.fixture(params=[Blocking, OnAsyncio], ids=["blocking", "asyncio"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes a transport of either kind; closed at the end."""
    made: list[Blocking | OnAsyncio] = []

    def make_one(network: Network | None = None) -> Blocking | OnAsyncio:
        made.append(request.param(network))
        return made[-1]

    yield make_one
    for one in made:
        one.close()


@pytest.fixture
def way(make: Make) -> Blocking | OnAsyncio:
    """A transport of either kind."""
    return make()
