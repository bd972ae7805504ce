-- trader: which orders each trader has on this card.
--   {card}:trader:<id>  a list, oldest first: the sequences of the trader's orders, an item for each run of consecutive
--                       ones, 1001 or 1001-2000. It has all orders that are accepted and not completed, and the latest
--                       50. Completed orders before these are dropped when the list is compacted
--   {card}:compacted    a hash, of traders with many open orders: how many items and orders the last compaction left
-- Append writes both, in the call that writes the log. What the orders are is in the log, in {card}:open, and of completed
-- ones in the events and the archive.
local trader = {}

local integer = text.integer
local find, sub, max, min = string.find, string.sub, math.max, math.min
local LATEST = 50
local PAGE = 1000 -- items of a read
-- A list's size is looked at when it has so many items more, or with a run of so many orders.
local LOOK = 64
-- A list is compacted when it has so many orders more than the last time, and at least twice as many.
local UNCHECKED_MIN = 512

local function list_key(tag, id) return tag .. ':trader:' .. id end
local function compacted_key(tag) return tag .. ':compacted' end

-- The first and the last sequence of an item.
local function run(item)
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

-- Ascending sequences as items.
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

-- The sequences of a trader's list after one and before another, oldest first.
function trader.between(tag, id, after, before)
  local items, sequences, count = redis.call('LRANGE', list_key(tag, id), 0, -1), {}, 0
  for i = 1, #items do
    local first, last = run(items[i])
    for sequence = max(first, after + 1), min(last, before - 1) do
      count = count + 1
      sequences[count] = sequence
    end
  end
  return sequences
end

-- The newest sequences of a trader's list, newest first, at most so many; those before one, if it is given.
function trader.newest(tag, id, limit, before)
  local key, found, count, last = list_key(tag, id), {}, 0, -1
  local page = min(limit, PAGE)
  while count < limit do
    local items = redis.call('LRANGE', key, last - page + 1, last)
    for i = #items, 1, -1 do
      local first, newest = run(items[i])
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

-- Which of these sequences, all of a trader's list, are of orders that may be open: {card}:open has them, or they are not
-- matched yet. At most so many, and the last one that was looked at.
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

local function compact(tag, id, matched)
  local key, sequences = list_key(tag, id), trader.between(tag, id, 0, math.huge)
  local older, count = {}, #sequences
  for i = 1, count - LATEST do older[i] = sequences[i] end
  local kept = trader.unfinished(tag, older, matched, count)
  for i = max(1, count - LATEST + 1), count do kept[#kept + 1] = sequences[i] end
  local items = items_of(kept)
  redis.call('DEL', key)
  bulk.call('RPUSH', key, items)
  if #kept > UNCHECKED_MIN / 2 then
    redis.call('HSET', compacted_key(tag), id, integer[#items] .. ' ' .. integer[#kept])
  else
    redis.call('HDEL', compacted_key(tag), id)
  end
end

-- Adds a run of orders to a trader's list. `matched`: the last sequence that is. Returns what Redis refused, if it did.
function trader.add(tag, id, first, last, matched)
  local items = redis.pcall('RPUSH', list_key(tag, id), item_of(first, last))
  if type(items) == 'table' then return items.err end
  local orders = last - first + 1
  if items % LOOK ~= 0 and orders < LOOK then return nil end
  local items_left, orders_left = string.match(redis.call('HGET', compacted_key(tag), id) or '0 0', '^(%d+) (%d+)$')
  if (items - items_left) * orders >= max(UNCHECKED_MIN, tonumber(orders_left)) then compact(tag, id, matched) end
  return nil
end
