"""One program on many machines: joining the others before JAX touches a device."""

import logging
import multiprocessing

import jax

from vos_jax.errors import VosError

log = logging.getLogger(__name__)


def initialise(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_seconds: int = 300,
) -> bool:
    """Joins the other processes of a run; call it before anything of JAX that touches a device.

    Without arguments the cluster is detected: SLURM (`srun`), Open MPI, GKE and Cloud TPU slices; where there
    is none, or in a data worker that a training process spawned, nothing happens. Elsewhere name the machine
    and port of process 0, how many processes there are, and which of them this one is. `num_processes` 1
    joins nobody and looks for nobody.

    Returns:
      whether this process is one of several.

    Raises:
      VosError: incomplete arguments, devices that are in use already, or a coordinator out of reach.
    """
    if multiprocessing.parent_process() is not None:
        # A data worker imports the program again; it must not take its parent's place.
        return False
    if jax.distributed.is_initialized():
        return jax.process_count() > 1
    explicit = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    if num_processes == 1 and process_id in (None, 0):
        return False
    missing = [name for name, value in explicit.items() if value is None]
    if len(missing) not in (0, len(explicit)):
        raise VosError(f"several processes need all of {', '.join(explicit)}; missing: {', '.join(missing)}")
    if coordinator_address is not None and num_processes is not None and process_id is not None:
        if num_processes < 1 or not 0 <= process_id < num_processes:
            raise VosError(f"process_id is {process_id} of {num_processes} processes; they count from 0")
        if ":" not in coordinator_address:
            raise VosError(f"coordinator_address is {coordinator_address!r}; it must be machine:port")
    try:
        jax.distributed.initialize(**explicit, initialization_timeout=timeout_seconds)
    except ValueError as error:
        if missing and "coordinator_address" in str(error):
            return False  # No cluster here.
        raise VosError(f"cannot join the other processes: {_first_line(error)}") from error
    except RuntimeError as error:
        if "must be called before" in str(error):
            raise VosError(
                "JAX uses this program's devices already, so it can no longer look for other processes: "
                "start it in a program of its own, or say --num_processes 1 for this one alone"
            ) from error
        raise VosError(f"cannot join the other processes: {_first_line(error)}") from error
    log.info("process %d of %d", jax.process_index(), jax.process_count())
    return jax.process_count() > 1


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
