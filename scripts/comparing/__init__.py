"""Is each strategy better than chance at what it is named for? scripts/compare-strategies runs it.

cases.py     for each strategy, what shows it: traffic, workers, what is measured, and against whom
traffic.py   real traces where they are, else traffic of the lab that is like them
fleets.py    the workers
measures.py  the numbers of a run
run.py       simulations, paired by seed
shown.py     what came of it as Markdown, and the page docs/strategies.md brought up to date
picture.py   and as SVG
"""
