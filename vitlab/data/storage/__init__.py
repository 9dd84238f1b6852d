"""Files of a dataset: folders and archives as one tree."""

from vitlab.data.storage.archive_tree import ArchiveTree, unpack_in_memory
from vitlab.data.storage.file_tree import FileTree, FolderTree, Listing, MemoryTree, OverlayTree
from vitlab.data.storage.layout import (
    IMAGE_ENDINGS,
    Layout,
    OfficialArchive,
    absent,
    around,
    few,
    image_names,
    ranges,
    subclasses,
    subfolders,
    text,
)
