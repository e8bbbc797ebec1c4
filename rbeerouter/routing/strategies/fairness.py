"""Strategies that give each user a fair part, and the account of tokens that they keep.

The rule is the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): each
user has a counter of the tokens that it got, output dearer than input; the queue serves the user of those who wait
whose counter is the least; and who begins to wait is lifted to the least of those who wait already, so that nobody
saves up credit while it is idle. What AIBrix calls `vtc-basic` is a choice of workers by the tokens of the last
minutes. Here it is both: `TokenLedger` is the account and puts the queue in order, `VtcBasic` chooses the worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from math import ceil, exp
from typing import TYPE_CHECKING

import msgspec

from rbeerouter.config.sections import Fairness
from rbeerouter.core.memory import Memory
from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.strategies.base import Context, Hold, Scored

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job
    from rbeerouter.core.errors import Failure

NOBODY = b""
"""The account of all who do not say who they are."""
_SPREAD = 0.1
"""What chance adds to a score at most."""
_DRAWN, _DRAWS = 16, 4
"""Bits of chance for one worker, and how many have theirs of one number."""
_LAST_BITS = (1 << _DRAWN) - 1
_OF_SPREAD = _SPREAD / (1 << _DRAWN)
_LOOKED_AT = 8
"""Accounts that were not used for the longest time, of which the one with the fewest tokens makes room for another."""
_LOOKED_S = 2.0
"""Between two looks at all users, which take half a millisecond for 2,000 of them."""
_OUT_PER_IN = 1.5
"""Tokens of an answer for each token of the prompt, while nobody knows better. AIBrix takes that for all."""
_NEWER = 0.2
"""How much the last answer's length counts in the expected one."""
_NO_TOKENS = (1000.0, 8000.0)
"""The least and the most tokens of a user in the window, while there is no user: AIBrix's."""
_FULL_RUNNING = 100
"""So many running requests are a full worker to AIBrix."""
_BY_CLIENT = frozenset({"client_gone", "client_stalled"})


class LedgerRules(msgspec.Struct, frozen=True):
    """What a ledger goes by: `Fairness` of the configuration as far as it says how tokens are counted, hashable.

    settles: is what was expected replaced by what was used?
    """

    by: str = "user"
    window_s: float = 300.0
    users: int = 10_000
    input_weight: float = 1.0
    output_weight: float = 2.0
    tier: str = "tier"
    tiers: tuple[tuple[str, float], ...] = ()
    settles: bool = True


def ledger_rules(options: Fairness, settles: bool = True) -> LedgerRules:
    return LedgerRules(
        options.by, options.window_s, options.users, options.input_weight, options.output_weight, options.tier,
        tuple(sorted(options.tiers.items())), settles,
    )  # fmt: skip


class Account(msgspec.Struct):
    """What one user got, in weighted tokens by the weight of its tier.

    had: ever, and what it was lifted by. open: of that, for answers that are not there yet. recent, at: of the window,
    as it was at that time; it fades from there. out: how long its answers are, None until the first. busy: requests of
    it on workers.
    """

    had: float = 0.0
    open: float = 0.0
    recent: float = 0.0
    at: float = 0.0
    out: float | None = None
    busy: int = 0


class Charge(msgspec.Struct):
    """What an attempt was charged, and for how many tokens. weight: of its tier. open: as in `Account`."""

    account: Account
    tokens_in: float
    tokens_out: float
    weight: float
    at: float
    open: float
    cost: float = 0.0


