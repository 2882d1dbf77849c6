"""Which entry is asked next: tested with next, send and throw; no entry, no clock."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest

from gpt import errors
from gpt.errors import GptError
from gpt.protocol.fallback import LEFT_OUT, RULES, Ask, Fell, Rests, falling, rule_for
from gpt.protocol.wire import AttemptInfo, EntryInfo, ResponseInfo

DOWN = errors.ServerError("down", 500)


class Call:
    """A flow over entries a, b, c, ..., each of which takes a second."""

    def __init__(self, entries: int = 3, rests: Rests | None = None, deadline: float | None = None, now: float = 0.0) -> None:
        self.now = now
        self.rests = rests or Rests(entries, 10.0)
        self.told: list[tuple[int, str, bool]] = []

        def told(index: int, error: GptError, rule: Any, attempt: AttemptInfo) -> None:
            self.told.append((index, attempt.reason, rule.warns))

        self.flow = falling("abcdef"[:entries], self.rests, lambda: self.now, deadline, told)  # type: ignore[var-annotated]

    def start(self) -> Any:
        return next(self.flow)

    def only(self, what: str) -> Fell[str]:
        """What comes of it where the first entry answers."""
        self.start()
        fell: Fell[str] = self.answer(what)
        return fell

    def answer(self, what: Any = "hi") -> Any:
        """The next entry that is asked, or what the flow gives."""
        self.now += 1.0
        try:
            return self.flow.throw(what) if isinstance(what, GptError) else self.flow.send(what)
        except StopIteration as done:
            return done.value


# An error, and whether the next entry is asked, the entry rests, the program is warned.
ERRORS: list[tuple[GptError, tuple[bool, bool, bool]]] = [
    (errors.InvalidRequestError("m"), (False, False, False)),
    (errors.BadRequestError("m", 400), (False, False, False)),
    (errors.BadRequestError("m", 413), (False, False, False)),
    (errors.BadRequestError("m", 422), (False, False, False)),
    (errors.UnsupportedParameterError("m", 400), (False, False, False)),
    (errors.ContentPolicyError("m", 400), (False, False, False)),
    (errors.ContextLengthError("m", 400), (True, False, False)),
    (errors.BadRequestError("m", 404), (True, True, True)),
    (errors.BadRequestError("m", 408), (True, True, False)),
    (errors.BadRequestError("m", 409), (True, True, False)),
    (errors.BadRequestError("m", 425), (True, True, False)),
    (errors.AuthenticationError("m", 401), (True, True, True)),
    (errors.PermissionDeniedError("m", 403), (True, True, True)),
    (errors.ModelNotFoundError("m", 404), (True, True, True)),
    (errors.QuotaError("m", 429), (True, True, True)),
    (errors.RateLimitError("m", 429), (True, True, False)),
    (errors.ServerError("m", 501), (True, True, False)),
    (errors.OverloadedError("m", 503), (True, True, False)),
    (errors.MalformedResponseError("m", 200), (True, True, False)),
    (errors.ResponseError("m", 302), (True, True, False)),
    (errors.ConnectError("m"), (True, True, False)),
    (errors.TLSError("m"), (True, True, False)),
    (errors.RequestTimeoutError("m", phase="first_byte"), (True, True, False)),
    (errors.StreamTruncatedError("m"), (True, True, False)),
    (errors.ToolError("m"), (False, False, False)),
    (GptError("the call was cancelled"), (False, False, False)),
]


@pytest.mark.parametrize(("error", "expected"), ERRORS, ids=lambda value: type(value).__name__)
def test_rule(error: GptError, expected: tuple[bool, bool, bool]) -> None:
    """Each error has its rule, and the flow keeps to it."""
    rule = rule_for(error)
    assert expected == (rule.moves_on, rule.rests, rule.warns)
    call = Call(2)
    assert Ask(0, None) == call.start()
    if not rule.moves_on:
        with pytest.raises(type(error)) as caught:
            call.answer(error)
        assert (error, ()) == (caught.value, caught.value.elsewhere)
    else:
        assert Ask(1, None) == call.answer(error)
        assert [(0, f"{type(error).__name__}: m", rule.warns)] == call.told
    assert ([1], [0]) == call.rests.order(call.now) if rule.rests else ([0, 1], []) == call.rests.order(call.now)


def test_all_rules_are_met() -> None:
    """Every error of the tree has a case above, but those that no backend raises; and every rule is used by one."""
    tested = {type(error) for error, _ in ERRORS}
    tree = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, GptError)}
    assert {cls for cls in tree - tested if not issubclass(cls, errors.ParseError)} <= {
        errors.TransportError,
        getattr(errors, "ReplayError", GptError),
    }
    assert set(RULES) == {rule_for(error) for error, _ in ERRORS}


def test_first() -> None:
    """The first entry that answers is the answer."""
    call = Call()
    call.start()
    fell = call.answer("hi")
    assert ("hi", ["a"], ()) == (fell.answer, [entry.entry for entry in fell.entries], fell.attempts)
    info = fell.info(ResponseInfo(201, elapsed=1.0))
    assert (201, 1.0, ()) == (info.status, info.elapsed, info.attempts)


def test_facts() -> None:
    """The answer's facts tell what came of each entry, with all attempts and the time of the whole call."""
    call = Call()
    down = errors.ServerError("down", 500)
    down.attempts = (AttemptInfo(500, "x", 0.4), AttemptInfo(500, "y", 0.5, 0.1))
    call.start()
    assert Ask(1, None) == call.answer(down)
    assert Ask(2, None) == call.answer(errors.ConnectError("no"))
    fell = call.answer("hi")
    assert isinstance(fell, Fell)
    told = [("a", "ServerError: down", 1.0), ("b", "ConnectError: no", 1.0), ("c", "ok", 1.0)]
    assert told == [(entry.entry, entry.reason, entry.elapsed) for entry in fell.entries]
    for own, last in ((None, AttemptInfo(None, "ok", 1.0)), (ResponseInfo(elapsed=0.7), AttemptInfo(None, "ok", 0.7))):
        info = fell.info(own)
        assert (*down.attempts, AttemptInfo(None, "ConnectError: no", 1.0), last) == info.attempts
        assert 2.0 + last.elapsed == info.elapsed
        assert fell.entries == info.entries
    mine = (AttemptInfo(200, "ok", 0.3),)
    assert mine == fell.info(ResponseInfo(attempts=mine)).attempts[-1:]


