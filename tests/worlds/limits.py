"""Eight workers that share limits and budgets, on virtual time, by the code that answers real callers: holdings, quotas, minutes,
budgets and the way to a counter that takes its time, dies with its worker, or is away.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from servery.gateway.budgets import Budgets
from servery.gateway.holder import Over
from servery.gateway.holdings import Bound, Holdings
from servery.gateway.minutes import SharedMinutes
from servery.gateway.quotas import Quota, Reached, Stay, come, leave
from servery.gateway.reach import Reach
from servery.quota.budgets import NS, Account, Granted, Ledger, Report
from servery.quota.leases import Changes, Grant
from servery.quota.leases import Counter as Windows
from servery.quota.sharing import Seen
from servery.terms.limits import Limits
from servery.terms.manifest import Key, Manifest, Model, Tenant
from servery.terms.reasons import Refusal
from servery.terms.routes import Route, Tier
from worlds.virtual import VirtualLoop

WORKERS = 8
DEAREST = 2_000  # of a call, in pico-dollars
MICRO = 1e-6  # dollars: a million pico-dollars
RATES = {"rated": 300, "key\trated\tk1": 200, "route\tfast": 240, "model\tsmall": 150}
MONEY = {"paying": 0.4, "key\tpaying\tk1": 0.25, "route\tdear": 0.2, "model\tlarge": 0.15}  # in millions
ROUTES = {"rated": ("fast", "free"), "paying": ("dear", "free")}
MODELS = {"rated": ("small", "other"), "paying": ("large", "other")}
AT_ONCE = 5


class Loop(VirtualLoop):
    """What would be done in a thread takes a part of a second, or several."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self._draw = draw
        self.pass_time(10**12)

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:
        done: asyncio.Future[Any] = self.create_future()
        waits_s = self._draw.choice((0.0, 0.0005, 0.002, 0.3 if self._draw.random() < 0.05 else 0.001))
        self.call_later(waits_s / 2, self._do, done, waits_s / 2, lambda: func(*args))
        return done

    def _do(self, done: asyncio.Future[Any], waits_s: float, act: Callable[[], Any]) -> None:
        try:
            value = act()
        except OSError as error:
            failure = error
            self.call_later(waits_s, lambda: done.done() or done.set_exception(failure))
        else:
            self.call_later(waits_s, lambda: done.done() or done.set_result(value))


