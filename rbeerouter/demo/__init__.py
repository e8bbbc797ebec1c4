"""Things that make rbeerouter easy to try on a laptop: a pretend GPU server, and nothing the daemon itself needs.

Started by hand, by the quickstart and by scripts. The rest of rbeerouter must not import this package, and this package
must not import the rest of rbeerouter: a worker is a foreign program that is reached over HTTP only.
"""
