"""A TCP proxy that loses one message on purpose."""

import select
import socket
import threading
from enum import StrEnum


class Loss(StrEnum):
    """What the next message from a client leads to."""

    REQUEST = "request"
    """The message is lost, and the connection with it: the server never saw it."""
    REPLY = "reply"
    """The message arrives; its answer is lost, and the connection with it."""


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to `upstream`.

    That is read when a connection comes: a later one may go elsewhere.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.loss: Loss | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that are open end with their peers."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.upstream) as server:
            self._pump(client, server)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        lose_reply = False
        while True:
            ready, _, _ = select.select([client, server], [], [])
            if client in ready:
                if not (data := client.recv(65536)) or self._take(Loss.REQUEST):
                    return
                lose_reply = lose_reply or self._take(Loss.REPLY)
                server.sendall(data)
            if server in ready:
                if not (data := server.recv(65536)) or lose_reply:
                    return
                client.sendall(data)

    def _take(self, loss: Loss) -> bool:
        if self.loss is not loss:
            return False
        self.loss = None
        return True
