"""`microgpt-fast bench`: how fast this machine trains, against what it could do and against others.

jobs.py        what is timed: models, weights and tokens that every implementation is given
timing.py      jobs and kernels, timed in this process
programs.py    whole programs, this one among them, timed from outside
processes.py   programs that time a job when told: other frameworks, other versions
runs.py        the results of one run: ours, and those of the others
report.py      one run of the command
table.py       results as text and as CSV
plots.py       the figures

Before and after a change:

saved.py       a run in a file
versions.py    two versions in turn
side.py        the program that each of them runs
against.py     ratios and the limit

Every result is a dict; times are medians, with the 20th and 80th percentiles beside them.
"""
