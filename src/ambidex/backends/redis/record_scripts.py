"""The Lua scripts of the records. All keys of a space share its hash tag, and all that a script touches are declared.

``KEYS[1]`` is the space's layout (a hash: ``v`` its digest, ``d`` its text, ``n`` the last number given out as an id),
``KEYS[2]`` the records (a hash from id to revision and content), the others the indexes (sorted sets of score 0), that
of the ids first. The invariant: a script that depends on the indexes does nothing, and says so, unless the layout is
the one that its caller knows.
"""

from __future__ import annotations

from typing import Final

from ambidex.backends.redis.wire import Script

__all__ = [
    "APPLIED",
    "APPLY",
    "APPLY_ONCE",
    "CHANGED",
    "COUNT",
    "DEFINE",
    "INSERT",
    "MARK_MS",
    "NUMBERS",
    "OTHER_LAYOUT",
    "STATE",
    "TAKEN",
    "WALK",
]

MARK_MS: Final = 30 * 86_400_000
"""How long a mark is kept that says that a write was made."""

APPLIED, CHANGED, TAKEN, OTHER_LAYOUT = 0, 1, 2, 3
"""What the scripts answer first: done; the record at this place is not the expected one; the unique value is taken."""

STATE: Final = Script("return {redis.call('HGET', KEYS[1], 'd'), redis.call('HLEN', KEYS[2])}")
"""The layout's text and the number of records."""

DEFINE: Final = Script(
    """
if (redis.call('HGET', KEYS[1], 'v') or '') ~= ARGV[1] then return 0 end
if ARGV[4] == '1' and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'v', ARGV[2], 'd', ARGV[3])
return 1
"""
)
"""Replace the layout whose digest is ARGV[1] ('': none); where ARGV[4] is 1, only while there are no records."""

NUMBERS: Final = Script(
    """
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return {3} end
redis.call('HINCRBY', KEYS[1], 'n', ARGV[2])
return {0, redis.call('HGET', KEYS[1], 'n'), redis.call('ZREVRANGE', KEYS[2], 0, 0)[1] or ''}
"""
)
"""Give out ARGV[2] numbers: the last of them, as text (Lua's numbers end at 2^53), and the last member of KEYS[2]."""

_COMMON: Final = """
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return {3} end
local records, unique = KEYS[2], {}
for at in string.gmatch(ARGV[2], '%d+') do unique[tonumber(at)] = true end

local part, place
local function word()
  local data
  data, place = struct.unpack('>I4c0', part, place)
  return data
end

local function taken(at, member)
  local size = struct.unpack('>I4', member, #member - 3)
  local low = string.sub(member, 1, #member - 4 - size)
  local stop = #low
  while string.byte(low, stop) == 255 do stop = stop - 1 end
  local high = string.sub(low, 1, stop - 1) .. string.char(string.byte(low, stop) + 1)
  return redis.call('ZLEXCOUNT', KEYS[at], '[' .. low, '(' .. high) > 1
end
"""
"""What the writing scripts share: ARGV[1] is the layout's digest, ARGV[2] the numbers of the keys of unique fields.

Of what follows, parts are rows of words, each behind its length in four bytes: MessagePack in older servers knows no
bytes.
"""

INSERT: Final = Script(
    _COMMON
    + """
local function undo(number)
  for back = 3, number do
    part, place = ARGV[back], 1
    local count = tonumber(word())
    for _ = 1, count do redis.call('HDEL', records, word()); word() end
    for at = 3, #KEYS do
      for _ = 1, count do redis.call('ZREM', KEYS[at], word()) end
    end
  end
end

local function words(number)
  local data = {struct.unpack('>' .. string.rep('I4c0', number), part, place)}
  place = table.remove(data)
  return data
end

local done = 0
for number = 3, #ARGV do
  part, place = ARGV[number], 1
  local count, ids = tonumber(word()), {}
  local pairs = words(2 * count)
  for n = 1, count do ids[n] = pairs[2 * n - 1] end
  local seen = {}
  for n, there in ipairs(redis.call('HMGET', records, unpack(ids))) do
    if there or seen[ids[n]] then
      undo(number - 1)
      return {1, done + n - 1}
    end
    seen[ids[n]] = true
  end
  redis.call('HSET', records, unpack(pairs))
  for at = 3, #KEYS do
    local members = {}
    for n, member in ipairs(words(count)) do members[2 * n - 1], members[2 * n] = '0', member end
    redis.call('ZADD', KEYS[at], unpack(members))
    if unique[at] then
      for n = 2, 2 * count, 2 do
        if string.byte(members[n]) == 1 and taken(at, members[n]) then
          undo(number)
          return {2, done + n / 2 - 1, at}
        end
      end
    end
  end
  done = done + count
end
return {0}
"""
)
"""Add records, all or none. ARGV[3...] are parts.

Each is a count, an id and a record so many times, and for each index a member so many times.
"""

