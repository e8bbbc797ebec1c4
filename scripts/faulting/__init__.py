"""Workers that do to a router what real engines, networks and attackers do: the package behind scripts/fault-worker.

cli.py             the command line
worker.py          a worker on a port of its own: connections, record, control
control.py         GET and POST /_fault
names.py           which behaviour a name means
behaviours.py      good, slow, cut and refusing answers, and lies
nonsense.py        answers that are no HTTP, or strain it
parts.py           what answers are made of
request_reader.py  reads requests, and refuses what no router may send

Only the standard library is used, and nothing of rbeerouter: the folder can be taken elsewhere. The page is
docs/fault-worker.md.
"""
