"""The report of `vitlab analyze`: figures of all results on one page."""

from vitlab.analysis.report.page import FIGURES, HTML, Picture, write_report
from vitlab.analysis.report.summary import headline

__all__ = ["FIGURES", "HTML", "Picture", "headline", "write_report"]
