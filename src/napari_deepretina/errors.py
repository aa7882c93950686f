"""The one exception type whose message is meant for a person."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can mend; the message names the value and the remedy.

    The command line prints it as one line and exits with 2; the widgets show it
    as a notification. Anything else that is raised is a bug of ours.
    """
