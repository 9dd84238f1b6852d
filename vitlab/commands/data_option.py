"""The options --data CLASS and --data.root DIR of verbs that read a dataset."""

from collections.abc import Sequence
from pathlib import Path

from vitlab.data.check import recognize


def with_data_class(words: Sequence[str], option: str = "--data") -> list[str]:
    """Return a command line with the class of a dataset in front of its root, recognized if absent.

    Args:
        words: of the command line; `--data.root DIR` and `--data.root=DIR` are the root.
        option: of the class.

    Raises:
        DataError: the class is left out and the folder is not recognized.
    """
    words = list(words)
    names = [word.partition("=")[0] for word in words]
    if f"{option}.root" not in names or f"{option}.class_path" in names:
        return words
    index = names.index(f"{option}.root")
    if option in names:
        at = names.index(option)
        if at > index:  # a class is read before its arguments
            count = 1 if "=" in words[at] else 2
            moved = words[at : at + count]
            del words[at : at + count]
            words[index:index] = moved
        return words
    _, equals, root = words[index].partition("=")
    root = root if equals else "".join(words[index + 1 : index + 2])
    words[index:index] = [option, type(recognize(Path(root))).__name__]
    return words