class Door:
    """One worker's way to what is shared."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.dead = False

    def _open(self) -> World:
        if self.dead or self._world.away:
            raise OSError("out of reach")
        return self._world

    def take(self, name: str, limit: int, workers: int, changes: Changes, now_ns: int, wanted: bool) -> Grant:
        return self._open().windows.take(name, limit, workers, changes, now_ns, wanted)

    def renew(self, account: Account, report: Report, workers: int, now_ns: int) -> Granted:
        return self._open().accounts.renew(account, report, workers, now_ns)

    def look(self) -> Seen:
        self._open()
        return Seen()

    def close(self) -> None:
        """The world goes on."""


class Worker:
    """One life of a worker."""

    def __init__(self, world: World, name: str) -> None:
        clock = world.loop.clock
        self.door = Door(world)
        self.reach = Reach(self.door, WORKERS, refuses=False, clock=clock)
        self.minutes = SharedMinutes(self.door, self.reach, clock)
        self.budgets = Budgets(self.door, name, self.reach, clock)
        holdings = Holdings(self.minutes.make, self.budgets.of, lambda _: None)
        manifest = world.manifest
        self.callers = holdings.of_callers(manifest)
        self.routes = {name: holdings.of_route(name, route.limits) for name, route in manifest.routes.items()}
        self.models = {name: holdings.of_model(name, model.limits) for name, model in manifest.models.items()}
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def quotas(self) -> list[Quota]:
        bounds = [*self.callers.values(), *self.routes.values(), *self.models.values()]
        return [quota for bound in bounds for quota in bound.quotas]

    async def drain(self) -> None:
        for service in (self.budgets, self.minutes, self.reach):
            await service.drain()


def limits(account: str) -> Limits:
    rate, money = RATES.get(account), MONEY.get(account)
    return Limits(rate, AT_ONCE if rate else None, usd_per_day=money * MICRO if money else None)


def declared() -> Manifest:
    def key(tenant: str, name: str) -> Key:
        digest = hashlib.sha256(f"{tenant} {name}".encode()).hexdigest()
        return Key(name, digest, limits=limits(f"key\t{tenant}\t{name}"))

    models = {name: Model("heuristic", limits=limits(f"model\t{name}")) for name in ("small", "large", "other")}
    routes = {
        name: Route((Tier("small", "small"), Tier("large", "large")), limits=limits(f"route\t{name}"))
        for name in ("fast", "dear", "free")
    }
    tenants = {name: Tenant((key(name, "k1"), key(name, "k2")), limits=limits(name)) for name in ("rated", "paying")}
    return Manifest(1, models, routes, tenants=tenants)


class World:
    """A seed is a world. `passed` counts by account and second, `spent` and `held` are pico-dollars by account."""

    def __init__(
        self, seed: int, windows: Windows, accounts: Ledger, dying: float, leaving: float, away: float
    ) -> None:
        self.draw = random.Random(seed)
        self.loop = Loop(self.draw)
        self.windows, self.accounts = windows, accounts
        self.dying, self.leaving, self.outages = dying, leaving, away
        # Callers may be spread evenly, or mostly with one worker: then the others hold what they don't spend.
        self.favours = self.draw.choice((0.0, 0.8))
        self.manifest = declared()
        self.away = False
        self.passed: dict[str, Counter[int]] = {account: Counter() for account in RATES}
        self.spent, self.held = Counter[str](), Counter[str]()
        self.overspent = self.deaths = self.lost = self.served = 0
        self.early: list[str] = []  # refusals that came too early
        self.refused = Counter[str]()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._all())
        assert self.loop.uncaught == []

    async def _all(self) -> None:
        self.workers = [Worker(self, f"w{number}") for number in range(WORKERS)]
        for turn in range(self.draw.randrange(100, 260)):
            await asyncio.sleep(self.draw.choice((0.01, 0.3, 1.0)))
            if self.draw.random() < self.dying:
                self._kill(self.draw.randrange(WORKERS), f"{turn}")
            if self.away or self.draw.random() < self.outages:
                self.away = self.draw.random() < 0.7
            for _ in range(self.draw.choice((0, 1, 5, 30))):
                worker = self.workers[0] if self.draw.random() < self.favours else self.draw.choice(self.workers)
                task = self.loop.create_task(self._request(worker))
                worker.tasks.add(task)
                task.add_done_callback(worker.tasks.discard)
                if self.draw.random() < self.leaving:
                    self.loop.call_later(self.draw.uniform(0, 1), task.cancel)
        self.away = False
        await asyncio.gather(*(task for worker in self.workers for task in worker.tasks), return_exceptions=True)
        await asyncio.sleep(3)  # what was lost is found again
        for worker in self.workers:
            assert all(quota.inside == 0 for quota in worker.quotas)
            await worker.drain()

    def _kill(self, number: int, life: str) -> None:
        """What it had under way is gone with it, and another one comes."""
        dead = self.workers[number]
        self.deaths += 1
        dead.door.dead = True
        for task in dead.tasks:
            task.cancel()
        self.workers[number] = Worker(self, f"w{number}-{life}")

    async def _request(self, worker: Worker) -> None:
        draw, clock = self.draw, self.loop.clock
        tenant = draw.choice(("rated", "paying"))
        caller = worker.callers[tenant, draw.choice(("k1", "k1", "k2"))]
        route = worker.routes[draw.choice(ROUTES[tenant])]
        until_ns = clock.steady_ns() + 10 * NS
        stay = Stay(clock)
        try:
            for bound in (caller, route):
                await stay.come(bound.quotas, until_ns)
            for quotas, at_ns in stay._counted:
                self._pass(quotas, at_ns)
            both = route.beside(caller)
            await self._attempt(worker, worker.models[draw.choice(MODELS[tenant])], both, until_ns)
            self.served += 1
        except Refusal as refusal:
            self._refuse(worker, refusal)
        finally:
            stay.leave()

    async def _attempt(self, worker: Worker, model: Bound, both: Bound, until_ns: int) -> None:
        """One call: it costs less than was put aside, or more, or it is given up."""
        draw = self.draw
        amount = draw.randrange(1, DEAREST)
        if model.quotas:
            self._pass(model.quotas, await come(model.quotas, self.loop.clock, until_ns))
        try:
            bound = model.beside(both)
            if bound.allowance is None:
                return
            names = [part.holder.account for part in bound.allowance.parts]
            self.held.update(dict.fromkeys(names, amount))
            cost = 0
            try:
                paid = await bound.allowance.reserve(amount, None, until_ns)
                try:
                    await asyncio.sleep(draw.choice((0.0, 0.2, 3.0)))
                finally:
                    kind = draw.random()
                    cost = 0 if kind < 0.1 else round(amount * 1.5) if kind < 0.3 else draw.randint(0, amount)
                    paid.settle(cost)
                    cost = 0 if worker.door.dead else cost
                    self.overspent += max(cost - amount, 0)
                    self.lost += amount if worker.door.dead else 0
            finally:
                self.held.subtract(dict.fromkeys(names, amount))
                self.spent.update(dict.fromkeys(names, cost))
        finally:
            leave(model.quotas)

    def _pass(self, quotas: tuple[Quota, ...], at_ns: int) -> None:
        for quota in quotas:
            assert quota.inside <= AT_ONCE
            self.passed[quota.holder.account][at_ns // NS] += 1

    def _refuse(self, worker: Worker, refusal: Refusal) -> None:
        """Nobody is refused before 95 % are used, or what is at once in this worker."""
        if isinstance(refusal, Reached):
            account = refusal.quota.holder.account
            if "concurrency" in refusal.message:
                assert refusal.quota.inside >= AT_ONCE
                return
            now = self.loop.clock.steady_ns() // NS
            used = sum(count for second, count in self.passed[account].items() if second >= now - 60)
            limit = RATES[account]
            if used < limit - max(0.05 * limit, WORKERS):
                self.early.append(f"{account!r} at {used} of {limit}")
        elif isinstance(refusal, Over):
            account = next(name for name in MONEY if self._told(name, refusal.message))
            most = MONEY[account] * 10**6
            if (
                account not in self.refused
                and self.spent[account] + self.held[account] < 0.95 * most - WORKERS * DEAREST
            ):
                self.early.append(f"{account!r} at {self.spent[account] + self.held[account]} of {most}")
        else:
            return
        self.refused[account] += 1

    @staticmethod
    def _told(account: str, message: str) -> bool:
        kind = account.partition("\t")[0]
        whose = kind if kind in ("key", "route", "model") else "tenant"
        return message.startswith(f"this {whose}'s budget")
