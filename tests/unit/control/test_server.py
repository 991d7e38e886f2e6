"""The server in its thread, over TLS, and the operators' client of it."""

import errno
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import connection
from app.control import server
from app.control.process import Process
from app.control.server import ControlServer
from app.settings import ControlSettings, WorkerSettings
from infra.config import issuing
from infra.config.issuing import Pair
from infra.ops.clients.app_control import Control, ControlError, ReloadRefusedError
from infra.ops.clients.processes import Target
from tests.fix_stack import during, poll
from tests.unit.control.conftest import TOKEN, SettingsFile, issue
from tests.unit.infra.support import NOW

Worker = Process[WorkerSettings]
GIVE_UP_SECONDS = 10.0


def wait_for(found: Callable[[], Any]) -> Any:
    return poll(found, seconds=GIVE_UP_SECONDS, what="the server is as wanted", every=0.01)


def client_of(running: ControlServer, directory: Path) -> tuple[Control, Target]:
    """Return the operators' client and the server as its target."""
    host, port = wait_for(lambda: running.address)
    tls = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    one = {"worker": 1}
    client = Control(port, {"worker": host}, one, one, {"worker": TOKEN}, tls)
    wait_for(lambda: answers(client, Target("here", host, host, port)))
    return client, Target("here", host, host, port)


def answers(client: Control, target: Target) -> bool:
    try:
        client.state(target)
    except ControlError as error:
        return "refused" not in str(error)
    return True


def test_the_operators_client_sees_and_changes_the_process(
    process: Worker, control: ControlSettings, file: SettingsFile, tmp_path: Path
) -> None:
    with ControlServer(process, control) as running:
        client, target = client_of(running, tmp_path)
        assert client.service_of(target) == "worker"
        assert client.state(target).pool.max_size == 16
        file.write(pool__max_size=9, http__port=99)
        assert client.state(target).needs_reload == ("pool.max_size",)
        state = client.reload(target)
        assert (state.pool.max_size, state.needs_restart) == (9, ("http.port",))
        assert client.drain(target).settings["pool"]["max_size"] == 9
        file.write(pool__max_size=0)
        with pytest.raises(ReloadRefusedError, match=r"pool\.max_size=0"):
            client.reload(target)


def test_the_client_says_why_it_got_no_answer(
    process: Worker, control: ControlSettings, tmp_path: Path
) -> None:
    with ControlServer(process, control) as running:
        client, target = client_of(running, tmp_path)
        with pytest.raises(ControlError, match="token"):
            replace(client, tokens={"worker": "wrong"}).state(target)
        strange = ssl.create_default_context()
        with pytest.raises(ControlError, match="CERTIFICATE_VERIFY_FAILED"):
            replace(client, tls=strange).state(target)
        other = replace(target, host="elsewhere")
        with pytest.raises(ControlError, match="certificate is not valid for 'elsewhere'"):
            replace(client, aliases={"worker": "elsewhere"}).state(other)
    with pytest.raises(ControlError, match="refused"):
        client.state(target)


def test_plain_http_and_old_tls_are_not_spoken(
    process: Worker, control: ControlSettings, tmp_path: Path
) -> None:
    with ControlServer(process, control) as running:
        client, target = client_of(running, tmp_path)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://{target.address}:{target.port}/control/state", timeout=2)
        client.tls.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ControlError, match="state: "):
            client.state(target)


def test_a_renewed_certificate_is_shown_without_a_reload(
    process: Worker, control: ControlSettings, authority: Pair, tmp_path: Path
) -> None:
    with ControlServer(process, control) as running:
        _, target = client_of(running, tmp_path)
        renewed = issue(authority, control)

        def shown() -> bool:
            pem = ssl.get_server_certificate((target.address, target.port))
            return pem.encode() == renewed.certificate_pem

        wait_for(shown)


def test_half_a_renewal_leaves_the_old_certificate_in_use(
    process: Worker, control: ControlSettings, authority: Pair, tmp_path: Path
) -> None:
    with ControlServer(process, control) as running:
        client, target = client_of(running, tmp_path)
        other = issuing.make_server("localhost", authority, NOW, days=2)
        Path(control.certificate_file).write_bytes(other.certificate_pem)
        for _ in during(2.5 * server.WATCH_SECONDS):
            assert client.state(target).service == "worker"


def test_without_a_certificate_it_waits_for_one(
    process: Worker, control: ControlSettings, authority: Pair, tmp_path: Path
) -> None:
    Path(control.key_file).unlink()
    with ControlServer(process, control) as running:
        time.sleep(0.1)
        assert running.address is None
        issue(authority, control)
        client, target = client_of(running, tmp_path)
        assert client.state(target).service == "worker"


def test_leaving_the_block_stops_it_also_before_it_could_start(
    process: Worker, control: ControlSettings
) -> None:
    Path(control.key_file).unlink()
    started = time.monotonic()
    with ControlServer(process, control):
        pass
    assert time.monotonic() - started < server.STOP_SECONDS


def test_only_an_address_of_this_host_is_bound() -> None:
    with server.bound_socket("127.0.0.1", 0) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"
        assert server.is_still_ours(bound)
    with pytest.raises(OSError, match="names no address of this host") as caught:
        # A documentation address (RFC 5737): nobody's.
        server.bound_socket("192.0.2.1", 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [(b"a: " + b"x" * 64 * 1024, b"431"), (b"a: b\r\n" * 1000, b"431"), (b"a: ", b"408")],
)
def test_its_connections_are_bounded_as_those_of_the_service(
    process: Worker,
    control: ControlSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request_bytes: bytes,
    status: bytes,
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.5)
    with ControlServer(process, control) as running:
        client_of(running, tmp_path)
        assert running.address is not None
        tls = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        with (
            socket.create_connection(running.address, GIVE_UP_SECONDS) as plain,
            tls.wrap_socket(plain, server_hostname="localhost") as encrypted,
        ):
            encrypted.sendall(b"GET /control/state HTTP/1.1\r\n" + request_bytes)
            assert encrypted.recv(100).startswith(b"HTTP/1.1 " + status)
