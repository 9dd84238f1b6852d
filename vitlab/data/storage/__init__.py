"""Files of a dataset: folders and archives as one tree."""

from vitlab.data.storage.archive_tree import ArchiveTree, unpack_in_memory
from vitlab.data.storage.file_tree import (
    IMAGE_ENDINGS,
    FileTree,
    FolderTree,
    Listing,
    MemoryTree,
    OverlayTree,
    few,
    ranges,
)
from vitlab.data.storage.layout import Layout, OfficialArchive, around
