"""Which connection a request takes."""

from __future__ import annotations

from gpt.protocol.wire import Origin
from gpt.remote.http.pool import Pool

A, B = Origin("http", "a", 80), Origin("http", "b", 80)


def test_last_in_first_out() -> None:
    """The connection used last is taken first, and only by its own origin."""
    pool: Pool[str] = Pool(10, 60.0)
    assert [] == pool.put(A, "1", 0.0) + pool.put(A, "2", 1.0) + pool.put(B, "3", 2.0)
    assert len(pool) == 3
    assert ["2", "1", None, "3", None] == [pool.take(A), pool.take(A), pool.take(A), pool.take(B), pool.take(B)]


def test_too_many() -> None:
    """Beyond the limit the oldest is handed back."""
    pool: Pool[str] = Pool(2, 60.0)
    assert [[], [], ["1"], ["2"]] == [pool.put(A, name, 0.0) for name in "1234"]
    assert len(pool) == 2


def test_too_old() -> None:
    """Those that have stood too long are handed back."""
    pool: Pool[str] = Pool(10, 60.0)
    pool.put(A, "1", 0.0)
    pool.put(A, "2", 30.0)
    assert ["1"] == pool.put(A, "3", 60.0)
    assert ["2", "3"] == pool.put(A, "4", 120.0)


def test_clear() -> None:
    """Clearing hands back all."""
    pool: Pool[str] = Pool(10, 60.0)
    pool.put(A, "1", 0.0)
    pool.put(B, "2", 0.0)
    assert ["1", "2"] == pool.clear()
    assert [] == pool.clear()


def test_places() -> None:
    """A pool has room for so many connections; the oldest idle one makes place for another origin's."""
    pool: Pool[str] = Pool(9, 60.0, 2)
    other = B
    for place in "ab":
        assert pool.has_room
        pool.places.add(place)
    assert not pool.has_room
    assert pool.take_oldest() is None
    pool.put(other, "b", 2.0)
    pool.put(A, "a", 1.0)
    assert "a" == pool.take_oldest()
    pool.places.discard("a")
    pool.places.discard("a")
    assert pool.has_room
    assert "b" == pool.take_oldest()
