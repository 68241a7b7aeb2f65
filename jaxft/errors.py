"""The exceptions that a person is meant to read, and exit codes, by which a launcher knows what to do."""

from typing import ClassVar

INTERNAL, USER, MEMORY, NOT_FINITE = 1, 2, 3, 4  # to start again would end the same
LOST = 75  # another process of the run is gone; to start again may help, as after 143 (SIGTERM)


class UserError(Exception):
    """Something outside the program is wrong: a file, an option, a network, a checkpoint.

    The message is one sentence (or one list) that says what was found, what was expected and what to do. Commands print
    it and exit with `code`, without a traceback.
    """

    code: ClassVar[int] = USER


class NotFiniteError(UserError):
    """A loss or gradient was not finite."""

    code = NOT_FINITE


class LostError(UserError):
    """Another process of the run is gone."""

    code = LOST


class MemoryExhaustedError(UserError):
    """A device has too little memory."""

    code = MEMORY
