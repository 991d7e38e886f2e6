"""The phases' names, as results and pages have them."""

IDLE = "batch idle"
# The pool's promise is about connections. Processors are shared on purpose: the third phase
# is reported, not judged.
JUDGED = "batch connections taken"
COMPUTING = "workers computing"