def test_hosts() -> None:
    """Each entry's facts say who it is, of those left out too; of one that is a Fallback that is who answered there."""
    rests = Rests(3, 10.0)
    rests.failed(0, 0.0, errors.ConnectError("no"))
    call: Any = falling("abc", rests, lambda: 1.0, hosts=["a.test", None, "local:"])
    assert Ask(1, None) == next(call)
    assert Ask(2, None) == call.throw(errors.ConnectError("no"))
    with pytest.raises(StopIteration) as done:
        call.send("hi")
    fell: Fell[str] = done.value.value
    assert [("a", "a.test"), ("b", None), ("c", "local:")] == [(one.entry, one.host) for one in fell.entries]
    inner = (EntryInfo("x", "ServerError: down", 1.0, "x.test"), EntryInfo("y", "ok", 1.0, "y.test"))
    outer = fell.info(ResponseInfo(entries=inner)).entries
    assert ["a.test", None, "y.test"] == [one.host for one in outer]
    assert [None] == [one.host for one in Call(1).only("hi").entries]


def test_all_fail() -> None:
    """Where all fail the last error is raised, the others attached to it and told in its notes; all of it pickles."""
    call = Call()
    first, second, last = errors.ConnectError("no"), DOWN, errors.AuthenticationError("key", 401)
    call.start()
    call.answer(first)
    call.answer(second)
    with pytest.raises(errors.AuthenticationError) as caught:
        call.answer(last)
    assert last is caught.value
    assert (("a", first), ("b", second)) == caught.value.elsewhere
    assert ["Asked too: a: ConnectError: no; b: ServerError: down"] == last.__notes__
    twin = pickle.loads(pickle.dumps(last))
    assert [("a", "no"), ("b", "down")] == [(name, error.message) for name, error in twin.elsewhere]
    assert last.__notes__ == twin.__notes__
    again = Call()
    again.start()
    again.answer(first)
    again.answer(second)
    with pytest.raises(errors.AuthenticationError):
        again.answer(last)
    assert 1 == len(last.__notes__)


