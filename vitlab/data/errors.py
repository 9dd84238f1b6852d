"""Errors of data that cannot be used."""

from vitlab.errors import InputError


class DataError(InputError):
    """The data on disk, or a setting about them, cannot be used as given."""


class MissingFolderError(DataError):
    """A folder that a split needs is not there."""
