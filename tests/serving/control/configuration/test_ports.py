from __future__ import annotations

import os
import socket

import pytest

from serving.control.configuration.config import Listener
from serving.control.configuration.ports import check_free, choose_free, is_anothers
from serving.errors import PortInUseError, StartError


def test_chosen_ports_are_free_and_differ() -> None:
    ports = choose_free("127.0.0.1", 5)
    assert len(set(ports)) == 5
    check_free([Listener("x", "127.0.0.1", port) for port in ports])


def test_a_taken_port_is_named_with_its_setting_and_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortInUseError, match=rf"127\.0\.0\.1:{port} \(management_address\)") as caught:
            check_free([Listener("management_address", "127.0.0.1", port)])
    assert f"pid {os.getpid()}" in caught.value.message
    assert "--port auto" in (caught.value.hint or "")


def test_whose_a_port_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert not is_anothers(port, os.getsid(0))
        assert is_anothers(port, os.getpid() + 1)
    assert not is_anothers(port, os.getpid() + 1)  # nobody listens: nobody can tell
    assert not is_anothers(None, os.getpid() + 1)


def test_a_host_of_another_machine_is_named() -> None:
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:9"):
        check_free([Listener("inference_address", "192.0.2.1", 9)])


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(StartError, match=r"no such host: no-such-host\.invalid"):
        check_free([Listener("inference_address", "no-such-host.invalid", 80)])
