"""Load tests of the deployed stack: generators, measurements and reports."""
