"""The options that describe what is simulated, alike for simulate, diff and tune, and the scenario made of them."""

from __future__ import annotations

import argparse

from rbeerouter.sim.types import Scenario


def scenario_options(parser: argparse.ArgumentParser) -> None:
    """Adds --script, --config, the workload, the workers' profiles, faults, targets and --seed."""


def scenario_of(options: argparse.Namespace) -> Scenario:
    """What the options say. Raises ConfigError, ScriptError."""
    raise NotImplementedError
