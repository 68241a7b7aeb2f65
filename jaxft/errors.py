"""The one exception that a person is meant to read."""


class UserError(Exception):
    """Something outside the program is wrong: a file, an option, a network, a checkpoint.

    The message is one sentence (or one list) that says what was found, what was expected and what to do. Commands print
    it and exit with code 2, without a traceback.
    """