_STEPS: Final = """
local undo, later = {}, {}

local function refuse(...)
  for n = #undo, 1, -1 do redis.call(unpack(undo[n])) end
  return {...}
end


local function members()
  local list = {}
  for n = 1, 2 * tonumber(word()), 2 do list[n], list[n + 1] = tonumber(word()), word() end
  return list
end

local done = 0
for number = 4, #ARGV do
  part, place = ARGV[number], 1
  while place <= #part do
    local id, expected, new = word(), word(), word()
    local gone, added = members(), members()
    local old = redis.call('HGET', records, id)
    if (old and string.sub(old, 1, 8) or '') ~= expected then return refuse(1, done) end
    if new == '' then redis.call('HDEL', records, id)
    elseif new ~= '=' then redis.call('HSET', records, id, new) end
    if new ~= '=' then
      if old then undo[#undo + 1] = {'HSET', records, id, old} else undo[#undo + 1] = {'HDEL', records, id} end
    end
    for n = 1, #gone, 2 do
      if redis.call('ZREM', KEYS[gone[n]], gone[n + 1]) == 1 then
        undo[#undo + 1] = {'ZADD', KEYS[gone[n]], 0, gone[n + 1]}
      end
    end
    for n = 1, #added, 2 do
      local at, member = added[n], added[n + 1]
      if redis.call('ZADD', KEYS[at], 0, member) == 1 then undo[#undo + 1] = {'ZREM', KEYS[at], member} end
    end
    for n = 1, #added, 2 do
      local at, member = added[n], added[n + 1]
      if unique[at] and string.byte(member) == 1 then
        if ARGV[3] == '1' then later[#later + 1] = {done, at, member}
        elseif taken(at, member) then return refuse(2, done, at) end
      end
    end
    done = done + 1
  end
end
for _, check in ipairs(later) do
  if taken(check[2], check[3]) then return refuse(2, check[1], check[2]) end
end
"""

APPLY: Final = Script(_COMMON + _STEPS + "return {0}\n")
"""Take steps, all or none: write or delete records that are as expected, with their places in the indexes.

ARGV[3] is 1 where unique values are compared after all steps instead of after each. ARGV[4...] are parts, made of
steps: id, revision ('': absent), record ('': delete, '=': keep), how many members to remove, the number of a key and a
member for each, and the same for those to add. What was done is undone where a step is refused.
"""

APPLY_ONCE: Final = Script(
    _COMMON
    + f"if redis.call('PEXPIRE', KEYS[#KEYS], {MARK_MS}) == 1 then return {{0}} end\n"
    + _STEPS
    + f"redis.call('SET', KEYS[#KEYS], 1, 'PX', {MARK_MS})\nreturn {{0}}\n"
)
"""The same unless the last of the keys, the mark, is there; it is made with the effect, also where there is none."""

WALK: Final = Script(
    """
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return {3} end
local wanted, last, found = tonumber(ARGV[3]), '', {0, ''}
for n = 4, #ARGV, 2 do
  local members
  if ARGV[2] == '1' then
    members = redis.call('ZREVRANGEBYLEX', KEYS[3], '(' .. ARGV[n + 1], '[' .. ARGV[n], 'LIMIT', 0, wanted)
  else
    members = redis.call('ZRANGEBYLEX', KEYS[3], '[' .. ARGV[n], '(' .. ARGV[n + 1], 'LIMIT', 0, wanted)
  end
  for _, member in ipairs(members) do
    local size = struct.unpack('>I4', member, #member - 3)
    found[#found + 1] = redis.call('HGET', KEYS[2], string.sub(member, #member - 3 - size, #member - 4))
    last = member
  end
  wanted = wanted - #members
  if wanted <= 0 then break end
end
found[2] = last
return found
"""
)
"""The last member and the records of up to ARGV[3] members of KEYS[3], which lie in ranges; descending if ARGV[2] is 1.

The ranges (ARGV[4...], first and end of each) stand in the order of the walk.
"""

COUNT: Final = Script(
    """
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return {3} end
local counts = {0}
local n = 2
for at = 3, #KEYS do
  local size, total = tonumber(ARGV[n]), 0
  for pair = n + 1, n + 2 * size, 2 do
    total = total + redis.call('ZLEXCOUNT', KEYS[at], '[' .. ARGV[pair], '(' .. ARGV[pair + 1])
  end
  counts[#counts + 1] = total
  n = n + 2 * size + 1
end
return counts
"""
)
"""How many members of each of KEYS[3...] lie in its ranges: their number, then first and end of each."""
