"""Shards worked on by a Ray cluster: one task a shard. The only file that imports ray. Blocks: the driver waits here.

Ray is used for what it is best at, to have a function run on some machine. What was done is in the journal of the shard, on a
disk that all machines share, so that nothing is lost with a worker, a machine or the driver; a task that dies is begun again by
us. Tasks are given out as others end, no more at a time than there are workers, so that each may have its share of the limits.

Ray reports how it is used to its makers unless told not to. Here it is told not to, unless RAY_USAGE_STATS_ENABLED is set.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from gpt.batch.directory import JobDirectory
from gpt.batch.processes import GRACE, Look, Shards, in_a_line, portable, see_portable
from gpt.batch.work import Running, Work
from gpt.errors import GptError, InvalidRequestError
from gpt.protocol.wire import Seconds

CPUS = 0.5
"""Of a processor, that a task asks for: it waits for a service most of the time."""

PATIENCE: Seconds = 600.0
"""For a cluster that has no machine large enough for a task: it may be just getting one."""

_RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
"""What Ray calls the resources that options of a task ask for."""


class Ray:
    """The Ray cluster that this process is connected to, that `address` or RAY_ADDRESS names, else one of this machine alone.

    At most `workers` shards are worked on at a time; None: as many as there is room for. `options` are those of a Ray task, as
    num_cpus, num_gpus, resources, runtime_env. A connection that was made here is closed at the end of a run. Raises
    InvalidRequestError, and GptError where the cluster cannot be reached.
    """

    def __init__(self, workers: int | None = None, *, address: str | None = None, **options: Any) -> None:
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise InvalidRequestError(f"workers: expected an int from 1, got {workers!r}", param="workers")
        self._address = address
        self._options = {"num_cpus": CPUS, "max_retries": 0} | options
        self._workers = workers
        self._ours = self._alone = False
        """Whether the connection was made here, and a cluster of this machine alone for it."""

    def __repr__(self) -> str:
        return f"Ray({self._workers})"

    @property
    def workers(self) -> int:
        """Shards that are worked on at a time, at most."""
        return self._workers or max(1, self._room(self._connected()))

    def _room(self, ray: Any) -> int:
        """How many tasks the cluster has room for now, if nobody else uses it."""
        needs = {_RESOURCES[name]: float(self._options[name] or 0) for name in _RESOURCES if name in self._options}
        needs |= self._options.get("resources") or {}
        return sum(room_of(node["Resources"], needs) for node in ray.nodes() if node["Alive"])

    def _connected(self) -> Any:
        """The module, when it is connected to a cluster."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise InvalidRequestError(
                'executor: "ray" needs ray: pip install "gpt-in-the-box[ray]"', param="executor"
            ) from error
        if not ray.is_initialized():
            address = self._address or os.environ.get("RAY_ADDRESS") or "local"
            local: dict[str, Any] = {"num_cpus": max(self._workers or 0, os.cpu_count() or 1), "include_dashboard": False}
            try:
                ray.init(
                    address=address, log_to_driver=False, logging_level=logging.ERROR, **(local if address == "local" else {})
                )
            except (OSError, RuntimeError, ValueError) as error:
                told = in_a_line(error)
                if address == "local":
                    raise GptError(f"executor: a Ray cluster of this machine alone could not be started ({told})") from error
                raise GptError(
                    f"executor: the Ray cluster at {address} cannot be reached ({told}); is it there, and does it want a token "
                    "(RAY_AUTH_MODE=token)?"
                ) from error
            self._ours, self._alone = True, address == "local"
            _hush(quiet=True)
        return ray

    def close(self) -> None:
        """Close the connection, and with it a cluster of this machine alone, if it was made here."""
        if self._ours:
            import ray

            self._ours = self._alone = False
            ray.shutdown()
            _hush(quiet=False)

    def run(self, work: Work, shards: Iterable[int], look: Look) -> None:
        """Have these shards worked on; see `Executor`."""
        try:
            self._run(self._connected(), work, shards, look)
        finally:
            self.close()

    def _run(self, ray: Any, work: Work, numbers: Iterable[int], look: Look) -> None:
        see_portable(work, ray.cloudpickle.dumps)
        directory = JobDirectory(work.where)
        directory.load()
        shards = Shards(numbers, directory, look)
        try:
            task = ray.remote(**self._options)(work_on)
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(
                f"executor: an option that a Ray task does not have: {error}", param="executor"
            ) from error
        given = ray.put(work)
        running: dict[Any, int] = {}
        waits_until = monotonic() + (0.0 if self._alone else PATIENCE)
        kill_at: Seconds | None = None
        room = self._room(ray)
        # The share of each is known before it starts; those that there is no room for have none.
        shards.look((), min(len(shards), self._workers or room, room) or 1)
        try:
            while running or (len(shards) and not shards.stopping):
                while len(running) < (self._workers or max(1, room)) and (number := shards.give()) is not None:
                    running[task.remote(given, number)] = number
                shards.look(running.values(), min(len(running), room) or 1)
                for one in ray.wait(list(running), timeout=shards.wait())[0]:
                    self._ended(ray, shards, one, running.pop(one))
                room = self._room(ray)
                if not room and monotonic() >= waits_until:
                    shards.fail(self._too_small(ray))
                    self._cancel(ray, running)
                if shards.orders.stop == "now":
                    kill_at = kill_at or monotonic() + GRACE
                    if monotonic() >= kill_at:
                        self._cancel(ray, running)
        finally:
            self._cancel(ray, running)  # only where something broke here
        shards.look((), 0, last=True)
        if shards.error is not None:
            raise shards.error

    @staticmethod
    def _ended(ray: Any, shards: Shards, one: Any, number: int) -> None:
        """A task has ended: well, or it died."""
        try:
            came = ray.get(one)
        except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
            # It never came to `work_on`: each would fail so.
            made = GptError(f"a task failed on the cluster: {str(error).strip().splitlines()[-1]}")
            made.__cause__ = error
            shards.fail(made)
            shards.lost([number], "")
        except ray.exceptions.RayError as error:
            shards.lost([number], f"with {in_a_line(error)}")
        else:
            if came is not None:
                shards.fail(came)
            shards.lost([number], "without a word")

    @staticmethod
    def _cancel(ray: Any, running: Iterable[Any]) -> None:
        for one in running:
            with suppress(ray.exceptions.RayError):
                ray.cancel(one, force=True)

    def _too_small(self, ray: Any) -> GptError:
        asked = {name: value for name, value in self._options.items() if name in (*_RESOURCES, "resources")}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        there = [{name: amount for name, amount in node.items() if ":" not in name} for node in nodes]
        return GptError(
            f"executor: no machine of the Ray cluster has room for a task, which asks for {asked}; there are {there}. Ask for "
            "less, as in Ray(num_cpus=0.5), or for a larger cluster"
        )


def _hush(*, quiet: bool) -> None:
    """Keep Ray from printing on stdout what its machines say, that a worker died for one, or let it.

    It does so whatever `log_to_driver` is (`listen_error_messages` in ray/_private/worker.py, release 2.60), where output of
    ours may be; by this switch its own debugger keeps it quiet (`ray/util/rpdb.py`).
    """
    from ray._private import worker

    if hasattr(worker, "_worker_logs_enabled"):
        worker._worker_logs_enabled = not quiet


def room_of(there: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many tasks a machine has room for; one that asks for nothing counts as one of a processor."""
    asked = {name: amount for name, amount in needs.items() if amount} or {"CPU": 1.0}
    return min(int(there.get(name, 0.0) / amount + 1e-9) for name, amount in asked.items())


def work_on(work: Work, number: int) -> GptError | None:
    """Work on one shard. Gives what stopped it, since Ray would wrap what is raised."""
    numbers = iter((number,))

    async def next_shard() -> int | None:
        return next(numbers, None)

    try:
        asyncio.run(Running(work).run(next_shard, follows=True))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a caller's own function may raise anything
        return portable(error)
    return None