class TokenLedger(Memory):
    """Who got how many tokens. It puts those who wait in order (`core.queue.Shares`).

    An attempt is charged when it is sent: the prompt's tokens and as many as its user's answers have on average, at
    most `max_tokens`. A stream that goes on for longer is charged more, by the time that a token takes on its worker.
    When an attempt ends, what was used replaces that; of one that failed nothing stays. Where nobody says what was
    used, or the client left, the estimate stays: leaving before the last token must not be free.

    The window is exponential with a mean age of `window_s`, which holds as much of a steady stream as a sliding one, in
    one number for each user. A user of whom nothing was sent for that long is forgotten, its counter too.

    An account is a digest: no credential is kept, and its size does not depend on the client.
    """

    def __init__(self, options: msgspec.Struct | None = None) -> None:
        super().__init__(options)
        self.rules = rules = options if isinstance(options, LedgerRules) else LedgerRules()
        self._weights = dict(rules.tiers)
        self._accounts: dict[bytes, Account] = {}             # the one that was used last stands last
        self._charges: dict[Job, Charge] = {}
        self._waiting: dict[bytes, Account] = {}
        self._last = Account()                                # of the one that was sent last
        self._level = 0.0                                     # what all who wait would have had of even parts
        self._out: float | None = None                        # of all users
        self._least, self._most, self._seen_at = *_NO_TOKENS, 0.0
        self._now = 0.0

    # Reading

    def account_of(self, user: str | None, credential: bytes) -> bytes:
        """The user's by its name, or by its key; what there is where the other is wanted and missing."""
        if (user is None or self.rules.by == "key") and credential:
            return blake2b(credential, digest_size=16, person=b"key").digest()
        if user is None:
            return NOBODY
        return blake2b(user.encode("utf-8", "surrogatepass"), digest_size=16, person=b"user").digest()

    def recent(self, account: bytes, now: float) -> float:
        """Its weighted tokens in the window, those that are expected of attempts under way included."""
        found = self._accounts.get(account)
        return found.recent * self._faded(found.at, now) if found is not None else 0.0

    def span(self, now: float) -> tuple[float, float]:
        """(the least, the most) weighted tokens of a user in the window, as of the last tick; AIBrix's default while
        there is no user."""
        if not self._accounts:
            return _NO_TOKENS
        faded = self._faded(self._seen_at, now)
        return self._least * faded, self._most * faded

    # As `core.queue.Shares`

    def account(self, job: Job) -> bytes:
        return self.account_of(job.request.user_id, job.caller)

    def begins(self, account: bytes) -> None:
        found = self._open(account, self._now)
        self._lift(found)
        if not self._waiting:
            self._level = found.had - found.open
        self._waiting[account] = found

    def ends(self, account: bytes) -> None:
        del self._waiting[account]

    def had(self, account: bytes) -> float:
        return self._waiting[account].had

    # As `Memory`

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        name, request = self.account(job), job.request
        account = self._open(name, now)
        if len(job.tried) == 1 and not job.queued and name not in self._waiting:
            self._lift(account)                               # it has come and gone at once
        tokens_in, tokens_out = float(request.prompt_tokens or 0), self._expected(request, account)
        weight = self._weights.get(str(request.metadata.get(self.rules.tier)), 1.0) if self._weights else 1.0
        answer = self._cost(0.0, tokens_out, weight)
        self._charges[job] = charge = Charge(account, tokens_in, tokens_out, weight, now, answer)
        self._set(charge, self._cost(tokens_in, tokens_out, weight), now)
        account.busy += 1
        account.open += answer
        self._last = account
        self._level += (charge.cost - answer) / max(len(self._waiting), 1)
        self._most = max(self._most, account.recent)

    def released(self, job: Job, worker: Worker, failure: Failure | None, now: float) -> None:
        charge = self._charges.pop(job, None)
        if charge is None:                                    # it was sent before there was a ledger
            return
        account = charge.account
        account.busy -= 1
        account.open = account.open - charge.open if account.busy else 0.0
        if not self.rules.settles:
            return
        read = self._cost(charge.tokens_in, 0.0, charge.weight)
        if failure is None and job.status < 400:
            self._set(charge, self._used(job, charge), now)
        elif failure is None or failure.code not in _BY_CLIENT:
            self._set(charge, 0.0, now)
        self._level += (charge.cost - read) / max(len(self._waiting), 1)

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        self._now = now
        if self.rules.settles:
            for job, charge in self._charges.items():
                self._go_on(job, charge, now)
        if now - self._seen_at >= _LOOKED_S:
            self._look(now)

    def _look(self, now: float) -> None:
        """At all users: forgets those who were not there, and sees who has the least and the most."""
        until = now - self.rules.window_s
        for name in [name for name, one in self._accounts.items() if one.at < until and self._idle(name, one)]:
            del self._accounts[name]
        recent = [one.recent * self._faded(one.at, now) for one in self._accounts.values()]
        self._least, self._most = (min(recent), max(recent)) if recent else _NO_TOKENS
        self._seen_at = now

    # Keeping account

    def _set(self, charge: Charge, cost: float, now: float) -> None:
        """The attempt has cost so much in all. In the window it counts as if that had been known when it was sent."""
        account, more = charge.account, cost - charge.cost
        recent = account.recent * self._faded(account.at, now) + more * self._faded(charge.at, now)
        account.recent, account.at = max(0.0, recent), now
        account.had += more
        charge.cost = cost

    def _go_on(self, job: Job, charge: Charge, now: float) -> None:
        """Charges for a stream that has become longer than expected."""
        token_ms = job.worker.inter_token_ms if job.worker is not None else None
        if job.first_content is None or not token_ms:
            return
        written = (now - job.first_content) * 1000 / token_ms
        if job.request.max_tokens is not None:
            written = min(written, float(job.request.max_tokens))
        if written > charge.tokens_out:
            charge.tokens_out = written
            self._set(charge, self._cost(charge.tokens_in, written, charge.weight), now)

    def _open(self, name: bytes, now: float) -> Account:
        """The account of this name, begun if there is none, which is now the one that was used last."""
        accounts = self._accounts
        account = accounts.pop(name, None)
        if account is None:
            account = Account(at=now)
            if len(accounts) >= self.rules.users:
                self._make_room(now)
        accounts[name] = account
        return account

    def _make_room(self, now: float) -> None:
        """Of those that were not used for the longest time the one with the fewest tokens goes: many new names do not
        drive out who had much. Who waits or is being served stays, whatever the limit."""
        oldest = []
        for name, one in self._accounts.items():
            if self._idle(name, one):
                oldest.append((one.recent * self._faded(one.at, now), name))
                if len(oldest) == _LOOKED_AT:
                    break
        if oldest:
            del self._accounts[min(oldest)[1]]

    def _idle(self, name: bytes, account: Account) -> bool:
        return not account.busy and name not in self._waiting

    def _lift(self, account: Account) -> None:
        """Up to the least of those who wait; where nobody does, to the one that was served last. Answers that are yet
        to come do not count, as in the paper: who has begun many long ones just before others came has not had them.

        And up to the level that even parts would have given to all who wait, but not above all of them. It rises with
        each token, so an endless row of newcomers does not keep out who had more: else each of them would be lifted
        only to the one before it, which is where that one came in.
        """
        waiting = self._waiting.values()
        if waiting:
            least = min([one.had - one.open for one in waiting])
            self._level = min(max(self._level, least), max([one.had for one in waiting]))
        account.had = max(account.had, self._level if waiting else self._last.had - self._last.open)

    def _expected(self, request: Request, account: Account) -> float:
        """How many tokens an answer will have."""
        if not self.rules.settles:
            return float(ceil(_OUT_PER_IN * (request.prompt_tokens or 0)))
        expected = account.out if account.out is not None else self._out
        if expected is None:
            expected = _OUT_PER_IN * (request.prompt_tokens or 0)
        return expected if request.max_tokens is None else min(expected, float(request.max_tokens))

    def _used(self, job: Job, charge: Charge) -> float:
        tokens_in, tokens_out = job.tokens_in, job.tokens_out
        if tokens_in is None and tokens_out is None:
            return charge.cost
        if tokens_out is not None:
            account = charge.account
            account.out = _newer(account.out, tokens_out)
            self._out = _newer(self._out, tokens_out)
        read = charge.tokens_in if tokens_in is None else tokens_in
        return self._cost(read, tokens_out or 0, charge.weight)

    def _cost(self, tokens_in: float, tokens_out: float, weight: float) -> float:
        return (self.rules.input_weight * tokens_in + self.rules.output_weight * tokens_out) / weight

    def _faded(self, since: float, now: float) -> float:
        return exp((since - now) / self.rules.window_s)


