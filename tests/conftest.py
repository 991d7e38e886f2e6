"""Fixture plug-ins: one per resource the tests use."""

import signal

from hypothesis import HealthCheck, settings

# A shell starts what runs in the background with SIGINT ignored, and so would every process
# that a test starts to end it by that signal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says something about the machine, not about the property.
settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared machine")

pytest_plugins = [
    "tests.fix_stack",
    "tests.fix_api",
    "tests.fix_sql",
    "tests.fix_probe",
    "tests.fix_control",
    "tests.fix_faults",
    "tests.fix_ops",
    "tests.fix_host",
    "tests.fix_secrets",
    "tests.fix_clients",
    "tests.fix_observability",
    "tests.fix_console",
]
