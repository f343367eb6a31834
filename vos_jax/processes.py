"""The processes of a run on one or several machines: joining, barriers, partition of the work."""

import contextlib
import dataclasses
import logging
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import jax
from jax._src import xla_bridge  # nothing public tells whether devices are in use

from vos_jax import errors, rendezvous

Item = TypeVar("Item")

log = logging.getLogger(__name__)

# A week: longer than any process needs for its share of a large data set. No process may end before all are
# done, because JAX treats a process that ends minutes before the others as failed.
BARRIER_SECONDS = 7 * 24 * 3600

TELL_SECONDS = 30
"""A process says so when it has waited that long for the others."""

JOIN_SECONDS = 300
"""Time to wait for the other processes at the start."""


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, from the view of one of them.

    Attributes:
      index: this process's number, from 0; process 0 is the leader.
      count: number of processes.
    """

    index: int = 0
    count: int = 1

    @property
    def is_leader(self) -> bool:
        """True in the process that merges the results."""
        return self.index == 0

    def partition(self, items: Sequence[Item], cost: Callable[[Item], float]) -> list[Item]:
        """Returns this process's share of the items, in their given order.

        Items are assigned by falling cost, each to the process with the lowest total. The result depends on
        the arguments alone, so the processes need not communicate.

        Args:
          items: the same sequence in every process.
          cost: of an item, in any unit.
        """
        shares: list[list[int]] = [[] for _ in range(self.count)]
        load = [0.0] * self.count
        for index in sorted(range(len(items)), key=lambda i: (-cost(items[i]), i)):
            least = load.index(min(load))
            shares[least].append(index)
            load[least] += cost(items[index])
        return [items[index] for index in sorted(shares[self.index])]

    def barrier(self, name: str) -> None:
        """Waits until all processes have reached the barrier `name`.

        Raises:
          VosError: a process ended before it.
        """
        if self.count == 1:
            return
        from orbax.checkpoint import multihost  # here, because the import takes seconds

        told = threading.Timer(TELL_SECONDS, log.warning, [f"waiting for the other processes ({name})"])
        told.daemon = True
        told.start()
        try:
            multihost.get_barrier_sync_fn()(key=f"vos_jax {name}", timeout_ms=1000 * BARRIER_SECONDS)
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0]
            raise errors.VosError(
                f"another process has ended before it was done ({reason}); see its output, then run the same "
                "commands again to continue"
            ) from error
        finally:
            told.cancel()

    @contextlib.contextmanager
    def leader_first(self, name: str) -> Iterator[None]:
        """Runs the block in the leader, then in the other processes."""
        if not self.is_leader:
            self.barrier(name)
        try:
            yield
        finally:
            if self.is_leader:
                self.barrier(name)

    @contextlib.contextmanager
    def together(self, name: str) -> Iterator[None]:
        """Leaves the block only after all processes have reached its end or failed in it."""
        try:
            yield
        except Exception:
            self.barrier(name)
            raise
        self.barrier(name)


def join(
    address: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    detect: bool = False,
    timeout_seconds: int | None = None,
) -> ProcessGroup:
    """Joins the other processes of a run; call it before JAX touches a device.

    A data worker that a training process spawned joins no process, and neither does a process with `count` 1.

    Args:
      address: machine:port of process 0.
      count: number of processes.
      index: this process's number, from 0.
      detect: without the other arguments, detect a cluster: SLURM (`srun`), Open MPI, GKE, Cloud TPU slices.
      timeout_seconds: time to wait for the other processes; None: JOIN_SECONDS.

    Returns:
      The group; a group of one if there are no other processes.

    Raises:
      VosError: incomplete arguments, devices that are already in use, a number that is taken, or processes
        that do not come.
    """
    if timeout_seconds is not None and timeout_seconds < 1:
        raise errors.VosError(f"--join-timeout {timeout_seconds}: at least 1 second")
    timeout_seconds = JOIN_SECONDS if timeout_seconds is None else timeout_seconds
    explicit = {"coordinator_address": address, "num_processes": count, "process_id": index}
    missing = [name for name, value in explicit.items() if value is None]
    if len(missing) == len(explicit) and not detect:
        return ProcessGroup()
    if multiprocessing.parent_process() is not None:
        # A data worker imports the program again, but must not join in place of its parent.
        return ProcessGroup()
    if jax.distributed.is_initialized():
        return ProcessGroup(jax.process_index(), jax.process_count())
    if count == 1 and index in (None, 0):
        return ProcessGroup()
    if len(missing) not in (0, len(explicit)):
        raise errors.VosError(
            f"several processes need all of {', '.join(explicit)}; missing: {', '.join(missing)}"
        )
    if address is not None and count is not None and index is not None:
        if count < 1 or not 0 <= index < count:
            raise errors.VosError(f"process_id is {index} of {count} processes; they count from 0")
        rendezvous.parse_address(address)
        if xla_bridge.backends_are_initialized():
            raise _in_use()
        rendezvous.meet(address, count, index, timeout_seconds)
    try:
        jax.distributed.initialize(**explicit, initialization_timeout=timeout_seconds)
    except ValueError as error:
        if missing and "coordinator_address" in str(error):
            return ProcessGroup()  # no cluster here
        raise errors.VosError(f"cannot join the other processes: {_first_line(error)}") from error
    except RuntimeError as error:
        if "must be called before" in str(error):
            raise _in_use() from error
        raise errors.VosError(f"cannot join the other processes: {_first_line(error)}") from error
    group = ProcessGroup(jax.process_index(), jax.process_count())
    log.info("process %d of %d", group.index, group.count)
    return group


def check_finished(unfinished: Sequence[str]) -> None:
    """Raises VosError if some videos have no result after all processes have ended."""
    if unfinished:
        raise errors.VosError(
            f"another process did not finish {', '.join(unfinished)}; see its output, then run the same "
            "commands again to continue"
        )


def _in_use() -> errors.VosError:
    return errors.VosError(
        "JAX already uses this program's devices, so it can no longer join other processes: start a new "
        "program, or give --num-processes 1 for a single process"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
