-- trader: what has happened to each trader's orders on this card.
--   {card}:trader:<id>    a list, oldest first: the line of each order that is completed, and the sequence alone of each
--                         that came to rest in the book; the latest 50 orders, or some more
--   {card}:recent:<dd>    a string: the newest of these of all traders whose id ends with these digits (two, or the only
--                         one), a line each behind the id; now and then it is sorted into their lists
--   {card}:older:<id>     a list: orders that were open when they were dropped from the trader's list, oldest first
-- Two steps, because one call of Redis and one cold list an order cost more than matching it: a hundred APPENDs take a
-- whole batch, and one RPUSH several orders (docs/decisions.md).
local trader = {}

local find, sub, format, concat, floor = string.find, string.sub, string.format, table.concat, math.floor
local LATEST = 50
local TRIM_AT = 3 * LATEST
local OLDER_TRIM_AT = 2 * LATEST
local BUCKETS = 100
-- Whenever so many commands are done it is the next bucket's turn to be sorted into the lists of its traders, if it has
-- grown to so many bytes by then; or as soon as it has twice as many. A call sorts one of those that earlier calls have
-- found due, or two of many: what it has to do is known when it plans its time. With four times as many bytes a bucket
-- is sorted at once.
local SORT_EVERY = 512
local BUCKET_BYTES = 49152
local MANY_DUE = 4
local due = {} -- of each card: its buckets that are due, in turn; what a restart forgets is due again later
local DIGITS = 12 -- of a sequence

local function list_key(tag, id) return tag .. ':trader:' .. id end
local function recent_key(tag, bucket) return tag .. ':recent:' .. bucket end
local function older_key(tag, id) return tag .. ':older:' .. id end

