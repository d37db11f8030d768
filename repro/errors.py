"""Errors that are the user's to mend: one sentence, shown without a traceback."""


class UserError(Exception):
    """Bad input. The message names the thing, the place and the mend."""


class RunFailed(UserError):
    """Training went wrong in a way that is a result of the method (a non-finite loss): the run becomes a
    failed row with this sentence as its reason."""
