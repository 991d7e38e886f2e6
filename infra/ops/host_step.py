"""Steps that only the host can do: no container has the Docker socket.

A command prints one line, the script that runs it on the host does the step, and the
command sees by itself that it is done: nothing is sent back.
"""

MARK = "host:"


def ask_host(step: str, *arguments: str) -> None:
    """Ask the script on the host for a step, by name."""
    print(" ".join((MARK, step, *arguments)), flush=True)  # noqa: T201  # the script reads it
