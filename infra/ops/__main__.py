"""Run the operator commands: `python -m infra.ops`."""

from infra.ops.cli import create_app

if __name__ == "__main__":
    create_app()(prog_name="ops")
