"""Exit codes of the operator commands."""

from typing import Final

OK: Final = 0
# A process differs from what was asked, did not answer, or a step failed.
FAILED: Final = 1
# The env file or the arguments are at fault; nothing was changed.
BAD_INPUT: Final = 2
# Another operation is under way, or a precondition is not met; nothing was changed.
REFUSED: Final = 3
# Done as far as it can be done live; the rest needs containers restarted or recreated.
NEEDS_RESTART: Final = 4
