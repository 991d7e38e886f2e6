"""`python -m loadtest`: the commands that run inside the load containers."""

from loadtest.cli import create_app

if __name__ == "__main__":
    create_app()()
