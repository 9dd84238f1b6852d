"""The report of `vitlab analyze`: figures of all that was found, on one page."""

from vitlab.analysis.report.page import FIGURES, HTML, Picture, write_report

__all__ = ["FIGURES", "HTML", "Picture", "write_report"]
