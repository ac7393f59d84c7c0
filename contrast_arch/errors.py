"""The error whose message is meant for the user as it stands."""

import sys
from collections.abc import Callable


class InputError(Exception):
    """Something the user gave cannot be used; the message says what, what is expected and how to mend it."""


def exit_code(call: Callable, *args) -> int:
    """Call, and say on stderr what the user gave that cannot be used.

    Returns:
        What the call returns, 0 for None, or 1 after an :class:`InputError`.
    """
    try:
        return call(*args) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
