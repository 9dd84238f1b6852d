"""Errors of input that cannot be used."""


class InputError(ValueError):
    """A setting, argument or file of the user cannot be used as given.

    Args:
        message: the value given, the values allowed, and the remedy.
        field: option, config key, argument or file at fault, such as "optimizer.lr", "--weights" or
            "classes.json". Keyword only, so that a loading process can raise the error again from
            its message alone.
    """

    def __init__(self, message: str, *, field: str = ""):
        super().__init__(message)
        self.field = field
