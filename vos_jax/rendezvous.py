"""The meeting of a run's processes before JAX joins them.

JAX ends a process that waits in vain, or whose id is taken, without an error that can be caught.
Process 0 listens at the address; every other process says its number there and waits for the word to start.
"""

import json
import logging
import socket
import time

from vos_jax import errors

log = logging.getLogger(__name__)

MAX_BYTES = 4096
"""Longest message."""

_RETRY_SECONDS = 0.2
_HELLO = "vos_jax"


def meet(address: str, count: int, index: int, timeout_seconds: float) -> None:
    """Returns when all processes have met, which are then to join at the same address.

    Args:
      address: machine:port of process 0.
      count: number of processes.
      index: this process's number, from 0.
      timeout_seconds: time to wait for the others.

    Raises:
      VosError: another process has this number or another count, processes are missing after the timeout, or
        the address cannot be used.
    """
    host, port = parse_address(address)
    deadline = time.monotonic() + timeout_seconds
    if index:
        _follow(host, port, count, index, deadline, timeout_seconds)
    else:
        _lead(host, port, count, deadline, timeout_seconds)


def parse_address(address: str) -> tuple[str, int]:
    """Returns machine and port of "machine:port"; VosError for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise errors.VosError(f"coordinator_address is {address!r}; it must be machine:port")
    return host.strip("[]"), int(port)


def _lead(host: str, port: int, count: int, deadline: float, timeout_seconds: float) -> None:
    """Collects the other processes and tells them to start."""
    if (answer := _ask(host, port, {"index": 0, "count": count})) is not None:
        raise errors.VosError(
            answer.get("error")
            or f"{host}:{port} is in use: process_id 0 is taken already, or another program listens there; "
            "give each process its own --process-id, from 0, or name another port with --coordinator"
        )
    members: dict[int, socket.socket] = {}
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server(("", port), family=family) as server:
            _say_waiting(count - 1, host, port, timeout_seconds)
            while len(members) < count - 1:
                server.settimeout(max(0.01, min(0.5, deadline - time.monotonic())))
                try:
                    _admit(server.accept()[0], members, count, host, port)
                except TimeoutError:
                    pass
                _drop_ended(members)
                if time.monotonic() > deadline:
                    missing = sorted(set(range(1, count)) - set(members))
                    raise errors.VosError(
                        f"waited {timeout_seconds:g} s at {host}:{port} for process {_listed(missing)} of "
                        f"{count}, which never came; start it with the same --coordinator, or wait longer "
                        "with --join-timeout"
                    )
    except OSError as error:
        raise errors.VosError(
            f"process 0 cannot listen at {host}:{port} ({error.strerror or error}); name another port of "
            "this machine with --coordinator"
        ) from error
    finally:
        complete = len(members) == count - 1
        for member in members.values():
            with member:
                _send(member, {"start": True} if complete else {"error": "process 0 has given up"})


def _admit(member: socket.socket, members: dict[int, socket.socket], count: int, host: str, port: int):
    """Takes a process in, or tells it why not."""
    member.settimeout(2.0)
    hello = _receive(member)
    if hello.get("hello") != _HELLO:
        member.close()
        return
    index, theirs = hello.get("index"), hello.get("count")
    error = None
    if theirs != count:
        error = f"num_processes is {theirs} here and {count} in process 0 at {host}:{port}"
    elif index == 0 or index in members:
        error = _is_taken(index, host, port)
    if error is not None or not isinstance(index, int):
        with member:
            _send(member, {"error": error})
        return
    members[index] = member


def _drop_ended(members: dict[int, socket.socket]) -> None:
    """Forgets processes that have ended while they waited."""
    for index, member in list(members.items()):
        member.setblocking(False)
        try:
            if member.recv(1, socket.MSG_PEEK) == b"":
                members.pop(index).close()
        except BlockingIOError:
            pass
        except OSError:
            members.pop(index).close()


def _follow(host: str, port: int, count: int, index: int, deadline: float, timeout_seconds: float) -> None:
    """Waits for process 0's word to start."""
    hello = {"index": index, "count": count}
    log.warning(
        "process %d of %d: waiting for process 0 at %s:%d, for up to %g s",
        index,
        count,
        host,
        port,
        timeout_seconds,
    )
    while True:
        answer = _ask(host, port, hello, wait_until=deadline)
        if answer and answer.get("start"):
            return
        if answer and answer.get("error"):
            raise errors.VosError(str(answer["error"]))
        if time.monotonic() > deadline:
            raise errors.VosError(
                f"waited {timeout_seconds:g} s for process 0 at {host}:{port}, which never answered; start "
                "it there, check the address, or wait longer with --join-timeout"
            )
        time.sleep(_RETRY_SECONDS)


def _ask(host: str, port: int, hello: dict, wait_until: float = 0.0) -> dict | None:
    """Returns process 0's answer; {} if it gives none; None if nobody listens."""
    try:
        with socket.create_connection((host, port), timeout=2.0) as member:
            _send(member, {"hello": _HELLO, **hello})
            member.settimeout(max(2.0, wait_until - time.monotonic()))
            return _receive(member)
    except OSError:
        return None


def _send(member: socket.socket, message: dict) -> None:
    try:
        member.setblocking(True)
        member.settimeout(2.0)
        member.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # it has ended


def _receive(member: socket.socket) -> dict:
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) < MAX_BYTES:
            part = member.recv(MAX_BYTES)
            if not part:
                return {}
            data += part
        message = json.loads(data)
    except (OSError, ValueError):
        return {}
    return message if isinstance(message, dict) else {}


def _say_waiting(others: int, host: str, port: int, timeout_seconds: float) -> None:
    noun = "process" if others == 1 else "processes"
    log.warning("waiting for %d other %s at %s:%d, for up to %g s", others, noun, host, port, timeout_seconds)


def _is_taken(index: object, host: str, port: int) -> str:
    return (
        f"process_id {index} is taken already by another process at {host}:{port}; give each process its own "
        "--process-id, from 0"
    )


def _listed(numbers: list[int], most: int = 6) -> str:
    return ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")
