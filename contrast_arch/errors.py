"""The error whose message is meant for the user as it stands."""


class InputError(Exception):
    """Something the user gave cannot be used; the message says what, what is expected and how to mend it."""
