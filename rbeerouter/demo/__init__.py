"""Things that make rbeerouter easy to try on a laptop: pretend GPU servers, and nothing the daemon itself needs.

Started by hand, by the quickstart and by scripts. The daemon must not import this package, and the fake worker must not
import the rest of rbeerouter: a worker is a foreign program that is reached over HTTP only.
"""
