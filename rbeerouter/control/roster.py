"""Who the workers are: the lists of all sources, made one.

`server.discovery` builds one `Roster`. Each source puts its whole list in; `merged` is what the fleet is to be. A
source that fails keeps the last list it had. Nothing here connects to anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from rbeerouter.core.types import WorkerSpec

CONFIG, FILE, REGISTERED, CONTROLLER, DNS = "config", "file", "registered", "controller", "dns"
PRECEDENCE = (CONFIG, FILE, REGISTERED, CONTROLLER, DNS)
"""Of two workers with one id or one url, that of the kind that stands first is taken: what a person wrote down on this
machine is worth most, what a name happens to lead to least."""

Log = Callable[..., Any]
Specs = tuple[WorkerSpec, ...]


class Source:
    """What one source last said, and how it goes with it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.specs: Specs = ()
        self.taken_at: float | None = None
        self.problem: str | None = None


class Roster:
    """The lists by name of their source. `changed` is set when `merged` may be another one than before.

    Args:
        wall: Unix seconds.
        log: writes an event with its fields: one line when a source fails or comes back, none for each try.
    """

    def __init__(self, wall: Callable[[], float], log: Log) -> None:
        self.changed = asyncio.Event()
        self.sources: dict[str, Source] = {}
        self._wall = wall
        self._log = log

    def put(self, name: str, specs: Iterable[WorkerSpec], kind: str, taken_at: float | None = None) -> None:
        """Takes the list of a source that works.

        Args:
            taken_at: when the list was got, for one that was kept from before a restart.
        """
        source = self.sources.setdefault(name, Source(kind))
        given = tuple(specs)
        source.taken_at = self._wall() if taken_at is None else taken_at
        if source.problem is not None and taken_at is None:
            source.problem = None
            self._log("source_recovered", source=name, workers=len(given))
        if given != source.specs:
            source.specs = given
            self.changed.set()

    def failed(self, name: str, kind: str, problem: str) -> None:
        """The source cannot be asked, or says nonsense; its last list stays."""
        source = self.sources.setdefault(name, Source(kind))
        first, source.problem = source.problem is None, problem
        if first:
            self._log("source_failed", source=name, error=problem, workers=len(source.specs))

    def keep_only(self, names: Iterable[str]) -> None:
        """Forgets the sources that are not configured any more."""
        for name in set(self.sources) - set(names):
            if self.sources.pop(name).specs:
                self.changed.set()

    def merged(self, instead: dict[str, Specs] | None = None) -> Specs:
        """The workers of all sources, each once.

        Args:
            instead: lists by name of their source, to see how it would be with them.
        """
        lists = [(source.kind, name, source.specs) for name, source in self.sources.items()]
        if instead:
            kinds = {name: self.sources[name].kind if name in self.sources else name for name in instead}
            lists = [entry for entry in lists if entry[1] not in instead]
            lists += [(kinds[name], name, specs) for name, specs in instead.items()]
        lists.sort(key=lambda entry: (PRECEDENCE.index(entry[0]), entry[1]))
        ids: dict[str, WorkerSpec] = {}
        urls: dict[str, str] = {}
        for _, name, specs in lists:
            for spec in specs:
                if spec.id not in ids and urls.get(spec.url, name) == name:   # one list may name a url twice
                    ids[spec.id] = spec
                    urls[spec.url] = name
        return tuple(ids.values())

    def describe(self) -> list[dict[str, Any]]:
        """How it goes with each source."""
        now = self._wall()
        return [
            {
                "source": name, "kind": source.kind, "workers": [spec.id for spec in source.specs],
                "age_s": None if source.taken_at is None else round(max(0.0, now - source.taken_at), 1),
                "problem": source.problem,
            }
            for name, source in sorted(self.sources.items(), key=lambda item: PRECEDENCE.index(item[1].kind))
        ]  # fmt: skip
