"""The policy lab: the core and the scripts that serve, under a clock made of numbers.

Read `types` first: a `Scenario` goes in, a `Result` comes out. `world.run` is the way from one to the other.
"""
