-- trader: the index of each trader's orders on this card.
--   {card}:trader:<id>  a list, oldest first: sequences of the trader's orders. An item is a run of consecutive ones, 1001
--                       or 1001-2000, or several runs with a space between. The list has every order that is not
--                       completed, and the limits.latest newest ones. Compaction drops older completed orders
--   {card}:compacted    a hash by trader id, for traders with many open orders: items and orders that the last
--                       compaction left; while one goes on, the items done and the orders that they keep follow
--   {card}:open_orders:<id>  only where open orders are limited: "<orders> <last sequence> <milliseconds>", as many as may
--                       be open at most, the last sequence of the list then, and the time of the last count. While a
--                       count goes on, the last sequence counted and the number up to it follow. It expires
-- Append writes these keys, in the call that writes the log. The orders themselves are in the log, in {card}:open, and
-- once completed in the events and the archive.
--
-- A trader may have any number of orders, and Redis serves nobody else while a function runs. So each function here
-- looks at a bounded number of orders, and finds its place in a list by halving.
local trader = {}

local integer = text.integer
local match, gmatch, sub, max, min = string.match, string.gmatch, string.sub, math.max, math.min
local concat, floor, huge = table.concat, math.floor, math.huge
local LATEST = limits.latest
local PAGE = 1000 -- orders of a read of {card}:open
local ITEMS_MIN, ITEMS_MAX = 8, 256 -- items of a read of a list
local ITEM_ORDERS = limits.commands_max -- orders of an item that a compaction makes
-- Whether a list needs compaction is looked at once in this many items, and at each run of this many orders.
local CHECK_INTERVAL, CHECKED_RUN = 64, 8
-- A compaction begins when this many orders were added since the last one, and as many as that one left.
local ADDED_MIN = 512
-- A compaction goes on by this many orders, or by twice the orders that are added, so it ends before as many were added
-- as it looks at. The compactions of an append share COMPACTED_MAX orders; runs of CHECKED_RUN may have as many again.
local STEP_MIN, COMPACTED_MAX = 512, 1024
local compacted_room = 0
-- Open orders are counted anew after this time at the earliest, and a millisecond for each of so many orders, since a
-- count may take a small part of the server's time only. A count goes on by COUNTED_MAX orders; so many are counted for
-- all traders of an append whose number is known.
local COUNT_INTERVAL_MS, ORDERS_PER_MS, COUNTED_MAX = 100, 100, 2000
local counted_room = 0
local OPEN_ORDERS_MS = 3600 * 1000 -- how long a count is remembered

-- Begins an append: its compactions and counts share a bounded amount of work.
function trader.begin_append() compacted_room, counted_room = COMPACTED_MAX, COUNTED_MAX end

local function list_key(tag, id) return tag .. ':trader:' .. id end
local function compacted_key(tag) return tag .. ':compacted' end

local function first_of(item) return tonumber(item) or tonumber(match(item, '^%d+')) end
local function last_of(item) return tonumber(item) or tonumber(match(sub(item, -limits.sequence_digits), '%d+$')) end

-- Adds the sequences of an item to `count` others, without those below `low` and above `high`. Returns their number.
-- Most items are one sequence, and gmatch costs ten times as much as tonumber.
local function add_sequences(sequences, count, item, low, high)
  local single = tonumber(item)
  if single then
    if single < low or single > high then return count end
    sequences[count + 1] = single
    return count + 1
  end
  for first, last in gmatch(item, '(%d+)%-?(%d*)') do
    first, last = tonumber(first), tonumber(last) or tonumber(first)
    for sequence = max(first, low), min(last, high) do
      count = count + 1
      sequences[count] = sequence
    end
  end
  return count
end

local function run_text(first, last)
  return first == last and integer[first] or integer[first] .. '-' .. integer[last]
end

