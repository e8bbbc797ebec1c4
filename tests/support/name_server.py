"""A DNS server for tests: answers over real UDP on a free port with whatever records a test gives it.

Called by tests in their own event loop: `async with NameServer() as names`. It must not forward anything.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Self

import dns.flags
import dns.message
import dns.rcode
import dns.rrset


class NameServer(asyncio.DatagramProtocol):
    """Records by (name, type), such as {("llm.test", "A"): ["10.0.0.1"]}.

    Attributes:
        asked: how often each (name, type) was asked.
        failing: answers SERVFAIL to everything. silent: answers nothing.
    """

    def __init__(self, ttl_s: int = 60) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.ttl_s = ttl_s
        self.asked: Counter[tuple[str, str]] = Counter()
        self.failing = self.silent = False
        self._transport: Any = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._transport.get_extra_info('sockname')[1]}"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pass

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True), question.rdtype.name
        self.asked[name, kind] += 1
        if self.silent:
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        values = self.records.get((name, kind))
        if self.failing:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif values is None:
            known = any(owner == name for owner, _ in self.records)
            answer.set_rcode(dns.rcode.NOERROR if known else dns.rcode.NXDOMAIN)
        elif values:
            answer.answer.append(dns.rrset.from_text(question.name, self.ttl_s, "IN", kind, *values))
        self._transport.sendto(answer.to_wire(), addr)
