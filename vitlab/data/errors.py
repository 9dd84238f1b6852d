"""What is raised about data that cannot be used."""


class DataError(ValueError):
    """The data on disk, or a setting about them, cannot be used as given.

    The message says what was given, what is allowed, and what to do.
    """


class MissingFolderError(DataError):
    """A folder that a split needs is not there."""
