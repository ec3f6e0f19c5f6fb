"""The one exception for what a user can put right."""


class UserError(Exception):
    """A user's mistake or a missing resource; the message is a sentence that says what to do next.

    Command lines print it to stderr and exit with 2; the app shows it. Anything else is a bug and keeps its traceback.
    """
