"""Stands in for the serving process under the supervisor: behaves as BEHAVIOUR says.

The environment names a file with one behaviour a line; each process takes the line of its
turn, the last one for all that follow. It answers each connection with its number.
"""

import argparse
import contextlib
import os
import select
import signal
import socket
import threading
import time
from pathlib import Path

from app.api import channel


def _turn() -> tuple[int, str]:
    # Several processes may begin at once.
    with Path(os.environ["TURNS"]).open("ab", buffering=0) as counter:
        counter.write(b"x")
        number = counter.tell() - 1
    behaviours = os.environ["BEHAVIOURS"].split(",")
    return number, behaviours[min(number, len(behaviours) - 1)]


def _serve(listener: socket.socket, number: int, answering: threading.Lock) -> None:
    listener.setblocking(False)
    while True:
        select.select([listener], [], [])
        # A connection that this process has taken is answered before it makes way.
        with answering, contextlib.suppress(BlockingIOError):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(str(number).encode())


def _leave_with_supervisor(end: socket.socket) -> None:
    """Wait a moment; end when the supervisor is gone, which a test may have killed."""
    if channel.is_closed(end):
        os._exit(0)
    time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listener", type=int)
    parser.add_argument("--channel", type=int)
    parser.add_argument("--slot", type=int)
    parser.add_argument("--seat", type=int)
    parser.add_argument("--replacement", action="store_true")
    options = parser.parse_args()
    end = socket.socket(fileno=options.channel)
    number, behaviour = _turn()
    shared = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    for kind in ("counter", "gauge_livesum"):
        (shared / f"{kind}_{options.seat}.db").touch()
    (Path(os.environ["TURNS"]).parent / "shared").write_text(str(shared))
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stopped.set())
    if behaviour in ("is slow", "fails late"):
        time.sleep(0.5)
    if behaviour.startswith("fails"):
        channel.send(end, channel.FAILED, "no database")
        raise SystemExit(3)
    while behaviour == "hangs":
        _leave_with_supervisor(end)
    listener = socket.socket(fileno=options.listener)
    listener.listen(16)
    answering = threading.Lock()
    threading.Thread(target=_serve, args=(listener, number, answering), daemon=True).start()
    channel.send(end, channel.READY)
    if behaviour == "asks":
        channel.send(end, channel.RESTART)
        answer = channel.wait(end)
        Path(os.environ["ANSWER"]).write_text(repr(answer))
    if behaviour == "dies":
        time.sleep(0.2)
        os._exit(9)
    while not stopped.is_set():
        for word, how in channel.receive(end):
            if word == channel.RETIRE:
                with (Path(os.environ["TURNS"]).parent / "retired").open("a") as told:
                    told.write(f"{how}\n")
                with answering:
                    os._exit(0)
        _leave_with_supervisor(end)


if __name__ == "__main__":
    main()
