"""The verbs of `vitlab`, a file for each: its words, and the work they ask for.

A verb is a function of the words behind it. It raises ValueError or OSError for input that cannot
be used; `vitlab.cli` prints the reason. Nothing imports these files but `vitlab.cli`.
"""
