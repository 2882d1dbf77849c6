"""The plugin of pytest: fixtures for tests of programs that use a chat model, and no network in tests.

It is loaded whenever pytest starts where this package is installed, so it loads nothing until a test asks for it, and does
nothing until a project does. `docs/testing.md` tells of the fixtures `gpt_scripted`, `gpt_server`, `gpt_cassette`,
`gpt_cassette_server` and `gpt_no_waiting`, of the marker `gpt_network`, and of the settings.

PYTEST_DONT_REWRITE: it may have been imported before pytest starts.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from gpt.backend import Backend
    from gpt.testing.faults import FaultServer
    from gpt.testing.scripted import Scripted

KEY = "test-key"
"""The key that the environment has while a server of a fixture runs. It takes any."""

_MARKER = "gpt_network: this test may reach the network where the setting gpt_network refuses it"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the settings."""
    group = parser.getgroup("gpt", "tests of programs that use a chat model")
    group.addoption("--gpt-record", action="store_true", help="record anew what the fixture gpt_cassette answers from")
    group.addoption(
        "--gpt-network", choices=("allow", "refuse"), help="whether tests may reach other machines; goes over the ini file"
    )
    parser.addini("gpt_network", 'whether tests may reach other machines: "allow" (the default) or "refuse"', default="allow")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker; set up what the settings ask for."""
    config.addinivalue_line("markers", _MARKER)
    network = config.getoption("--gpt-network") or config.getini("gpt_network")
    if network not in ("allow", "refuse"):
        raise pytest.UsageError(f'gpt_network: expected "allow" or "refuse", got {network!r}')
    if network == "refuse":
        config.pluginmanager.register(_NoNetwork(), "gpt.testing.no_network")
    if config.getoption("--gpt-record"):
        config.pluginmanager.register(_Outcomes(), "gpt.testing.outcomes")


class _NoNetwork:
    """Refuses the network while a test is set up, runs and is taken down."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        if item.get_closest_marker("gpt_network") is not None or _records(item):
            return (yield)
        from gpt.testing.network import Refusal

        def refuse(where: str) -> NoReturn:
            pytest.fail(_refused(item.nodeid, where))

        refusal = item.stash[_REFUSALS] = Refusal(refuse)
        with refusal.in_force():
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        """Fail a test that passed though it was refused: something in it has kept that to itself."""
        yield
        refusal = item.stash.get(_REFUSALS, None)
        if refusal is not None and refusal.seen and not item.stash.get(_TOLD, False):
            pytest.fail(_refused(item.nodeid, ", ".join(dict.fromkeys(refusal.seen))), pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            item.stash[_TOLD] = True
        return report


_REFUSALS: pytest.StashKey[Any] = pytest.StashKey()
_TOLD: pytest.StashKey[bool] = pytest.StashKey()
_PASSED: pytest.StashKey[bool] = pytest.StashKey()


def _records(item: pytest.Item) -> bool:
    """Whether the test records, and so must reach what answers."""
    return "gpt_cassette" in getattr(item, "fixturenames", ()) and bool(item.config.getoption("--gpt-record"))


def _refused(test: str, where: str) -> str:
    return (
        f"{test} was to reach {where}, and gpt_network refuses the network in tests. Answer it from this machine, by the "
        "fixture gpt_server or gpt_cassette; or mark the test @pytest.mark.gpt_network, where it has to reach the network"
    )


class _Outcomes:
    """Notes whether a test has passed, for the recording that it makes."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "call":
            item.stash[_PASSED] = report.passed
        return report


# --------------------------------------------------------------------------------------------------------------------
# Fixtures
# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpt_scripted() -> Scripted:
    """A model with a script, `Gpt(backend=gpt_scripted)`, which says "hi" until its `answers` are changed."""
    from gpt.testing.scripted import Scripted

    return Scripted("hi")


@pytest.fixture
def gpt_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A server on loopback, which says "hi" until its `reply` or its `faults` are changed.

    OPENAI_BASE_URL and OPENAI_API_KEY lead to it, for any client that reads them.
    """
    from gpt.testing.faults import serve

    with serve() as server:
        _lead_to(server, monkeypatch)
        yield server


@pytest.fixture
def gpt_cassette(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """What answers from the recording of this test; with `--gpt-record` what records it anew, from the server that
    OPENAI_BASE_URL and OPENAI_API_KEY name.

    `Gpt(backend=gpt_cassette)`. It lies in a folder `cassettes` beside the test's file.
    """
    from contextlib import ExitStack

    from gpt.errors import InvalidRequestError
    from gpt.testing import cassette

    path = cassette.place(str(request.path), request.node.nodeid.partition("::")[2])
    if request.config.getoption("--gpt-record"):
        way = cassette.recorded(path, lambda: request.node.stash.get(_PASSED, False))
    else:
        way = cassette.replayed(path)
    with ExitStack() as stack:
        try:
            backend = stack.enter_context(way)
        except InvalidRequestError as error:
            pytest.fail(error.message, pytrace=False)
        yield backend


@pytest.fixture
def gpt_cassette_server(gpt_cassette: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A server on loopback that answers as `gpt_cassette` does, for any client; the environment leads to it."""
    from gpt.testing.faults import serve

    with serve(gpt_cassette) as server:
        _lead_to(server, monkeypatch)
        yield server


def _lead_to(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def gpt_no_waiting() -> Iterator[None]:
    """Retries, paced recordings and scripts do not wait; see `gpt.testing.no_waiting`."""
    from gpt.testing.waiting import no_waiting

    with no_waiting():
        yield
