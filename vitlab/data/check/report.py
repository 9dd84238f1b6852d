"""What a check found."""

from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console
from rich.markup import escape

COLORS = {"error": "red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing about a dataset.

    Attributes:
        severity: an "error" makes scores wrong or stops a run; a "warning" may be meant so; a
            "note" needs no action.
        text: what is the matter, where, and what to do.
        files: all files concerned, where the text does not name them.
    """

    severity: Literal["error", "warning", "note"]
    text: str
    files: tuple[str, ...] = ()


def error(text: str, files: tuple[str, ...] = ()) -> Finding:
    """Something that must be mended."""
    return Finding("error", text, files)


def warning(text: str, files: tuple[str, ...] = ()) -> Finding:
    """Something that may be meant so."""
    return Finding("warning", text, files)


def note(text: str) -> Finding:
    """Something that needs no action."""
    return Finding("note", text)


@dataclass
class CheckReport:
    """The outcome of a check.

    Attributes:
        dataset: its name and variant, "" if it was not recognized.
        place: where it lies.
        splits: what each split holds, in words.
        findings: errors and warnings, in the order of their discovery.
    """

    dataset: str = ""
    place: str = ""
    splits: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """The findings that must be mended."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def show(self) -> None:
        """Print the report."""
        console = Console(soft_wrap=True, highlight=False)
        if self.dataset:
            console.print(f"[bold]{escape(self.dataset)}[/bold] in {escape(self.place)}")
        for split, text in self.splits.items():
            console.print(f"  {split:<9} {escape(text)}")
        for finding in self.findings:
            color = COLORS[finding.severity]
            console.print(f"[{color}]{finding.severity}[/{color}]: {escape(finding.text)}")
            for file in finding.files:
                console.print(f"    {escape(file)}")
        warnings = [finding for finding in self.findings if finding.severity == "warning"]
        console.print(f"{_count(len(self.errors), 'error')}, {_count(len(warnings), 'warning')}")


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
