"""What several commands take and read alike."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from rbeerouter.config.sections import Config, ConfigError


def config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="default: ~/.config/rbee/config.toml, if it exists"
    )


def script_and_config(options: argparse.Namespace) -> tuple[Path, Config | None]:
    """The script that was asked for, else the configured one; the config where there is one."""
    from rbeerouter.config.loading import load

    if options.config is None and options.script is not None:
        return options.script, None
    config = load(options.config, script=options.script)
    if config.script is None:
        raise ConfigError("there is no script; pass --script FILE, or set [routing] script")
    return config.script, config


def pairs(given: Sequence[str]) -> dict[str, str]:
    """{"a": "1"} from ["a=1"]. Raises ConfigError."""
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"{text!r}: expected NAME=VALUE")
        pairs[name] = value
    return pairs


def count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number that is not negative")
    return int(text)


def number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{name}={value}: expected a number")
    return number
