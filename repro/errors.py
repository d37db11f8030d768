"""Errors that are the user's to mend: one sentence, shown without a traceback."""


class UserError(Exception):
    """Bad input. The message names the thing, the place and the mend."""


def out_of_memory(error: Exception) -> bool:
    """Whether it says that the memory, of the machine or of a GPU, is full: torch's own error is known by its
    name, as what needs no torch loads none."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


class RunFailed(UserError):
    """Training went wrong in a way that is a result of the method (a non-finite loss): the run becomes a
    failed row with this sentence as its reason."""
