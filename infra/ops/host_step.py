"""Steps that only the host can do: no container has the Docker socket.

A command prints one line, the script that runs it on the host does the step, and the
command sees by itself that it is done: nothing is sent back.
"""

import sys

MARK = "host:"


def ask_host(step: str, *arguments: str, as_json: bool = False) -> None:
    """Ask the script on the host for a step, by name.

    Standard output is the script's to read, unless it is kept for a JSON document.
    """
    stream = sys.stderr if as_json else sys.stdout
    print(" ".join((MARK, step, *arguments)), file=stream, flush=True)