-- Returns ascending sequences as an item.
local function item_of(sequences, from, to)
  local runs, first = {}, sequences[from]
  for i = from, to do
    local sequence = sequences[i]
    if i == to or sequences[i + 1] ~= sequence + 1 then
      runs[#runs + 1] = run_text(first, sequence)
      first = sequences[i + 1]
    end
  end
  return concat(runs, ' ')
end

-- Returns the place of the first item that has this sequence or a later one; the number of items where none has.
local function place_of(key, sequence)
  local low, high = 0, redis.call('LLEN', key)
  while low < high do
    local middle = floor((low + high) / 2)
    if last_of(redis.call('LINDEX', key, middle)) < sequence then low = middle + 1 else high = middle end
  end
  return low
end

-- The items of a list from a place on, one after the other. Pages double, since a few items may be enough.
local function items_from(key, place)
  local items, i, page = {}, 0, ITEMS_MIN
  return function()
    i = i + 1
    if i > #items then
      items, i = redis.call('LRANGE', key, place, place + page - 1), 1
      place, page = place + #items, min(2 * page, ITEMS_MAX)
    end
    return items[i]
  end
end

-- Sequences of a trader's list between `after` and `before`, oldest first: all, or at least `limit` of them. An item more
-- than needed may be among them.
function trader.between(tag, id, after, before, limit)
  local key, sequences, count = list_key(tag, id), {}, 0
  for item in items_from(key, after > 0 and place_of(key, after + 1) or 0) do
    count = add_sequences(sequences, count, item, after + 1, before - 1)
    if count >= limit then break end
  end
  return sequences
end

-- Sequences of a trader's list, newest first, up to `limit`. Where `before` is given, only those below it.
function trader.newest(tag, id, limit, before)
  local key, found, count, page = list_key(tag, id), {}, 0, ITEMS_MIN
  local last, high = redis.call('LLEN', key) - 1, huge
  if before then last, high = min(last, place_of(key, before)), before - 1 end
  while count < limit and last >= 0 do
    local items = redis.call('LRANGE', key, max(0, last - page + 1), last)
    for i = #items, 1, -1 do
      local sequences = {}
      for s = add_sequences(sequences, 0, items[i], 0, high), 1, -1 do
        count = count + 1
        found[count] = sequences[s]
        if count == limit then return found end
      end
    end
    last, page = last - page, min(2 * page, ITEMS_MAX)
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

-- Returns how many of a trader's orders may be open, never less than are open, and what `remember_open` is given.
-- Orders that were completed since the last count are among them. Where there are more than `enough`, the count goes on.
-- While the first count of a list goes on, all of its orders may be open.
function trader.open_orders(tag, id, enough, matched, now_ms)
  local newest = redis.call('LINDEX', list_key(tag, id), -1)
  if not newest then return 0, integer[now_ms] end
  local newest_sequence = last_of(newest)
  local known = redis.call('GET', open_orders_key(tag, id)) or '0 0 0'
  local open, last, counted, counted_ms, reached, found = match(known, '^(%d+) (%d+) ((%d+) ?(%d*) ?(%d*))$')
  open = tonumber(open)
  -- Another last sequence: orders were added while nothing was limited, or the list was restored.
  if tonumber(last) == newest_sequence then
    local interval_ms = min(open, COUNTED_MAX) / ORDERS_PER_MS + (reached == '' and COUNT_INTERVAL_MS or 0)
    local is_recent = math.abs(now_ms - counted_ms) < interval_ms
    if open <= enough or is_recent or counted_room <= 0 then return open, counted end
  else
    open, reached, found = newest_sequence, nil, nil
  end
  local after, count = tonumber(reached) or 0, tonumber(found) or 0
  local sequences = trader.between(tag, id, after, huge, COUNTED_MAX)
  counted_room = counted_room - #sequences
  count = count + #trader.unfinished(tag, sequences, matched, #sequences)
  counted = integer[now_ms]
  if #sequences < COUNTED_MAX then
    open = count
  else
    counted = counted .. ' ' .. integer[sequences[#sequences]] .. ' ' .. integer[count]
  end
  trader.remember_open(tag, id, open, newest_sequence, counted)
  return open, counted
end

-- Remembers how many orders of a trader may be open, `last` being the last one. `counted`: as `open_orders` returned it.
function trader.remember_open(tag, id, open, last, counted)
  local value = integer[open] .. ' ' .. integer[last] .. ' ' .. counted
  redis.call('SET', open_orders_key(tag, id), value, 'PX', integer[OPEN_ORDERS_MS])
end

-- Reads the sequences of whole items from a place on: those below `before`, and `wanted` or somewhat more. Returns them,
-- the number of items, and whether no item with such sequences follows.
local function read_items(key, place, before, wanted)
  local sequences, count, items = {}, 0, 0
  for item in items_from(key, place) do
    if first_of(item) >= before then return sequences, items, true end
    items, count = items + 1, add_sequences(sequences, count, item, 0, huge)
    if count >= wanted then return sequences, items, false end
  end
  return sequences, items, true
end

-- Puts ascending sequences in the place of `items` items, which have as many sequences or more. They become as few items
-- as can be, never more than there were.
local function replace_items(key, place, items, sequences)
  local packed, count = {}, #sequences
  for from = 1, count, ITEM_ORDERS do
    local is_last = #packed == items - 1
    packed[#packed + 1] = item_of(sequences, from, is_last and count or min(from + ITEM_ORDERS - 1, count))
    if is_last then break end
  end
  local dropped = items - #packed
  if place == 0 and dropped > 0 then
    redis.call('LTRIM', key, dropped, -1)
  elseif dropped > 0 then
    for i = place, place + dropped - 1 do redis.call('LSET', key, i, '') end
    redis.call('LREM', key, dropped, '')
  end
  for i = 1, #packed do redis.call('LSET', key, place + i - 1, packed[i]) end
  return #packed
end

-- Goes on with the compaction of a trader's list by `wanted` orders, or begins one. Orders below its end stay where they
-- may be open; the end is where the latest orders began, so that a compaction does not run after new orders.
-- `goes_on`: done, kept and before, as {card}:compacted has them, or nil.
local function compact(tag, id, matched, wanted, left, goes_on)
  local key, done, kept, before = list_key(tag, id), 0, 0, nil
  if goes_on then done, kept, before = goes_on.done, goes_on.kept, goes_on.before end
  before = before or trader.newest(tag, id, LATEST)[LATEST] or 0
  local sequences, items, is_end = read_items(key, done, before, wanted)
  local count, newer = #sequences, {} -- of the last item some orders may be among the latest ones
  compacted_room = compacted_room - count
  while count > 0 and sequences[count] >= before do
    table.insert(newer, 1, table.remove(sequences))
    count = count - 1
  end
  local unfinished = trader.unfinished(tag, sequences, matched, count)
  for i = 1, #newer do unfinished[#unfinished + 1] = newer[i] end
  done, kept = done + replace_items(key, done, items, unfinished), kept + #unfinished
  if not is_end then
    local so_far = ' ' .. integer[done] .. ' ' .. integer[kept] .. ' ' .. integer[before]
    redis.call('HSET', compacted_key(tag), id, left .. so_far)
  elseif kept > ADDED_MIN / 2 then
    redis.call('HSET', compacted_key(tag), id, integer[done] .. ' ' .. integer[kept])
  else
    redis.call('HDEL', compacted_key(tag), id)
  end
end

-- Adds a run of orders to a trader's list. `matched`: the last matched sequence. Returns the error where Redis refuses.
function trader.add(tag, id, first, last, matched)
  local items = redis.pcall('RPUSH', list_key(tag, id), run_text(first, last))
  if type(items) == 'table' then return items.err end
  local orders = last - first + 1
  -- Traders whose lists grow together are looked at in turn, hence the id.
  if orders < CHECKED_RUN and ((items + id) % CHECK_INTERVAL ~= 0 or compacted_room <= 0) then return nil end
  if compacted_room <= -COMPACTED_MAX then return nil end -- the next run is looked at
  local state = redis.call('HGET', compacted_key(tag), id) or '0 0'
  local left, items_left, orders_left, done, kept, before = match(state, '^((%d+) (%d+)) ?(%d*) ?(%d*) ?(%d*)$')
  local goes_on = done ~= '' and { done = tonumber(done), kept = tonumber(kept), before = tonumber(before) } or nil
  if not goes_on and (items - items_left) * orders < max(ADDED_MIN, tonumber(orders_left)) then return nil end
  compact(tag, id, matched, max(2 * orders, min(STEP_MIN, compacted_room)), left, goes_on)
  return nil
end
