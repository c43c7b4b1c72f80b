"""The Lua scripts. Each changes keys of one slot only, so all of them work in a Cluster.

The invariant: a value begins with eight bytes, one for its kind (1: bytes follow, 2: a 64-bit integer follows) and
seven for its version, which the writer draws at random; plain GET and SET therefore read and write values, too. Lua
knows only doubles, so integers are added as two halves of 32 bits, and nothing is ever converted to a number that a
double cannot hold. What is answered from the name of an operation gives that name its time anew: a write, without which
WAIT would ask for nothing.
"""

from __future__ import annotations

from typing import Final

from ambidex.backends.redis.wire import Script

__all__ = [
    "APPEND",
    "DELETE_ONCE",
    "DROP",
    "ENTRY",
    "EXPIRE",
    "INCR",
    "PERSIST",
    "SET_ONCE",
    "SWAP",
    "TRIM_BEFORE",
]

ENTRY: Final = Script("return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}")
"""The value and its milliseconds left: -1 for ever, -2 absent."""

SWAP: Final = Script(
    """
if string.sub(redis.call('GETRANGE', KEYS[1], 0, 7), 2) ~= ARGV[1] then return 0 end
if ARGV[3] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) else redis.call('SET', KEYS[1], ARGV[2]) end
return 1
"""
)
"""Write ARGV[2] if the version is ARGV[1] (seven bytes)."""

SET_ONCE: Final = Script(
    """
if not redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[2]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  return 0
end
if ARGV[3] then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3]) else redis.call('SET', KEYS[1], ARGV[1]) end
return 1
"""
)
"""Write ARGV[1], for ARGV[3] milliseconds if given, unless the mark KEYS[2] stands; it is kept ARGV[2] milliseconds."""

DELETE_ONCE: Final = Script(
    """
if not redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[1]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[1])
  return 0
end
return redis.call('UNLINK', KEYS[1])
"""
)
"""Delete a key, unless the mark KEYS[2] stands; it is kept ARGV[1] milliseconds."""

PERSIST: Final = Script(
    """
local found = redis.call('EXISTS', KEYS[1])
for _, key in ipairs(KEYS) do redis.call('PERSIST', key) end
return found
"""
)
"""Let keys stay for ever; 1 if the first exists."""

INCR: Final = Script(
    """
if KEYS[2] then
  local done = redis.call('GET', KEYS[2])
  if done then
    redis.call('PEXPIRE', KEYS[2], ARGV[4])
    return done
  end
end
local old, sum = redis.call('GETRANGE', KEYS[1], 0, 16), ARGV[2]
if old == '' then
  if ARGV[3] ~= '' then redis.call('SET', KEYS[1], ARGV[1] .. sum, 'PX', ARGV[3])
  else redis.call('SET', KEYS[1], ARGV[1] .. sum) end
else
  if string.byte(old) ~= 2 or #old ~= 16 then
    return redis.error_reply('AMBIDEX incr needs an integer, the stored value is something else')
  end
  local high, low = struct.unpack('>i4I4', old, 9)
  local more, less = struct.unpack('>i4I4', sum)
  low = low + less
  high = high + more
  if low >= 4294967296 then low, high = low - 4294967296, high + 1 end
  if high < -2147483648 or high > 2147483647 then
    return redis.error_reply('AMBIDEX incr would leave the range of 64-bit integers; the value is unchanged')
  end
  sum = struct.pack('>i4I4', high, low)
  redis.call('SET', KEYS[1], ARGV[1] .. sum, 'KEEPTTL')
end
if KEYS[2] then redis.call('SET', KEYS[2], sum, 'PX', ARGV[4]) end
return sum
"""
)
"""Add ARGV[2] (eight bytes, big-endian), ARGV[1] being the new head and ARGV[3] a new key's milliseconds or ''.

KEYS[2], where given, keeps the result under the operation's name for ARGV[4] milliseconds.
"""

APPEND: Final = Script(
    """
if KEYS[3] then
  local done = redis.call('GET', KEYS[3])
  if done then
    redis.call('PEXPIRE', KEYS[3], ARGV[3])
    return tonumber(done)
  end
end
local count = #ARGV - 3
if ARGV[1] == '' and redis.call('EXISTS', KEYS[1]) == 0 then redis.call('PERSIST', KEYS[2]) end
local last = redis.call('INCRBY', KEYS[2], count)
if last == count then
  local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  if top then last = redis.call('INCRBY', KEYS[2], string.match(top[1], '^%d+')) end
end
for place = 1, count do
  redis.call('XADD', KEYS[1], string.format('%.0f-0', last - count + place), 'd', ARGV[place + 3])
end
if ARGV[1] ~= '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
if KEYS[3] then redis.call('SET', KEYS[3], string.format('%.0f', last), 'PX', ARGV[3]) end
return last
"""
)
"""Add the entries ARGV[4...]; ARGV[1] and ARGV[2] are the milliseconds of stream and counter, or ''.

A stream whose counter was evicted goes on behind its last entry.

KEYS[3], where given, keeps the result under the operation's name for ARGV[3] milliseconds.
"""

TRIM_BEFORE: Final = Script(
    """
local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not top then return 0 end
local keep = tonumber(string.match(top[1], '^%d+')) - tonumber(ARGV[1]) + 1
return redis.call('XTRIM', KEYS[1], 'MAXLEN', '=', string.format('%.0f', math.max(keep, 0)))
"""
)
"""Drop the entries in places below ARGV[1]; places have no gaps, and MINID would need Redis 6.2."""

EXPIRE: Final = Script(
    """
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
"""
)
"""Give a stream and its counter new times to live; 0 if the stream does not exist."""

DROP: Final = Script(
    """
redis.call('DEL', KEYS[2])
return redis.call('UNLINK', KEYS[1])
"""
)
"""Delete a stream and its counter; 1 if the stream existed."""