def _newer(mean: float | None, value: float) -> float:
    return value if mean is None else mean + _NEWER * (value - mean)


class VtcBasic(Scored):
    """Users who got much go to other workers than users who got little; and the queue serves who got least.

    Workers stand in the order of their ids from 0 to 1, as do users: T / max(least + most, 2 bucket), where T are the
    user's weighted tokens in the window, and least and most those of any user. A worker's score is Wf times how far it
    stands from the user, and Wu times its load for what it can do, and by chance up to 0.1; the least is the best. A
    request without a user has no account, so another strategy chooses.

    strict: AIBrix's (pkg/plugins/gateway/algorithms/vtc/vtc_basic.go). The i-th of n workers in an order that is random
    for each request stands at i, and the user at min(T / max(bucket, (least + most) / 2), n - 1); 100 running requests,
    as the engine tells them, are a full worker; estimates are never settled; without a user a random worker is chosen;
    and the queue takes turns.
    """

    name = "vtc-basic"
    by_load = reads_caller = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._options, self._strict = context.options.fairness, context.options.strict
        self.ledger = context.memory(TokenLedger, ledger_rules(self._options, settles=not self._strict))
        self.shares = None if self._strict else self.ledger

    def choose(self, request: Request, workers: list[Worker]) -> Worker | Hold | None:
        choice = super().choose(request, workers)
        return self.context.chance.choice(workers) if choice is None and self._strict else choice

    def scores(self, request: Request, workers: list[Worker]) -> list[float] | None:
        ledger, options, now = self.ledger, self._options, self.context.now()
        account = ledger.account_of(request.user_id, request.caller or b"")
        if account == NOBODY:
            return None
        least, most = ledger.span(now)
        buckets = ledger.recent(account, now) / max(options.bucket_tokens, (least + most) / 2)
        last = len(workers) - 1
        user, step = (min(buckets, last), 1.0) if self._strict else (min(buckets / 2, 1.0), 1 / last if last else 0.0)
        fairness, utilization, draw = options.fairness_weight, options.utilization_weight, self.context.chance.bits
        scores, loads, bits = [0.0] * len(workers), self._loads(workers), 0
        for place, index in enumerate(self._order(workers)):
            bits = bits >> _DRAWN if place % _DRAWS else draw()
            far = abs(place * step - user)
            scores[index] = fairness * far + utilization * loads[index] + (bits & _LAST_BITS) * _OF_SPREAD
        return scores

    def _order(self, workers: list[Worker]) -> list[int]:
        """The workers' indices in the order in which they are counted."""
        if not self._strict:
            return sorted(range(len(workers)), key=[worker.id for worker in workers].__getitem__)
        order, bits = list(range(len(workers))), self.context.chance.bits
        for last in range(len(order) - 1, 0, -1):
            other = bits() * (last + 1) >> 64
            order[last], order[other] = order[other], order[last]
        return order

    def _loads(self, workers: list[Worker]) -> list[float]:
        if not self._strict:
            return [load if (load := worker.load) < 1.0 else 1.0 for worker in workers]
        running = [worker.in_flight if worker.running is None else worker.running for worker in workers]
        return [min(one / _FULL_RUNNING, 1.0) for one in running]
