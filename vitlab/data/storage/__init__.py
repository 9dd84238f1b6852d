"""Files of a dataset: folders and archives as one tree."""

from vitlab.data.storage.archives import ArchiveTree
from vitlab.data.storage.files import FileTree, FolderTree, Listing, OverlayTree
from vitlab.data.storage.layout import (
    IMAGE_ENDINGS,
    Distributed,
    Found,
    Layout,
    absent,
    around,
    few,
    image_names,
    list_class_folders,
    ranges,
    require_all,
    subclasses,
    subfolders,
    text,
)

__all__ = [
    "IMAGE_ENDINGS",
    "ArchiveTree",
    "Distributed",
    "FileTree",
    "FolderTree",
    "Found",
    "Layout",
    "Listing",
    "OverlayTree",
    "absent",
    "around",
    "few",
    "image_names",
    "list_class_folders",
    "ranges",
    "require_all",
    "subclasses",
    "subfolders",
    "text",
]
