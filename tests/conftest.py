"""Fixture plug-ins: one per resource the tests use."""

pytest_plugins = [
    "tests.fix_stack",
    "tests.fix_api",
    "tests.fix_sql",
    "tests.fix_probe",
    "tests.fix_control",
    "tests.fix_faults",
    "tests.fix_ops",
    "tests.fix_host",
]
