"""The plugin of pytest, in runs of pytest within the test: small projects, with it and nothing else loaded."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

# Runs within this process forget the modules that they load: those of ours must be loaded before.
import gpt.layers.record
import gpt.remote.adapters
import gpt.remote.http.blocking
import gpt.stream
import gpt.testing.answers
import gpt.testing.cassette
import gpt.testing.network
import gpt.testing.plugin
import gpt.testing.waiting  # noqa: F401
from gpt.testing import serve

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
REFUSE = """
[pytest]
gpt_network = refuse
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plugin but ours is loaded in the runs, whether or not this package is installed with its entry point."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "gpt.testing.plugin")


def ran(pytester: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    """A run of these tests, in one file."""
    pytester.makepyfile(test_it=text)
    return pytester.runpytest_inprocess("--strict-markers", "-W", "error", *options)


def shown(result: pytest.RunResult) -> str:
    return str(result.stdout) + str(result.stderr)


def test_fixtures(pytester: pytest.Pytester) -> None:
    """The fixtures are what they say: a script, a server that the environment leads to, and no waiting."""
    result = ran(pytester, """
        import os
        from gpt import Gpt
        from gpt.testing import Fault
        from gpt.remote import drive

        def test_scripted(gpt_scripted):
            client = Gpt(backend=gpt_scripted)
            assert "hi" == client.chat.complete("a").text
            gpt_scripted.answers = ["Nile"]
            assert "Nile" == client.chat.complete("b").text
            assert 2 == len(gpt_scripted.asked)

        def test_server(gpt_server):
            assert gpt_server.url == os.environ["OPENAI_BASE_URL"]
            assert "hi" == Gpt().chat.complete("a").text
            gpt_server.reply = "Nile"
            assert "Nile" == Gpt().chat.complete("a").text
            assert "authorization: Bearer test-key" in gpt_server.requests[0][0].lower().replace("bearer", "Bearer")

        def test_another_server(gpt_server, gpt_no_waiting):
            gpt_server.faults = [Fault(status=503, headers={"retry-after": "100"}, times=1)]
            assert 2 == len(Gpt().chat.complete("a").info.attempts)
            assert 2 == gpt_server.answered

        def test_waits_again():
            assert drive.waits
            assert "OPENAI_BASE_URL" not in os.environ
    """)  # fmt: skip
    result.assert_outcomes(passed=4)


def test_refused(pytester: pytest.Pytester) -> None:
    """With the setting each test is refused the network, in its fixtures too, with an error that says who, where and what to do.

    Those that are marked are not.
    """
    pytester.makeini(REFUSE)
    result = ran(pytester, """
        import socket, threading
        import pytest
        from gpt import Gpt

        def test_called():
            socket.getaddrinfo("api.example.com", 443)

        @pytest.fixture
        def far():
            socket.create_connection(("api.example.com", 443))

        def test_set_up(far):
            pass

        def test_swallowed():
            try:
                socket.getaddrinfo("one.example.com", 443)
            except BaseException:
                pass
            with pytest.raises(BaseException):
                socket.getaddrinfo("two.example.com", 443)

        @pytest.mark.gpt_network
        def test_marked():
            assert "connect" not in vars(socket.socket)

        def test_here(gpt_server):
            assert "connect" in vars(socket.socket)
            assert "hi" == Gpt().chat.complete("a").text
    """)  # fmt: skip
    result.assert_outcomes(passed=3, failed=1, errors=2)
    result.stdout.fnmatch_lines(["*Failed: test_it.py::test_called was to reach api.example.com:443, and gpt_network refuses*"])
    result.stdout.fnmatch_lines(["*test_it.py::test_set_up was to reach api.example.com:443*"])
    result.stdout.fnmatch_lines(["*test_it.py::test_swallowed was to reach one.example.com:443, two.example.com:443,*"])
    assert "the fixture gpt_server or gpt_cassette; or mark the test @pytest.mark.gpt_network" in shown(result)


ALLOWED = """
    import socket

    def test_it():
        assert "connect" not in vars(socket.socket)
"""


@pytest.mark.parametrize(
    ("ini", "option", "passes"),
    [("", "", True), (REFUSE, "", False), (REFUSE, "allow", True), ("", "refuse", False)],
)
def test_settings(pytester: pytest.Pytester, ini: str, option: str, passes: bool) -> None:
    """The network is refused where the project says so; the command line goes over that."""
    if ini:
        pytester.makeini(ini)
    result = ran(pytester, ALLOWED, *([f"--gpt-network={option}"] if option else []))
    assert passes == (0 == result.ret)


def test_wrong_setting(pytester: pytest.Pytester) -> None:
    """A setting that is none ends the run."""
    pytester.makeini("[pytest]\ngpt_network = refused\n")
    result = ran(pytester, ALLOWED)
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert 'gpt_network: expected "allow" or "refuse", got \'refused\'' in shown(result)


CASSETTE = """
    import socket
    import pytest
    from gpt import Gpt

    @pytest.mark.parametrize("lake", ["Como", "Ohrid/Prespa"])
    def test_lake(gpt_cassette, lake):
        assert "Nile" == Gpt(backend=gpt_cassette, model="m").chat.complete(f"Is {lake} a river?").text

    def test_by_server(gpt_cassette_server):
        with Gpt(model="m").chat.stream("A river?") as stream:
            assert "Nile" == stream.until_done().text

    def test_asks_nothing(gpt_cassette, request):
        assert request.config.getoption("--gpt-record") == ("connect" not in vars(socket.socket))
"""


def test_cassette(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test is answered from its recording, which is made when that is asked for, and only then; where there is none the test
    says how to make it. The network is refused all the while, but to what records.
    """
    pytester.makeini(REFUSE)
    result = ran(pytester, CASSETTE)
    result.assert_outcomes(errors=4)
    assert "there is no recording" in shown(result)
    assert "`pytest --gpt-record`" in shown(result)

    with serve("Nile") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-" + "0" * 20)
        ran(pytester, CASSETTE, "--gpt-record").assert_outcomes(passed=4)
        assert 3 == server.answered
    folder = pytester.path / "cassettes" / "test_it"
    names = sorted(path.name for path in folder.iterdir())
    assert 4 == len(names)
    assert ["test_asks_nothing.jsonl", "test_by_server.jsonl"] == names[:2]
    assert [] == [path for path in folder.iterdir() if b"sk-0000" in path.read_bytes()]

    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    ran(pytester, CASSETTE).assert_outcomes(passed=4)
    result = ran(pytester, CASSETTE.replace("A river?", "A sea?"), "-k", "server")
    result.assert_outcomes(failed=1)
    assert "this request was not recorded" in shown(result)


def test_recorded_by_a_test_that_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that fails while it records leaves the recording that there was, and nothing else."""
    with serve("Nile") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        text = CASSETTE + "\n    def test_more(gpt_cassette):\n        test_lake(gpt_cassette, 'Garda')\n"
        ran(pytester, text, "--gpt-record").assert_outcomes(passed=5)
        before = {path: path.read_bytes() for path in (pytester.path / "cassettes" / "test_it").iterdir()}
        server.reply = "Rhine"
        ran(pytester, text, "--gpt-record").assert_outcomes(passed=1, failed=4)
    assert before == {path: path.read_bytes() for path in (pytester.path / "cassettes" / "test_it").iterdir()}


def test_recorded_without_a_server(pytester: pytest.Pytester) -> None:
    """Recording needs somebody who answers; the error is the client's own."""
    result = ran(pytester, CASSETTE, "--gpt-record")
    result.assert_outcomes(failed=3, passed=1)
    assert "set OPENAI_API_KEY" in shown(result)


def test_installed() -> None:
    """The package declares the plugin, by the name under which it is also loaded by hand, so that it is never there twice."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"gpt.testing.plugin": "gpt.testing.plugin"} == project["entry-points"]["pytest11"]


def test_as_installed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed, it is there without being asked for, once; and nobody is warned who has imported the package before."""
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    monkeypatch.delenv("PYTEST_PLUGINS")
    made = pytester.mkdir("site") / "installed-1.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: installed\nVersion: 1\n")
    (made / "RECORD").write_text("gpt/__init__.py,,\ngpt/testing/plugin.py,,\n")
    (made / "entry_points.txt").write_text("[pytest11]\ngpt.testing.plugin = gpt.testing.plugin\n")
    monkeypatch.setenv("PYTHONPATH", str(made.parent))
    pytester.makepyfile("def test_it(gpt_scripted): assert gpt_scripted")
    others = ["-p", "no:langsmith_plugin", "-W", "error", "-p", "no:cacheprovider"]
    for options in ([], ["-p", "gpt.testing.plugin"]):
        program = f"import gpt.testing.plugin, pytest; raise SystemExit(pytest.main({[*others, *options]!r}))"
        result = pytester.run(sys.executable, "-c", program)
        assert 0 == result.ret
        result.stdout.fnmatch_lines(["*1 passed*"])


def test_loads_nothing() -> None:
    """What pytest loads at its start is the plugin and two empty packages: nothing of ours that takes time, nothing of others."""
    program = """
import sys, pytest
before = set(sys.modules)
import gpt.testing.plugin
print(sorted(set(sys.modules) - before))
"""
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ})
    assert "['gpt', 'gpt.testing', 'gpt.testing.plugin', 'gpt.version']" == made.stdout.strip()
