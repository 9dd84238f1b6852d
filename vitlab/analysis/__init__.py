"""Feature statistics of encoders: measures, `vitlab analyze` and its report."""
