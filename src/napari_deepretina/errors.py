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


def in_a_window(message: str) -> str:
    """A message without options of the command line, with a capital at its head."""
    plain = re.sub(r"\s*\(--[^()]*\)", "", message)
    return plain[:1].upper() + plain[1:]
