"""Runs as jobs of SLURM, and the state of runs.

The batch script is plain text: submitit and similar libraries pickle Python functions and hide the
script that an administrator or a colleague wants to read.
"""
