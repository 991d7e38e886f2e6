"""Mixed load on the api: bounded in threads and time, with every request on record.

One kind of request is drawn per step, in stated proportions; each submission carries an
idempotency key of its own, so that afterwards every acknowledged write can be looked for.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import urllib3

from tests.fix_api import ASSESSMENTS, SEOUL, assessment_body

# The client's own patience: past the service's deadline, so that a late answer is seen late.
CLIENT_TIMEOUT_SECONDS = 20.0
KINDS = {"submit": 4, "status": 4, "results": 2}


@dataclass(frozen=True, slots=True)
class Sample:
    """One request as its caller saw it; ``status`` 0 means that no answer came."""

    kind: str
    started: float
    seconds: float
    status: int
    key: str = ""
    error: str = ""
    retry_after: str = ""
    body: str = ""

    @property
    def ended(self) -> float:
        """Return the monotonic time at which the caller had its answer."""
        return self.started + self.seconds


@dataclass
class Load:
    """``threads`` callers in a closed loop until the block ends, plus one health prober."""

    url: str
    threads: int = 8
    pause_seconds: float = 0.02
    seconds_max: float = 300.0
    kinds: dict[str, int] = field(default_factory=lambda: dict(KINDS))
    samples: list[Sample] = field(default_factory=list)
    # When this process did not run, and for how long: (monotonic seconds, seconds).
    stalls: list[tuple[float, float]] = field(default_factory=list)
    # When the callers were told to stop, in monotonic seconds.
    ended: float = 0.0
    _waiting: dict[int, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _known: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: list[threading.Thread] = field(default_factory=list)
    _run: str = field(default_factory=lambda: f"load-{time.time_ns()}")
    _numbers: Any = field(default_factory=itertools.count)

    def __enter__(self) -> Self:
        """Start the callers."""
        self._http = urllib3.PoolManager(
            maxsize=self.threads + 2, retries=False, timeout=CLIENT_TIMEOUT_SECONDS
        )
        self._deadline = time.monotonic() + self.seconds_max
        targets = [self._call_in_a_loop] * self.threads + [self._probe_health, self._watch_clock]
        self._running = [threading.Thread(target=one, daemon=True) for one in targets]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the callers; each has the answer to its last request, or an error, on record."""
        self.ended = time.monotonic()
        self._stop.set()
        for thread in self._running:
            thread.join(CLIENT_TIMEOUT_SECONDS + 10)
        stuck = [thread.name for thread in self._running if thread.is_alive()]
        assert not stuck, f"callers still wait for an answer: {stuck}"
        self._http.clear()

    @property
    def run_prefix(self) -> str:
        """Return what every idempotency key of this load starts with."""
        return self._run

    def of(self, *kinds: str) -> list[Sample]:
        """Return the samples of the kinds, of all but health where none is given."""
        return [one for one in self.samples if one.kind in (kinds or KINDS)]

    def answered_until(self) -> float:
        """Return a moment: every request that began before it is on record with its answer."""
        with self._lock:
            return min(self._waiting.values(), default=time.monotonic())

    def _active(self) -> bool:
        return not self._stop.is_set() and time.monotonic() < self._deadline

    def _call_in_a_loop(self) -> None:
        names, weights = list(self.kinds), list(self.kinds.values())
        while self._active():
            kind = random.choices(names, weights)[0]  # noqa: S311  # a mix, not a secret
            if kind == "submit" or not self._known:
                self._submit()
            else:
                self._read(kind)
            self._stop.wait(self.pause_seconds)

    def _probe_health(self) -> None:
        while self._active():
            self._request("health", "GET", "/health/live")
            self._stop.wait(0.05)

    def _watch_clock(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(0.05):
            now = time.monotonic()
            if (stall := now - last - 0.05) > 0.05:
                self.stalls.append((now, stall))
            last = now

    def _submit(self) -> None:
        key = f"{self._run}-{next(self._numbers)}"
        body = assessment_body(SEOUL, scenarios=["SSP245"], years={"from": 2030, "to": 2034})
        sample = self._request("submit", "POST", ASSESSMENTS, key=key, body=body)
        if sample.status == 202:
            self._known.append(json.loads(sample.body)["assessment_id"])

    def _read(self, kind: str) -> None:
        assessment_id = random.choice(self._known[-50:])  # noqa: S311
        tail = "/results?limit=50" if kind == "results" else ""
        self._request(kind, "GET", f"{ASSESSMENTS}/{assessment_id}{tail}")

    def _request(
        self, kind: str, method: str, path: str, *, key: str = "", body: object = None
    ) -> Sample:
        headers = {"Idempotency-Key": key} if key else {}
        caller = threading.get_ident()
        with self._lock:
            started = time.monotonic()
            if kind in KINDS:
                self._waiting[caller] = started
        status, error, retry_after, text = 0, "", "", ""
        try:
            answer = self._http.request(method, self.url + path, json=body, headers=headers)
            status, retry_after = answer.status, answer.headers.get("Retry-After", "")
            text = answer.data.decode(errors="replace")[:2000]
        except urllib3.exceptions.HTTPError as problem:
            error = repr(problem)
        sample = Sample(
            kind, started, time.monotonic() - started, status, key, error, retry_after, text
        )
        self.samples.append(sample)
        with self._lock:
            self._waiting.pop(caller, None)
        return sample