-- Drops the completed orders from a trader's older ones.
function trader.trim_older(tag, id)
  local key = older_key(tag, id)
  local sequences = redis.call('LRANGE', key, 0, -1)
  local records = bulk.read(tag .. ':open', sequences)
  local open = {}
  for i = 1, #sequences do
    if records[i] then open[#open + 1] = sequences[i] end
  end
  if #open == #sequences then return end
  redis.call('DEL', key)
  bulk.call('RPUSH', key, open)
end

-- Appends to a trader's older open orders. Drops the completed ones when the length passes 100, 200, 400, …: that
-- costs what the list holds, so it has to become rarer as more open orders stay in it.
local function keep_older(tag, id, open)
  local length = bulk.call('RPUSH', older_key(tag, id), open)
  local bound = OLDER_TRIM_AT
  while bound <= length do
    if length - #open < bound then
      trader.trim_older(tag, id)
      return
    end
    bound = bound * 2
  end
end

-- Puts items of a list (or of a bucket) together by their orders: what is known of each sequence, its line where it is
-- completed, and the sequences in the order they were first seen.
local function gather(items, known, sequences)
  for i = 1, #items do
    local item = items[i]
    local is_line = #item > DIGITS
    local sequence = tonumber(is_line and sub(item, 1, DIGITS) or item)
    if not known[sequence] then sequences[#sequences + 1] = sequence end
    if is_line or not known[sequence] then known[sequence] = item end
  end
end

-- Keeps the latest orders in a trader's list, and remembers the older ones that are open.
local function trim(tag, id)
  local key = list_key(tag, id)
  local known, sequences = {}, {}
  gather(redis.call('LRANGE', key, 0, -1), known, sequences)
  table.sort(sequences)
  local dropped, kept = {}, {}
  for i = 1, #sequences do
    local item = known[sequences[i]]
    if i > #sequences - LATEST then
      kept[#kept + 1] = item
    elseif #item == DIGITS then
      dropped[#dropped + 1] = item
    end
  end
  local records, open = bulk.read(tag .. ':open', dropped), {}
  for i = 1, #dropped do
    if records[i] then open[#open + 1] = dropped[i] end
  end
  redis.call('DEL', key)
  bulk.call('RPUSH', key, kept)
  if #open > 0 then keep_older(tag, id, open) end
end

-- Sorts a bucket into the lists of its traders.
local function sort(tag, bucket)
  local key = recent_key(tag, bucket)
  local stored = redis.call('GET', key)
  if not stored then return end
  local lists, ids = {}, {}
  local at = 2
  repeat
    local space = find(stored, ' ', at, true)
    local stop = find(stored, '\n', space, true)
    local id, item = sub(stored, at, space - 1), sub(stored, space + 1, stop and stop - 1)
    local list = lists[id]
    if list then
      list[#list + 1] = item
    else
      lists[id] = { item }
      ids[#ids + 1] = id
    end
    at = stop and stop + 1
  until not at
  for i = 1, #ids do
    local id = ids[i]
    if bulk.call('RPUSH', list_key(tag, id), lists[id]) > TRIM_AT then trim(tag, id) end
  end
  redis.call('DEL', key)
end

local function add_due(tag, bucket)
  local list = due[tag] or {}
  due[tag] = list
  for i = 1, #list do
    if list[i] == bucket then return end
  end
  list[#list + 1] = bucket
end

local pieces = {} -- of a bucket's text; kept between calls for its memory alone

-- Enters what a batch did to orders: items[n], a completed order's line or the sequence of one that came to rest, is
-- owners[n]'s. `base` and `last`: the sequences before and at the end of the batch.
function trader.enter(tag, owners, items, count, base, last)
  local first, latest, following, buckets = {}, {}, {}, {}
  for n = 1, count do
    local bucket = sub(owners[n], -2)
    local before = latest[bucket]
    if before then
      following[before] = n
    else
      first[bucket] = n
      buckets[#buckets + 1] = bucket
    end
    latest[bucket] = n
  end
  for b = 1, #buckets do
    local bucket = buckets[b]
    local n, size = first[bucket], 0
    while n do
      pieces[size + 1], pieces[size + 2], pieces[size + 3], pieces[size + 4] = '\n', owners[n], ' ', items[n]
      size = size + 4
      n = following[n]
    end
    local length = redis.call('APPEND', recent_key(tag, bucket), concat(pieces, '', 1, size))
    if length > 4 * BUCKET_BYTES then
      sort(tag, bucket)
    elseif length > 2 * BUCKET_BYTES then
      add_due(tag, bucket)
    end
  end
  for turn = floor(base / SORT_EVERY) + 1, floor(last / SORT_EVERY) do
    local number = turn % BUCKETS
    local names = { format('%02d', number), number < 10 and text.integer[number] or nil }
    for n = 1, #names do
      if redis.call('STRLEN', recent_key(tag, names[n])) > BUCKET_BYTES then add_due(tag, names[n]) end
    end
  end
end

-- How many buckets a call is to sort.
function trader.sorts(tag)
  local count = due[tag] and #due[tag] or 0
  return count > MANY_DUE and 2 or math.min(count, 1)
end

-- Sorts so many of the buckets that are due. An order's sequence stands before its line, in a bucket and in a list: it
-- came to rest before it was completed, and a bucket is sorted as a whole.
function trader.sort(tag, count)
  for _ = 1, count do sort(tag, table.remove(due[tag], 1)) end
end

-- The items of a bucket that are a trader's.
local function recent_items(tag, id)
  local stored, items = redis.call('GET', recent_key(tag, sub(id, -2))), {}
  local mark = '\n' .. id .. ' '
  local from, at = nil, 0
  if stored then from, at = find(stored, mark, 1, true) end
  while from do
    local stop = find(stored, '\n', at, true)
    items[#items + 1] = sub(stored, at + 1, stop and stop - 1)
    if not stop then break end
    from, at = find(stored, mark, stop, true)
  end
  return items
end

-- What is known of a trader's latest orders, by sequence: the line of a completed one, the sequence's text of one that
-- came to rest; and the sequences, oldest first.
function trader.latest(tag, id)
  local known, sequences = {}, {}
  gather(redis.call('LRANGE', list_key(tag, id), 0, -1), known, sequences)
  gather(recent_items(tag, id), known, sequences)
  table.sort(sequences)
  return known, sequences
end

-- The texts of the sequences of a trader's orders that may be open, oldest first.
function trader.resting(tag, id)
  local found = redis.call('LRANGE', older_key(tag, id), 0, -1)
  local known, sequences = trader.latest(tag, id)
  for i = 1, #sequences do
    local item = known[sequences[i]]
    if #item == DIGITS then found[#found + 1] = item end
  end
  return found
end

-- The line of one of a trader's latest completed orders, by the text of its sequence.
function trader.completed(tag, id, sequence)
  local begins = sequence .. ','
  local lists = { recent_items(tag, id), redis.call('LRANGE', list_key(tag, id), 0, -1) }
  for l = 1, #lists do
    local items = lists[l]
    for i = #items, 1, -1 do
      if sub(items[i], 1, DIGITS + 1) == begins then return items[i] end
    end
  end
  return nil
end
