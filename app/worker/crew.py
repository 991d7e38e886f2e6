"""The worker's threads as a whole, and the server that reports their health."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import psycopg
from anyio import to_thread
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette

from app.database import Database, open_or_warn
from app.hint import HintListener
from app.log import describe, get_logger
from app.metrics import WorkMetrics
from app.pool import DatabaseUnavailable, Deadline
from app.server import Health
from app.settings import Live, WorkerSettings, WorkSettings
from app.worker.batch import BatchRunner
from app.worker.idle import Idle
from app.worker.loop import CALL_SECONDS, Shared, WorkLoop

RELEASE_SECONDS = 3.0
CLOSE_SECONDS = 5.0
# A turn is a sweep, a claim, a batch and its end; each call has its own deadline.
CALLS_PER_TURN = 5
log = get_logger("app.worker")


class Crew:
    """Threads that work until stopped; `on_crash` is called when one dies of a bug."""

    def __init__(
        self,
        database: Database,
        live: Live[WorkerSettings],
        metrics: WorkMetrics,
        on_crash: Callable[[], None],
    ) -> None:
        self._database = database
        self._live = live
        self._on_crash = on_crash
        self._stop = threading.Event()
        runner = BatchRunner(database, live, metrics)
        self._idle = Idle(lambda: self._settings, CALL_SECONDS)
        self._hints = HintListener(live.current.hints, self._idle.call)
        shared = Shared(database, live, metrics, runner, self._stop, self._idle)
        host = f"{socket.gethostname()}:{os.getpid()}"
        self._loops = [WorkLoop(shared, f"{host}:{n}") for n in range(self._settings.threads)]
        # Daemons, so that one stuck in a call cannot keep a stopped process alive.
        self._threads = [
            threading.Thread(target=self._run, args=(loop,), name=f"work-{n}", daemon=True)
            for n, loop in enumerate(self._loops)
        ]
        self.crashed = False

    @property
    def _settings(self) -> WorkSettings:
        return self._live.current.worker

    def start(self) -> None:
        """Open the pool and start every thread; the database may come later."""
        open_or_warn(self._database)
        for thread in self._threads:
            thread.start()
        self._hints.start()
        log.info("working", threads=len(self._threads))

    def stop_claiming(self) -> None:
        """Let no thread claim another batch; returns at once."""
        self._stop.set()
        self._idle.stop()

    def shut_down(self) -> None:
        """Wait for batches in hand, give back what did not end in time, close the pool."""
        self.stop_claiming()
        self._hints.close()
        deadline = Deadline.after(self._settings.shutdown_grace_seconds)
        for thread in self._threads:
            thread.join(deadline.remaining())
        release_by = Deadline.after(deadline.remaining() + RELEASE_SECONDS)
        for loop in self._loops:
            # What a bug of ours had in hand may be what brings it out: that uses up an attempt.
            if not loop.crashed:
                self._give_back(loop, release_by)
        self._database.close(CLOSE_SECONDS)
        log.info("worker stopped", crashed=self.crashed)

    def fault(self) -> str | None:
        """Return why the crew is not fit for work, None when it is."""
        if self._stop.is_set():
            return "the worker is stopping"
        dead = [thread.name for thread in self._threads if not thread.is_alive()]
        if dead:
            return f"threads not running: {', '.join(dead)}"
        limit = self._settings.batch_deadline_seconds + CALLS_PER_TURN * CALL_SECONDS
        age = time.monotonic() - min(loop.last_turn_at for loop in self._loops)
        if age > limit:
            return f"a thread has been in one turn for {age:.0f} s, more than {limit:.0f} s"
        return None

    def _run(self, loop: WorkLoop) -> None:
        try:
            loop.run()
        except BaseException:
            log.exception("worker thread died")
            self.crashed = loop.crashed = True
            self.stop_claiming()
            self._on_crash()

    def _give_back(self, loop: WorkLoop, deadline: Deadline) -> None:
        try:
            loop.give_back(deadline)
        except (DatabaseUnavailable, psycopg.Error) as error:
            reason = error.reason if isinstance(error, DatabaseUnavailable) else describe(error)
            log.warning("leases not given back; they will run out", reason=reason)


def create_status_app(crew: Crew, database: Database, registry: CollectorRegistry) -> Starlette:
    """Build the server of health and metrics; its lifespan starts the crew and shuts it down."""
    health = Health(database, partial(generate_latest, registry), crew.fault)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await to_thread.run_sync(crew.start)
        try:
            yield
        finally:
            await to_thread.run_sync(crew.shut_down)

    return health.pages(lifespan)
