"""Several processes that share one results folder: who leads, who does what, and waiting for each other."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import jax

from vos_jax import errors
from vos_jax.inference import spread
from vos_jax.train import distributed

Item = TypeVar("Item")

# The longest part of a large data set takes less than so long. Nobody may leave before all are done: JAX
# takes a process that ends minutes before the others for a failure.
PATIENCE_SECONDS = 7 * 24 * 3600


@dataclasses.dataclass(frozen=True)
class Group:
    """The processes of a run, and which of them this one is; the first one leads."""

    index: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that puts the results together."""
        return self.index == 0

    def share(self, items: Sequence[Item], cost: Callable[[Item], float]) -> list[Item]:
        """This process's part of items that all processes list alike; the order stays."""
        return spread.share(items, cost, self.count)[self.index]

    def wait(self, name: str) -> None:
        """Returns when all processes have come to the place `name`.

        Raises:
          VosError: one of them has ended before.
        """
        if self.count == 1:
            return
        from orbax.checkpoint import multihost  # seconds to import, and only needed here

        try:
            multihost.get_barrier_sync_fn()(key=f"vos_jax {name}", timeout_ms=1000 * PATIENCE_SECONDS)
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0]
            raise errors.VosError(
                f"another process has ended before it was done ({reason}); what it printed says why, and the "
                "same commands go on"
            ) from error

    @contextlib.contextmanager
    def leader_first(self, name: str) -> Iterator[None]:
        """The leader goes through the block before the others begin it."""
        if not self.leads:
            self.wait(name)
        try:
            yield
        finally:
            if self.leads:
                self.wait(name)

    @contextlib.contextmanager
    def together(self, name: str) -> Iterator[None]:
        """Nobody leaves the block before all have come to its end, or have failed in it."""
        try:
            yield
        except Exception:
            self.wait(name)
            raise
        self.wait(name)


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Group:
    """Joins the others where all three are given; before JAX touches a device.

    Args:
      coordinator: machine:port of process 0.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      VosError: only some are given, or the others are out of reach.
    """
    if coordinator is None and num_processes is None and process_id is None:
        return Group()
    if not distributed.initialise(coordinator, num_processes, process_id):
        return Group()
    return Group(jax.process_index(), jax.process_count())


def check(unfinished: Sequence[str]) -> None:
    """Raises VosError where some videos have no result after all have come to the end."""
    if unfinished:
        raise errors.VosError(
            f"another process did not finish {', '.join(unfinished)}; what it printed says why, and the same "
            "commands go on"
        )
