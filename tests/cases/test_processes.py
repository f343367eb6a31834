"""Cases B31 and B32: processes that never come, or come twice. Each says whom it waits for, and gives up."""

import contextlib
import json
import logging
import socket
import threading
import time

import pytest

from vos_jax import errors, processes, rendezvous


@pytest.fixture
def address():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    return f"localhost:{port}"


class Member(threading.Thread):
    """A process of the meeting, in a thread; `error` is what it raised."""

    def __init__(self, *arguments):
        super().__init__(daemon=True)
        self.arguments, self.error, self.seconds = arguments, "", 0.0
        self.start()

    def run(self):
        start = time.monotonic()
        try:
            rendezvous.meet(*self.arguments)
        except errors.VosError as error:
            self.error = str(error)
        self.seconds = time.monotonic() - start

    def wait(self):
        self.join(20)
        assert not self.is_alive()
        return self.error


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_processes_meet_in_any_order(address, order):
    members = []
    for index in order:
        members.append(Member(address, 3, index, 15))
        time.sleep(0.2)
    assert [member.wait() for member in members] == [""] * 3


def test_b31_a_process_that_never_comes_is_named(address, caplog):
    with caplog.at_level(logging.WARNING):
        member = Member(address, 3, 0, 2)
        other = Member(address, 3, 2, 15)
        assert "waited 2 s" in member.wait() and "process 1 of 3" in member.error
        assert "process 0 has given up" in other.wait()
    assert member.seconds < 10
    assert f"waiting for 2 other processes at {address}" in caplog.text
    assert f"process 2 of 3: waiting for process 0 at {address}" in caplog.text


def test_b31_process_0_never_comes(address):
    member = Member(address, 2, 1, 1)
    assert (
        f"process 0 at {address}, which never answered" in member.wait() and "--join-timeout" in member.error
    )


def test_b31_a_process_that_ended_while_it_waited_is_missing(address):
    member = Member(address, 3, 0, 3)
    host, port = address.split(":")
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port))) as ended:
            ended.sendall(json.dumps({"hello": "vos_jax", "index": 1, "count": 3}).encode() + b"\n")
            time.sleep(0.3)
            break
    assert "process 1, 2 of 3" in member.wait()


@pytest.mark.parametrize("index", [0, 1])
def test_b32_an_id_that_is_taken_is_refused_in_the_second_process_only(address, index):
    leader = Member(address, 3, 0, 15)
    time.sleep(0.3)
    first = Member(address, 3, 1, 15)
    time.sleep(0.3)
    second = Member(address, 3, index, 15)
    assert f"process_id {index} is taken already" in second.wait() and second.seconds < 5
    last = Member(address, 3, 2, 15)
    assert [member.wait() for member in (leader, first, last)] == [""] * 3


def test_b32_another_number_of_processes_is_refused(address):
    leader = Member(address, 2, 0, 15)
    time.sleep(0.3)
    assert "num_processes is 3 here and 2" in Member(address, 3, 1, 15).wait()
    assert Member(address, 2, 1, 15).wait() == "" and leader.wait() == ""


def test_b32_a_port_of_another_program_is_named(address):
    host, port = address.split(":")
    with socket.create_server((host, int(port))):
        assert f"{address} is in use" in Member(address, 2, 0, 5).wait()


def test_strangers_who_talk_at_the_port_change_nothing(address):
    leader = Member(address, 2, 0, 15)
    time.sleep(0.3)
    host, port = address.split(":")
    for said in (b"", b"GET / HTTP/1.1\r\n\r\n\n", b"{}\n", b"[1]\n", b"\xff\n", b'{"hello": "vos_jax"}\n'):
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(said)
    assert Member(address, 2, 1, 15).wait() == "" and leader.wait() == ""


@pytest.mark.parametrize("text", ["host", "host:", "host:x", ":1", "host:0", "host:70000"])
def test_an_address_is_machine_and_port(text):
    with pytest.raises(errors.VosError, match="machine:port"):
        processes.join(text, 2, 0)
    with pytest.raises(errors.VosError, match="--join-timeout 0"):
        processes.join("host:1", 2, 0, timeout_seconds=0)
