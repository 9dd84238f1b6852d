"""The report of `vitlab analyze`: figures of all results on one page."""

from vitlab.analysis.report.page import HTML, Picture, write_report
from vitlab.analysis.report.summary import headline

__all__ = ["HTML", "Picture", "headline", "write_report"]
