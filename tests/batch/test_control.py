"""What a driver and its workers tell each other, through files that may be torn, or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt.batch.control import Alive, Holds, Orders, order, orders, tell, told
from gpt.batch.progress import Tally

from shards import begun, facts, names


def test_ordered(tmp_path: Path) -> None:
    """Workers read what the driver said last."""
    directory = begun(tmp_path / "out")
    assert Orders(None, "", 1.0) == orders(directory)
    for one in (Orders(share=0.25), Orders("finish", "deadline", 0.5), Orders("now", "interrupted")):
        order(directory, one)
        assert one == orders(directory)


@pytest.mark.parametrize("data", [None, b"", b'{"stop": "fin', b"\xff", b'{"stop": 3}', b'{"stop": "\xff"}', "folder"])
def test_orders_not_read(tmp_path: Path, data: bytes | str | None) -> None:
    """Where the orders cannot be read, those of before hold: a limit is not taken for lifted."""
    directory = begun(tmp_path / "out")
    path = Path(directory.path("control.json"))
    if isinstance(data, bytes):
        path.write_bytes(data)
    elif data is not None:
        path.mkdir()
    assert Orders() == orders(directory)
    assert Orders("now", share=0.5) == orders(directory, Orders("now", share=0.5))


def test_told(tmp_path: Path) -> None:
    """The driver reads what workers are doing with the shards that it asks for."""
    directory = begun(tmp_path / "out")
    assert [] == told(directory, range(3))
    tally = Tally()
    tally.add(facts(3))
    for number in (0, 2):
        tell(directory, Alive(number, "process 1", tally.to_dict(), 3, 4, "refused: 429"))
    assert [(Alive(2, "process 1", tally.to_dict(), 3, 4, "refused: 429"), tally)] == told(directory, [1, 2])
    assert [0, 2] == [doing.shard for doing, _ in told(directory, range(3))]
    assert {"00000.alive", "00002.alive"} == names(directory.shards)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'{"shard":',
        b"\xff",
        b'{"shard":0,"worker":"\xff","tally":{}}',
        b"{}",
        b'{"shard":0,"worker":"","tally":{"rows":"x"}}',
    ],
)
def test_told_nothing(tmp_path: Path, data: bytes) -> None:
    """What a worker tells and cannot be read is left out; the others are there."""
    directory = begun(tmp_path / "out")
    Path(directory.of_shard(0, "alive")).write_bytes(data)
    tell(directory, Alive(1, "process 1", {}))
    assert [1] == [doing.shard for doing, _ in told(directory, range(2))]


def test_not_told(tmp_path: Path) -> None:
    """Where it cannot be written, nothing is told, and nothing is left."""
    directory = begun(tmp_path / "out")
    Path(directory.of_shard(0, "alive")).mkdir()
    tell(directory, Alive(0, "process 1", {}))
    assert {"00000.alive"} == names(directory.shards)
    Path(directory.of_shard(0, "alive")).rmdir()
    Path(directory.shards).rmdir()
    tell(directory, Alive(0, "process 1", {}))
    assert [] == told(directory, [0])


def test_holds() -> None:
    """What one worker is asked to wait is told to all once; what comes back from them is no news, a longer wait is."""
    holds = Holds()
    told = [(0.0, 0.0), (1.0, 4.0), (2.0, 30.0), (3.5, 30.0), (4.0, 29.0), (5.0, 28.0), (6.0, 40.0), (7.0, 39.0), (60.0, 6.0)]
    assert [False, False, True, False, False, False, True, False, True] == [holds.told(*one) for one in told]
