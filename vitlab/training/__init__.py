"""`vitlab fit`: command line, plan, summary, exit codes; checkpoints of a run in series."""
