"""What `doctor` prints: findings, the worst first, in eighty columns, or one JSON document."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Final

from infra.config.faults import FaultyInputError
from infra.ops.doctor.findings import Diagnosis, Finding
from infra.ops.outcome import Exit, Outcome, plain_console, print_document, report

WIDTH: Final = 80
# Of each rule, and of what was not judged; the document has all of them.
_LINES: Final = 20


def show(examine: Callable[[], Diagnosis], *, as_json: bool) -> int:
    """Run an examination and print what it found; return its exit code, 2 for a faulty input."""
    try:
        made = examine()
    except FaultyInputError as faulty:
        faults = [str(fault) for fault in faulty.faults]
        return report(Outcome(Exit.BAD_INPUT, faults), as_json=as_json)
    if as_json:
        print_document(made.as_dict())
    else:
        console = plain_console()
        for line in lines(made):
            console.print(line)
    return made.exit_code


def lines(made: Diagnosis) -> Iterator[str]:
    """Yield the lines for a reader, the summary last: the line nearest to the prompt."""
    for (severity, rule), group in groupby(
        made.ordered(), key=lambda one: (one.severity, one.rule)
    ):
        yield f"{severity}: {rule}"
        for (meaning, remedy), same in groupby(group, key=lambda one: (one.meaning, one.remedy)):
            yield from _indented(meaning)
            places = list(same)
            for one in places[:_LINES]:
                yield from _place(one)
            if len(places) > _LINES:
                yield f"  {len(places) - _LINES} more, see JSON=yes"
            yield from _indented(f"Do: {remedy}")
        yield ""
    for skipped in made.not_judged[:_LINES]:
        yield from _indented(f"{skipped.what}: {skipped.reason}", first="not judged: ")
    if (more := len(made.not_judged) - _LINES) > 0:
        yield f"not judged: {more} more, see JSON=yes"
    yield _summary(made)


def _place(one: Finding) -> Iterator[str]:
    line = f"  {one.place}  {one.evidence}"
    if len(line) <= WIDTH:
        yield line
    else:
        yield f"  {one.place}"
        yield from _indented(one.evidence, first="    ", others="    ")


def _indented(text: str, *, first: str = "  ", others: str = "  ") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        # Names of files and objects stay whole, so that they can be searched for.
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary(made: Diagnosis) -> str:
    counts = made.counts()
    found = ", ".join(f"{number} {severity}" for severity, number in counts.items())
    judged = ", ".join(f"{number} {kind}" for kind, number in made.judged.items())
    return f"{found}; judged: {judged or 'nothing'}; not judged: {len(made.not_judged)}"
