"""The site models that threads share, so that a site's inputs are read once."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from app.risk import SiteModel

CELLS_MAX = 256
# Loading new reference data must show without a restart.
AGE_MAX_SECONDS = 60.0


class SiteModels:
    """A small least-recently-used cache of site models by cell; safe for threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._models: OrderedDict[int, tuple[float, SiteModel]] = OrderedDict()

    def get(self, cell_id: int, load: Callable[[], SiteModel]) -> SiteModel:
        """Return the cell's model; `load` makes it when there is none, or an old one.

        Loading happens outside the lock: two threads may both load, neither waits.
        """
        found = self._fresh(cell_id)
        if found is not None:
            return found
        model = load()
        with self._lock:
            self._models[cell_id] = (self._clock() + AGE_MAX_SECONDS, model)
            self._models.move_to_end(cell_id)
            while len(self._models) > CELLS_MAX:
                self._models.popitem(last=False)
        return model

    def _fresh(self, cell_id: int) -> SiteModel | None:
        with self._lock:
            entry = self._models.get(cell_id)
            if entry is None or entry[0] < self._clock():
                return None
            self._models.move_to_end(cell_id)
            return entry[1]
