"""Errors of data that cannot be used."""

from vitlab.errors import InputError


class DataError(InputError):
    """The data on disk, or a setting about them, cannot be used as given.

    Args:
        message: see `InputError`.
        field: setting or file at fault; by default the folder of the dataset.
    """

    def __init__(self, message: str, *, field: str = "data.root"):
        super().__init__(message, field=field)


class MissingFolderError(DataError):
    """A folder that a split needs is not there."""
