"""The certificate of the control plane, taken anew when its files change."""

import os
import ssl

from app.log import get_logger
from app.settings import ControlSettings

log = get_logger("app.control")
Stamp = tuple[tuple[int, int], ...]


class Certificate:
    """A TLS context that follows its files, so that a renewal needs no reload.

    An operator who has the new CA could not reach a process that shows the old
    certificate, and so could not reload it either.
    """

    def __init__(self, settings: ControlSettings) -> None:
        """Load the pair; raise OSError (ssl.SSLError included) when it cannot be used."""
        self._files = (settings.certificate_file, settings.key_file)
        self._seen = self._stamp()
        self.context = self._loaded()

    def refresh(self) -> None:
        """Load the pair again if it changed; one that cannot be used is left for later."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            # First on the side: a pair that does not match would spoil the context in use.
            self._loaded()
            self.context.load_cert_chain(*self._files)
        except OSError as error:
            log.warning("control certificate not taken yet", reason=str(error))
            return
        self._seen = stamp
        log.info("control certificate renewed")

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(*self._files)
        return context

    def _stamp(self) -> Stamp:
        found = (os.stat(path) for path in self._files)
        return tuple((status.st_ino, status.st_mtime_ns) for status in found)
