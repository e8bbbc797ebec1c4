"""Which strategy is in force, and the page that changes it while the daemon runs.

What was set there stands in the place of the environment's and the configuration's, until it is taken back or, where it
was not to be persisted, until the daemon ends. `server.daemon` owns one `InForce` and asks it at each reload.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.routing import Route

from rbeerouter.config.reading import convert
from rbeerouter.config.sections import Config, ConfigError, Section
from rbeerouter.config.strategies import StrategyError
from rbeerouter.core.errors import RouterError
from rbeerouter.routing.panel import CONFIG
from rbeerouter.routing.strategies import NAMES
from rbeerouter.server.answers import Json, not_for_web_pages, read_body, who_asks

if TYPE_CHECKING:
    from rbeerouter.server.daemon import Daemon

VARIABLE = "ROUTING_ALGORITHM"
"""The environment variable that goes before `[routing] strategy`, named as in AIBrix."""
SETTING = "strategy"
RUNTIME, PERSISTED, ENVIRONMENT = "runtime", "persisted", "environment"

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Change(Section):
    """The body of a POST. None takes back what was set, persisted or not."""

    strategy: str | None
    persist: bool = False


class InForce:
    """Who says which strategy decides, where neither model nor client does.

    Args:
        kept: what was persisted, None for nothing.

    Attributes:
        runtime: what was set since the start. persisted: what outlives a restart. environment: what the variable says.
    """

    def __init__(self, daemon: Daemon, kept: str | None) -> None:
        self._daemon = daemon
        self.runtime: str | None = None
        self.environment = from_environment()
        self.persisted = kept
        self._is_kept = kept is not None                       # also a name that this version does not know
        try:
            if kept is not None:
                NAMES.read(kept)
        except StrategyError as error:                         # another version wrote it
            self.persisted = None
            daemon.log.error("strategy_not_known", strategy=kept, error=str(error))

    def of(self, config: Config) -> tuple[str, str]:
        """(the strategy in force under a configuration, who says so)."""
        if self.runtime is not None:
            return self.runtime, RUNTIME
        if self.persisted is not None:
            return self.persisted, PERSISTED
        if self.environment is not None:
            return self.environment, ENVIRONMENT
        return config.routing.strategy, CONFIG

    async def change(self, asked: Change, who: str) -> None:
        """Sets a strategy, or takes it back. Raises ConfigError, and nothing has changed."""
        strategy = asked.strategy
        try:
            strategy = NAMES.spelled(strategy) if strategy is not None else None
        except StrategyError as error:
            raise ConfigError(f"strategy = {error}") from None
        store, before = self._daemon.discovery.store, self._daemon.decider.strategy.name
        if asked.persist or (strategy is None and self._is_kept):
            await asyncio.wrap_future(store.set_setting(SETTING, strategy))
            if store.problem is not None:
                raise ConfigError(f"persist = true: cannot be kept: {store.problem}")
            self.persisted, self.runtime, self._is_kept = strategy, None, strategy is not None
        else:
            self.runtime = strategy
        self.apply()
        text, source = self.of(self._daemon.config)
        self._daemon.log.info("strategy_set", strategy=text, source=source, before=before, who=who)

    def apply(self) -> None:
        """From now on the decider goes by what is in force, and so does the shadow."""
        daemon = self._daemon
        daemon.decider.use(*self.of(daemon.config))
        daemon.shadowing.apply()

    def describe(self) -> dict[str, Any]:
        """What decides, and who said so."""
        daemon, routing = self._daemon, self._daemon.config.routing
        decider = daemon.decider
        return {
            "ok": True,
            "strategy": decider.strategy.name,
            "source": decider.panel.source,
            "runtime": self.runtime,
            "persisted": self.persisted,
            "environment": self.environment,
            "config": routing.strategy,
            "fallback": [strategy.name for strategy in decider.panel.fallback],
            "strategy_header": routing.strategy_header,
            "options": msgspec.to_builtins(routing.strategies),
            "known": list(NAMES.known),
        }


def from_environment() -> str | None:
    """What the environment says, None where it says nothing. Raises ConfigError."""
    given = os.environ.get(VARIABLE, "").strip()
    if not given:
        return None
    try:
        return NAMES.spelled(given)
    except StrategyError as error:
        raise ConfigError(f"the environment variable {VARIABLE} = {error}") from None


def _asked(body: bytes) -> Change:
    """Raises ConfigError, msgspec's errors, UnicodeDecodeError, RecursionError."""
    given = _decode(body)
    if SETTING not in given:
        raise ConfigError("the body: strategy is missing: expected a name, a list, or null to take back what was set")
    return convert(given, "the body", Change)


def routes(daemon: Daemon) -> list[Route]:
    """The page of one daemon."""

    async def config(request: Request) -> Json:
        if request.method == "POST":
            refused = not_for_web_pages(request)
            if refused is not None:
                return refused
            try:
                await daemon.strategy.change(_asked(await read_body(request)), who_asks(request))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                return Json({"ok": False, "error": f"the body: {error}"}, 422)
            except ConfigError as error:
                return Json({"ok": False, "error": str(error)}, 422)
            except RouterError as error:
                return Json({"ok": False, "error": error.message}, error.failure.status)
        return Json(daemon.strategy.describe())

    return [Route("/api/v1/config", config, methods=["GET", "POST"])]
