"""The one exception type whose message is meant for a person."""

from __future__ import annotations

import re


class UserError(ValueError):
    """Something the user can mend; the message names the value and the remedy.

    The command line prints it as one line and exits with 2; the widgets show it
    as a notification. Anything else that is raised is a bug of ours.

    Options of the command line are named only in parentheses, (--overwrite), for windows have none:
    `in_a_window` leaves them out.
    """


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, in the words of Python or of torch."""
    told = str(error).lower()
    says_so = "out of memory" in told or "allocate memory" in told
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and says_so)


def in_a_window(message: str) -> str:
    """A message without options of the command line, with a capital at its head."""
    plain = re.sub(r"\s*\(--[^()]*\)", "", message)
    return plain[:1].upper() + plain[1:]


def printable(text: str) -> str:
    """Text whose control characters, which could move a cursor or forge a line, are shown as escapes.

    Line ends stay.
    """
    plain = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return "".join(plain)


def one_line(text: str, most: int = 600) -> str:
    """A message in one line, without control characters, cut where it is very long."""
    line = printable(" ".join(text.split("\n")))
    return line if len(line) <= most else f"{line[: most - 1]}…"
