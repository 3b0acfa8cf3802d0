"""The counters of limits and budgets in a Redis. Each decision is one script, which is `grant` of `leases`, and of `budgets`."""

from __future__ import annotations

from servery.quota.accounts import KEPT_NS, KNOWN_NS
from servery.quota.buckets import SECONDS
from servery.quota.budgets import LIFE_NS, Account, Granted, Report
from servery.quota.budgets import lent as lent_of_budget
from servery.quota.leases import LIFE_S, NS, Changes, Grant, lent
from servery.quota.redis_server import RedisServer

_MS = 1_000_000
_US = 1_000

# ARGV: the second that is now, whether a slice is wanted, the limit, what may be lent, twice the workers, until when a slice
# may be spent, how long the key is kept (ms), then second and change in turn. Returned: the slice, and the oldest second.
_TAKE = """
local key, now, limit = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[3])
local forgotten = now - 60
for i = 8, #ARGV, 2 do
  if tonumber(ARGV[i]) > forgotten and redis.call('HINCRBY', key, ARGV[i], ARGV[i + 1]) < 0 then
    redis.call('HSET', key, ARGV[i], 0)
  end
end
local used, oldest, all = 0, now, redis.call('HGETALL', key)
for i = 1, #all, 2 do
  local second, count = tonumber(all[i]), tonumber(all[i + 1])
  if second <= forgotten then
    redis.call('HDEL', key, all[i])
  else
    used = used + count
    if count > 0 and second < oldest then oldest = second end
  end
end
local left, given = limit - used, 0
if ARGV[2] == '1' and left > 0 then
  given = math.min(math.max(math.min(math.floor(left / ARGV[5]), tonumber(ARGV[4])), 1), left)
  redis.call('HINCRBY', key, ARGV[6], string.format('%.0f', given))
end
redis.call('PEXPIRE', key, ARGV[7])
return {string.format('%.0f', given), string.format('%.0f', oldest)}
"""

# ARGV: the worker, what it has spent, holds and needs; the limit, what may be lent, twice the workers; now, until when it holds,
# and since when others are forgotten (us); how long the key is kept (ms). Returned: what is granted, and what was left.
# Lua's numbers are exact up to 2^53, which are 9,000 dollars. So sums are made by HINCRBY, which counts in 64 bits, in the
# field `=`; the others are `spent`, and by worker what it told (t), holds (h) and until when (u).
_RENEW = """
local key, who, need = KEYS[1], ARGV[1], ARGV[4]
local function begin(number) redis.call('HSET', key, '=', number) end
local function add(number) redis.call('HINCRBY', key, '=', number) end
local function less(number)
  if number ~= '0' then
    add(string.sub(number, 1, 1) == '-' and string.sub(number, 2) or '-' .. number)
  end
end
local function sum() return redis.call('HGET', key, '=') end
local function fits() return string.sub(sum(), 1, 1) ~= '-' end
local function known(field) return redis.call('HGET', key, field) or '0' end

begin(ARGV[2])
less(known('t' .. who))
if fits() then
  redis.call('HINCRBY', key, 'spent', sum())
  redis.call('HSET', key, 't' .. who, ARGV[2])
end

begin(ARGV[5])
less(known('spent'))
less(ARGV[3])
local all = redis.call('HGETALL', key)
for i = 1, #all, 2 do
  local other = string.sub(all[i], 2)
  if string.sub(all[i], 1, 1) == 'u' and other ~= who then
    if tonumber(all[i + 1]) >= tonumber(ARGV[8]) then
      less(known('h' .. other))
    elseif tonumber(all[i + 1]) < tonumber(ARGV[10]) then
      redis.call('HDEL', key, 't' .. other, 'h' .. other, 'u' .. other)
    end
  end
end

local left, amount = sum(), '0'
less(need)
if need ~= '0' and fits() then
  local slice = math.min(math.floor(left / ARGV[7]), tonumber(ARGV[6]))
  amount = slice > tonumber(need) and string.format('%.0f', slice) or need
end
begin(ARGV[3])
add(amount)
redis.call('HSET', key, 'h' .. who, sum(), 'u' .. who, ARGV[9])
redis.call('HDEL', key, '=')
redis.call('PEXPIRE', key, ARGV[11])
return {amount, left}
"""


class RedisCounter:
    """The windows of `leases`. A slice whose answer was lost stays booked for its minute, as that of a worker that died."""

    def __init__(self, server: RedisServer) -> None:
        self._take = server.script(_TAKE)

    def take(self, name: str, limit: int, workers: int, changes: Changes, now_ns: int, wanted: bool) -> Grant:
        """As of Counter. OSError."""
        now = now_ns // NS
        until = now + LIFE_S - 1
        kept_ms = (SECONDS + LIFE_S) * 1_000
        given, oldest = self._take(
            f"minute:{name}",
            (
                now, int(wanted), limit, lent(limit, workers), 2 * workers, until, kept_ms,
                *(part for change in changes.items() for part in change),
            ),
        )  # fmt: skip
        if count := int(given):
            return Grant(count, until)
        return Grant(0, 0, max(int(oldest) + SECONDS - now_ns / NS, 0.001) if wanted else 0.0)


class RedisAccounts:
    """The accounts of `budgets`. A report whose answer was lost is booked once all the same: it says all that was spent."""

    def __init__(self, server: RedisServer) -> None:
        self._renew = server.script(_RENEW)

    def renew(self, account: Account, report: Report, workers: int, now_ns: int) -> Granted:
        """As of Ledger. OSError."""
        kept_ms = (max(account.ends_ns - now_ns, 0) + KEPT_NS) // _MS
        amount, left = self._renew(
            f"account:{account.name}",
            (
                report.worker, report.spent, report.held, report.need,
                account.limit, lent_of_budget(account.limit, workers), 2 * workers,
                now_ns // _US, (now_ns + LIFE_NS) // _US, (now_ns - KNOWN_NS) // _US, kept_ms,
            ),
        )  # fmt: skip
        return Granted(int(amount), int(left))