def test_callers_mistake_later() -> None:
    """The caller's mistake stands whichever entry sees it, with those before attached; nobody is asked after."""
    call = Call()
    call.start()
    call.answer(DOWN)
    with pytest.raises(errors.BadRequestError) as caught:
        call.answer(errors.BadRequestError("bad", 400))
    assert (("a", DOWN),) == caught.value.elsewhere


CONTEXTS: list[tuple[list[int | None], int | None]] = [
    ([128, 4, 8], 128),
    ([4, 128, 8], 128),
    ([4, 8, 128], 128),
    ([None, 8, None], 8),
]


@pytest.mark.parametrize(("limits", "expected"), CONTEXTS)
def test_context(limits: list[int | None], expected: int | None) -> None:
    """Where no context is large enough, the error is that of the largest."""
    call = Call()
    call.start()
    told = [errors.ContextLengthError("long", 400, limit=limit) for limit in limits]
    call.answer(told[0])
    call.answer(told[1])
    with pytest.raises(errors.ContextLengthError) as caught:
        call.answer(told[2])
    assert expected == caught.value.limit
    assert 2 == len(caught.value.elsewhere)


def test_context_and_another() -> None:
    """The last error stands where it is of another kind."""
    call = Call(2)
    call.start()
    call.answer(errors.ContextLengthError("long", 400))
    with pytest.raises(errors.ServerError):
        call.answer(DOWN)


def test_deadline() -> None:
    """The deadline holds for all entries together; when it is over no further one is asked."""
    call = Call(deadline=2.0)
    assert Ask(0, 2.0) == call.start()
    assert Ask(1, 1.0) == call.answer(DOWN)
    with pytest.raises(errors.ConnectError) as caught:
        call.answer(errors.ConnectError("no"))
    assert (("a", DOWN),) == caught.value.elsewhere


def test_rest() -> None:
    """An entry that failed is left out until its rest is over, and is then tried by one call alone; an answer ends its rest."""
    first = Call()
    first.start()
    first.answer(DOWN)
    first.answer("hi")

    second = Call(rests=first.rests, now=5.0)
    assert Ask(1, None) == second.start()
    entries = second.answer("hi").entries
    assert [("a", LEFT_OUT, 0.0), ("b", "ok", 1.0)] == [(one.entry, one.reason, one.elapsed) for one in entries]

    third = Call(rests=first.rests, now=11.0)
    assert Ask(0, None) == third.start()
    fourth = Call(rests=first.rests, now=11.5)
    assert Ask(1, None) == fourth.start()
    third.answer("hi")
    assert Ask(0, None) == Call(rests=first.rests, now=12.5).start()


def test_resting_entries_are_the_last_way() -> None:
    """Entries that rest are asked after all others, so that no call fails which one of them could answer."""
    rests = Rests(3, 10.0)
    rests.failed(0, 0.0, DOWN)
    rests.failed(1, 0.0, DOWN)
    call = Call(rests=rests, now=1.0)
    assert Ask(2, None) == call.start()
    assert Ask(0, None) == call.answer(DOWN)
    entries = call.answer("hi").entries
    assert [("b", LEFT_OUT), ("c", "ServerError: down"), ("a", "ok")] == [(one.entry, one.reason) for one in entries]
    assert ([0], [1, 2]) == rests.order(3.0)


@pytest.mark.parametrize(
    ("cool_down", "error", "until"),
    [
        (10.0, DOWN, 10.0),
        (10.0, errors.ConnectError("no"), 10.0),
        (10.0, errors.RateLimitError("m", 429, retry_after=60.0), 60.0),
        (10.0, errors.RateLimitError("m", 429, retry_after=1.0), 10.0),
        (0.0, DOWN, 0.0),
    ],
)
def test_how_long(cool_down: float, error: GptError, until: float) -> None:
    """It rests for the cool-down, or as long as the server asked for, if that is longer."""
    rests = Rests(1, cool_down)
    rests.failed(0, 0.0, error)
    assert ([0], []) == rests.order(until)
    if until:
        assert ([], [0]) == rests.order(until - 0.1)


def test_nobody_is_told() -> None:
    """Nobody need be told."""
    flow: Any = falling("ab", Rests(2, 10.0), lambda: 0.0)
    next(flow)
    assert Ask(1, None) == flow.throw(DOWN)
