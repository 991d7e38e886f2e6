"""Hints from the api to the workers: sent beside the request, bounded where they arrive."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from app import hint
from app.api import submission
from app.api.models import AssessmentRequest
from app.assessments.submit import Accepted
from app.hint import HintListener, HintSender
from app.settings import HintSettings
from tests.fix_stack import poll

from .conftest import StandInDatabase

HERE = HintSettings(host="127.0.0.1", port=0)


class Heard:
    """A listener and how often it passed a hint on."""

    def __init__(self) -> None:
        self.count = 0
        self.listener = HintListener(HERE, self._hear)
        self.listener.start()

    def _hear(self) -> None:
        self.count += 1


@pytest.fixture
def heard() -> Iterator[Heard]:
    found = Heard()
    yield found
    found.listener.close()


@pytest.fixture
def sender(heard: Heard) -> Iterator[HintSender]:
    found = HintSender(HintSettings(host="127.0.0.1", port=heard.listener.port))
    found.start()
    yield found
    found.close()


def test_a_hint_arrives(heard: Heard, sender: HintSender) -> None:
    sender.send()
    poll(lambda: heard.count == 1, seconds=10, what="it arrives", every=0.005)


def test_every_address_behind_the_name_is_sent_to(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [Heard(), Heard()]
    entries = [(None, None, None, "", ("127.0.0.1", one.listener.port)) for one in both]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    sender = HintSender(HERE)
    sender.start()
    sender.send()
    poll(lambda: [one.count for one in both] == [1, 1], seconds=10, what="both hear", every=0.005)
    sender.close()
    for one in both:
        one.listener.close()


def test_a_flood_is_passed_on_as_one_hint_and_what_the_kernel_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hint, "HINT_SECONDS", 60.0)
    heard = Heard()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        for _ in range(10_000):
            flood.sendto(b"", ("127.0.0.1", heard.listener.port))
        poll(lambda: heard.count, seconds=10, what="one is heard", every=0.005)
    heard.listener.close()
    assert heard.count == 1


def test_the_kernel_keeps_few_hints_for_a_listener_that_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = Heard()
    heard.listener._socket.setblocking(False)
    blocked = threading.Event()
    monkeypatch.setattr(heard.listener, "_on_hint", lambda: blocked.wait(10))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        for _ in range(10_000):
            flood.sendto(b"", ("127.0.0.1", heard.listener.port))
    kept = 0
    with suppress(BlockingIOError):
        while kept < 100:
            heard.listener._socket.recv(1)
            kept += 1
    assert kept < 20
    heard.listener._socket.setblocking(True)
    blocked.set()
    heard.listener.close()


def _reached(found: list[str], count: int) -> bool:
    return len(found) >= count


def test_an_unknown_name_is_logged_once_and_asked_for_in_the_background(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def unknown(host: str, *_: Any, **__: Any) -> Any:
        asked.append(threading.current_thread().name)
        raise socket.gaierror(socket.EAI_NONAME, f"{host} is not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(hint, "ADDRESSES_SECONDS", 0.0)
    sender = HintSender(HintSettings(host="worker-hints", port=9001))
    with capture_logs() as logs:
        sender.start()
        for count in range(1, 4):
            sender.send()
            poll(partial(_reached, asked, count), seconds=10, what="asked", every=0.005)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
        sender.send()
        poll(lambda: len(logs) == 2, seconds=10, what="the end is logged", every=0.005)
        sender.close()
    assert set(asked) == {"hints"}
    assert [one["log_level"] for one in logs] == ["warning", "info"]


def test_an_answer_that_is_kept_is_no_end_of_the_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    sender = HintSender(HERE, clock=lambda: 0.0)
    with capture_logs() as logs, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        for _ in range(3):
            sender._note(sender._send(end))
    assert [one["log_level"] for one in logs] == ["warning"]


def test_addresses_are_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    asked: list[str] = []

    def none(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", none)
    sender = HintSender(HERE, clock=lambda: now)
    sender._look_up()
    sender._look_up()
    assert len(asked) == 1
    now += hint.ADDRESSES_SECONDS
    sender._look_up()
    assert len(asked) == 2


def test_a_port_that_is_taken_leaves_the_worker_polling(heard: Heard) -> None:
    second = HintListener(HintSettings(host="127.0.0.1", port=heard.listener.port), lambda: None)
    with capture_logs() as logs:
        second.start()
    second.close()
    assert [one["log_level"] for one in logs] == ["warning"]


@pytest.mark.parametrize("new", [True, False])
def test_the_workers_are_told_of_a_new_assessment_and_not_of_a_repeat(
    client: TestClient,
    database: StandInDatabase,
    body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    new: bool,
) -> None:
    sent: list[bool] = []
    monkeypatch.setattr(client.app.state.services.hints, "send", lambda: sent.append(True))  # type: ignore[attr-defined]
    stored = submission._submission(AssessmentRequest.model_validate(body), None)
    accepted = Accepted(stored.assessment_id, "queued", 2, stored.request_hash)
    database.answers["submit"] = lambda: accepted if not sent else pytest.fail("before the commit")
    if new:
        monkeypatch.setattr(uuid, "uuid4", lambda: stored.assessment_id)
    assert client.post(submission.PATH, json=body).status_code == 202
    assert sent == [True] * new
