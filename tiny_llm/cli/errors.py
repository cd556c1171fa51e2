"""The two ways in which a command can be refused, each one line for the user."""


class UsageError(Exception):
    """The command line is wrong, whatever the files hold: exit code 2."""


class UserError(Exception):
    """Anything else that the user can mend: exit code 1."""
