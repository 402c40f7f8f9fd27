"""`microgpt-fast bench`: how fast this machine trains, against what it could do and against others.

jobs.py        what is timed: models, weights and tokens that every implementation is given
timing.py      jobs and kernels, timed in this process
processes.py   other programs, and this one, timed from outside
report.py      one run of the command: what is compared with what, and the table
plots.py       the figures

Every result is a dict; times are medians, with the 20th and 80th percentiles beside them.
"""
