-- trader: the index of each trader's orders on this card.
--   {card}:trader:<id>  a list, oldest first: sequences of the trader's orders, an item for each run of consecutive
--                       ones, 1001 or 1001-2000. It has every order that is not completed, and the limits.latest
--                       newest ones. Compaction drops older completed orders
--   {card}:compacted    a hash by trader id, for traders with many open orders: items and orders that the last
--                       compaction left
--   {card}:open_orders:<id>  only where open orders are limited: "<orders> <last sequence> <milliseconds>", as many as may
--                       be open at most, the last sequence of the list then, and the time of the last count. It expires
-- Append writes these keys, in the call that writes the log. The orders themselves are in the log, in {card}:open, and
-- once completed in the events and the archive.
local trader = {}

local integer = text.integer
local find, sub, max, min = string.find, string.sub, math.max, math.min
local LATEST = limits.latest
local PAGE = 1000 -- items or orders of a read
-- The size of a list is checked once in this many items, and at each run of this many orders.
local CHECK_INTERVAL = 64
-- A list is compacted when this many orders were added since the last compaction, and as many as that one left.
local ADDED_MIN = 512
-- The open orders of a trader are counted anew after this time at the earliest, and a millisecond for each of so many
-- orders. Counting goes through the whole list, so it may take a small part of the server's time only.
local COUNT_INTERVAL_MS, ORDERS_PER_MS = 100, 100
local OPEN_ORDERS_MS = 3600 * 1000 -- how long a count is remembered

local function list_key(tag, id) return tag .. ':trader:' .. id end
local function compacted_key(tag) return tag .. ':compacted' end

-- Returns the first and the last sequence of an item.
local function parse_item(item)
  local dash = find(item, '-', 1, true)
  if not dash then
    local sequence = tonumber(item)
    return sequence, sequence
  end
  return tonumber(sub(item, 1, dash - 1)), tonumber(sub(item, dash + 1))
end

local function item_of(first, last)
  return first == last and integer[first] or integer[first] .. '-' .. integer[last]
end

-- Returns ascending sequences as items.
local function items_of(sequences)
  local items, first = {}, sequences[1]
  for i = 1, #sequences do
    local sequence = sequences[i]
    if sequences[i + 1] ~= sequence + 1 then
      items[#items + 1] = item_of(first, sequence)
      first = sequences[i + 1]
    end
  end
  return items
end

-- Sequences of a trader's list between `after` and `before`, oldest first.
function trader.between(tag, id, after, before)
  local items, sequences, count = redis.call('LRANGE', list_key(tag, id), 0, -1), {}, 0
  for i = 1, #items do
    local first, last = parse_item(items[i])
    for sequence = max(first, after + 1), min(last, before - 1) do
      count = count + 1
      sequences[count] = sequence
    end
  end
  return sequences
end

-- Sequences of a trader's list, newest first, up to `limit`. Where `before` is given, only those below it.
function trader.newest(tag, id, limit, before)
  local key, found, count, last = list_key(tag, id), {}, 0, -1
  local page = min(limit, PAGE)
  while count < limit do
    local items = redis.call('LRANGE', key, last - page + 1, last)
    for i = #items, 1, -1 do
      local first, newest = parse_item(items[i])
      if before then newest = min(newest, before - 1) end
      for sequence = newest, max(first, newest - limit + count + 1), -1 do
        count = count + 1
        found[count] = sequence
      end
    end
    if #items < page then break end
    last = last - page
  end
  return found
end

-- Selects, of sequences in a trader's list, those of orders that may be open: {card}:open has them, or they are not
-- matched yet. Returns up to `limit` of them, and whether there are more.
function trader.unfinished(tag, sequences, matched, limit)
  local found, count = {}, 0
  for from = 1, #sequences, PAGE do
    local to, fields = min(from + PAGE - 1, #sequences), {}
    for i = from, to do fields[i - from + 1] = text.sequence(sequences[i]) end
    local records = redis.call('HMGET', tag .. ':open', unpack(fields))
    for i = from, to do
      if records[i - from + 1] or sequences[i] > matched then
        if count == limit then return found, true end
        count = count + 1
        found[count] = sequences[i]
      end
    end
  end
  return found, false
end

local function open_orders_key(tag, id) return tag .. ':open_orders:' .. id end

-- Returns how many of a trader's orders may be open, never less than are open, and when they were counted. Orders that
-- were completed since then are among them. Where there are more than `enough`, they are counted anew.
function trader.open_orders(tag, id, enough, matched, now_ms)
  local newest = redis.call('LINDEX', list_key(tag, id), -1)
  if not newest then return 0, now_ms end
  local known = redis.call('GET', open_orders_key(tag, id)) or '0 0 0'
  local open, last, counted_ms = string.match(known, '^(%d+) (%d+) (%d+)$')
  local _, newest_sequence = parse_item(newest)
  -- Another last sequence: orders were added while nothing was limited, or the list was restored.
  if tonumber(last) == newest_sequence then
    local recent = math.abs(now_ms - counted_ms) < COUNT_INTERVAL_MS + open / ORDERS_PER_MS
    if recent or tonumber(open) <= enough then return tonumber(open), tonumber(counted_ms) end
  end
  local sequences = trader.between(tag, id, 0, math.huge)
  open = #trader.unfinished(tag, sequences, matched, #sequences)
  trader.remember_open(tag, id, open, newest_sequence, now_ms)
  return open, now_ms
end

-- Remembers how many orders of a trader may be open, `last` being the last one.
function trader.remember_open(tag, id, open, last, counted_ms)
  local value = integer[open] .. ' ' .. integer[last] .. ' ' .. integer[counted_ms]
  redis.call('SET', open_orders_key(tag, id), value, 'PX', integer[OPEN_ORDERS_MS])
end

-- Writes a trader's list anew, without completed orders before the latest ones.
local function compact(tag, id, matched)
  local key, sequences = list_key(tag, id), trader.between(tag, id, 0, math.huge)
  local older, count = {}, #sequences
  for i = 1, count - LATEST do older[i] = sequences[i] end
  local kept = trader.unfinished(tag, older, matched, count)
  for i = max(1, count - LATEST + 1), count do kept[#kept + 1] = sequences[i] end
  local items = items_of(kept)
  redis.call('DEL', key)
  bulk.call('RPUSH', key, items)
  if #kept > ADDED_MIN / 2 then
    redis.call('HSET', compacted_key(tag), id, integer[#items] .. ' ' .. integer[#kept])
  else
    redis.call('HDEL', compacted_key(tag), id)
  end
end

-- Adds a run of orders to a trader's list. `matched`: the last matched sequence. Returns the error where Redis refuses.
function trader.add(tag, id, first, last, matched)
  local items = redis.pcall('RPUSH', list_key(tag, id), item_of(first, last))
  if type(items) == 'table' then return items.err end
  local orders = last - first + 1
  if items % CHECK_INTERVAL ~= 0 and orders < CHECK_INTERVAL then return nil end
  local items_left, orders_left = string.match(redis.call('HGET', compacted_key(tag), id) or '0 0', '^(%d+) (%d+)$')
  if (items - items_left) * orders >= max(ADDED_MIN, tonumber(orders_left)) then compact(tag, id, matched) end
  return nil
end
