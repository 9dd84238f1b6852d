"""Findings of a check, with severity, and the printed report."""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

from rich.console import Console
from rich.markup import escape

from vitlab.terminal import printable

COLORS = {"error": "red", "warning": "yellow", "note": "cyan"}


class Finding(NamedTuple):
    """One fact about a dataset that its user should know.

    Attributes:
        severity: an "error" makes scores wrong or stops a run; a "warning" may be intended; a
            "note" needs no action.
        text: the fault, its place and its remedy.
        files: all files concerned, where the text does not name them.
    """

    severity: Literal["error", "warning", "note"]
    text: str
    files: tuple[str, ...] = ()


error = partial(Finding, "error")
warning = partial(Finding, "warning")
note = partial(Finding, "note")


@dataclass
class CheckReport:
    """The outcome of a check.

    Attributes:
        dataset: its name and variant, "" if it was not recognized.
        place: its folder or archive.
        splits: the content of each split, in words.
        findings: errors, warnings and notes, in the order of their discovery.
    """

    dataset: str = ""
    place: str = ""
    splits: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """The findings that must be corrected."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def show(self) -> None:
        """Print the report."""
        console = Console(soft_wrap=True, highlight=False)
        if self.dataset:
            console.print(f"[bold]{escape(self.dataset)}[/bold] in {escape(printable(self.place))}")
        for split, text in self.splits.items():
            console.print(escape(f"  {printable(split):<9} {text}"))
        for severity, text, files in self.findings:
            color = COLORS[severity]
            console.print(f"[{color}]{severity}[/{color}]: {escape(text)}")
            for file in files:
                console.print(escape(f"    {printable(file)}"))
        kinds = [finding.severity for finding in self.findings]
        console.print(f"errors: {kinds.count('error')}, warnings: {kinds.count('warning')}")
