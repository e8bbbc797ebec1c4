"""Connections to workers for whatever is not a client's request: probes, tokenizers.

A worker that this machine's owner did not write down is followed only to where workers may be; each connection asks
again (`control.addresses`), as a name may lead somewhere else by then.
"""

from __future__ import annotations

import ssl

import aiohttp

from rbeerouter.control.addresses import GuardedResolver, guard_for, misplaced
from rbeerouter.core.types import WorkerSpec


class Sessions:
    """One session for the workers of each source, which decides where they may be.

    Attributes:
        allow: networks where workers may be that registered themselves.
    """

    def __init__(self) -> None:
        self.allow: tuple[str, ...] = ()
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._tls: dict[str | None, ssl.SSLContext] = {}

    def of(self, spec: WorkerSpec) -> aiohttp.ClientSession:
        """Raises OSError for a worker that is where none may be."""
        problem = misplaced(spec, self.allow)
        if problem is not None:
            raise OSError(problem)
        return self._sessions.get(spec.source) or self._new(spec)

    def tls(self, spec: WorkerSpec) -> ssl.SSLContext | bool:
        """What a connection to this worker trusts."""
        if spec.ca_file is None:
            return True
        if spec.ca_file not in self._tls:
            self._tls[spec.ca_file] = ssl.create_default_context(cafile=spec.ca_file)
        return self._tls[spec.ca_file]

    def forget_certificates(self) -> None:
        """CA files are read again."""
        self._tls = {}

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    def _new(self, spec: WorkerSpec) -> aiohttp.ClientSession:
        def guard(host: str, address: str) -> str | None:
            check = guard_for(spec, self.allow)                # which a reload may have changed
            return None if check is None else check(host, address)

        resolver = None if guard_for(spec, ()) is None else GuardedResolver(guard)
        session = self._sessions[spec.source] = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=75, resolver=resolver),  # longer than two looks
            cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False,
            headers={"accept-encoding": "identity"},
        )  # fmt: skip
        return session


async def read_up_to(content: aiohttp.StreamReader, most_bytes: int) -> bytes:
    """The body, or its beginning."""
    parts, size = [], 0
    while size < most_bytes:
        part = await content.readany()
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)[:most_bytes]
