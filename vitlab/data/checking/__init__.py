"""What is wrong with a folder of data, and how to mend it: `vitlab data check`."""

from vitlab.data.checking.check import check
from vitlab.data.checking.report import Finding, Report

__all__ = ["Finding", "Report", "check"]
