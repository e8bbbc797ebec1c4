"""The benchmark behind scripts/bench: rbeerouter and its peers, side by side, one machine.

cli.py        the command line
install.py    fetches the peers (apt-get, pip)
machine.py    free ports, cores, what this machine is
workers.py    the mock workers (one nginx with Lua)
routers.py    the table of routers: how each is found, configured and started
cases.py      what is asked (short, long, stream) and what the right answer is
processes.py  starts and stops programs in sessions of their own
probes.py     what probes and scrapes cost; pace.py makes its constant load
measure.py    CPU and memory from /proc, load and latency from wrk
run.py        the order of the runs
report.py     medians, ratios, the table, the JSON file

Only the standard library is used.
"""
