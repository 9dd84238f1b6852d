r"""Text to the terminal: names and values of others appear as text, whatever they contain.

`vitlab` writes through `safe_output`: control characters become escapes such as ``\x1b``, letters
that the terminal's encoding lacks become escapes too, and a closed pipe or a full disk behind the
output ends no work. Line breaks are ours, so what others wrote passes `printable` on its way into a
line.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cached_property
from typing import Any


def printable(text: object, keep: str = "") -> str:
    """Return text in one line, with an escape for each character that is not printable.

    Args:
        text: a name, path, value or sentence; bytes of a name that are no UTF-8 become escapes too.
        keep: characters that stay as they are.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode()
        for each in text
    )


def say(text: str = "") -> None:
    """Print one line."""
    print(printable(text))


def complain(text: object, of: str = "vitlab") -> None:
    """Print a message of a command to standard error; further lines are indented."""
    first, *more = printable(text, "\n").rstrip("\n").split("\n")
    lines = [f"{of}: {first}", *(each if each[:1] == " " else f"  {each}" for each in more)]
    print("\n".join(lines), file=sys.stderr, flush=True)


def console(**options: Any) -> Any:
    """Return a console of rich for which all strings are plain text: no markup, no control."""
    from rich.console import Console  # here and below: half of the verbs do without
    from rich.text import Text

    class TextConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text, "\n"), **options)

    stream: Any = sys.stderr if options.get("stderr") else sys.stdout
    for _ in range(2):  # a running bar of rich puts another stream before ours
        stream = getattr(stream, "rich_proxied_file", stream)
    file: Any = stream if isinstance(stream, TextStream) else TextStream(stream, clean=False)
    return TextConsole(file=file, markup=False, emoji=False, highlight=False, **options)


class TextStream:
    """A stream of text that stops at nothing: see the module.

    Args:
        stream: standard output or error; None where the process was started without it.
        clean: whether control characters become escapes; not for what rich writes, which are its
            colors and bars.
    """

    def __init__(self, stream: Any, clean: bool = True):
        self.stream = stream or open(os.devnull, "w")  # noqa: SIM115, for the rest of the process
        self.clean, self.lost = clean, False
        if hasattr(self.stream, "reconfigure") and not self.stream.closed:
            self.stream.reconfigure(errors="backslashreplace", line_buffering=True)

    @cached_property
    def rich_proxied_file(self) -> "TextStream":
        """Where consoles of rich write in place of this stream."""
        return TextStream(self.stream, clean=False) if self.clean else self

    def write(self, text: str) -> int:
        """Write text."""
        if not self.stream.closed:
            try:
                return self.stream.write(printable(text, "\n\t") if self.clean else text)
            except OSError as error:
                self._discard(error)
        return len(text)

    def flush(self) -> None:
        """Hand everything on."""
        if not self.stream.closed:
            try:
                self.stream.flush()
            except OSError as error:
                self._discard(error)

    def _discard(self, error: OSError) -> None:
        """Write to nowhere from here on; say so, unless the reader has had enough (`| head`)."""
        with suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self.stream.fileno())  # what is in its buffer as well
        if error.errno != errno.EPIPE:
            self.lost = True
            complain(f"the rest of the output is lost: {error.strerror}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def safe_output() -> Iterator[None]:
    """Write what is printed within through `TextStream`."""
    if not os.environ.get("COLUMNS", "80").strip("0").isdigit():
        del os.environ["COLUMNS"]  # a width of 0 would show nothing
    out, error = TextStream(sys.stdout), TextStream(sys.stderr)
    with redirect_stdout(out), redirect_stderr(error):
        try:
            yield
        finally:
            out.flush()
            error.flush()
    if out.lost or out.rich_proxied_file.lost:
        sys.exit(1)
