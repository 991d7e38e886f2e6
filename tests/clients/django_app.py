"""Django: a thread for each worker, whose requests ask their connection before they use it.

Its project is made by startproject, with the settings of guestbook/ and the models beside this.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import django
from ledger import WORKERS, Ledger

PROJECT = "/project"


def work(worker: int, ledger: Ledger) -> None:
    """Do transactions and reads, as requests do."""
    from django.apps import apps
    from django.core.signals import request_finished, request_started
    from django.db import connection, models, transaction

    @contextmanager
    def request() -> Iterator[None]:
        request_started.send(sender=None, environ={})
        try:
            yield
        finally:
            request_finished.send(sender=None)

    entry, total = (apps.get_model("guestbook", name) for name in ("Entry", "Total"))
    while ledger.goes_on():
        with ledger.attempt(worker) as attempt:
            with request(), transaction.atomic():
                entry.objects.create(worker=worker, number=attempt.number)
                total.objects.filter(worker=worker).update(entries=models.F("entries") + 1)
                attempt.phase = "commit"
            attempt.phase = "read"
            with request():
                entries = total.objects.get(worker=worker).entries
            ledger.check(attempt, entries)
        time.sleep(ledger.pause())
    connection.close()


def main() -> None:
    """Run until told to stop. Where to connect is in libpq's variables."""
    sys.path.insert(0, PROJECT)
    os.environ["DJANGO_SETTINGS_MODULE"] = "guestbook.settings"
    django.setup()
    ledger = Ledger()
    threads = [threading.Thread(target=work, args=(worker, ledger)) for worker in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.show()


if __name__ == "__main__":
    main()
