"""Recognition of datasets and detection of their faults: `vitlab data check`."""

from vitlab.data.check.check import check
from vitlab.data.check.recognition import recognize
from vitlab.data.check.report import CheckReport, Finding
