-- side: one side of a card's book while a batch is matched. It has two sources:
--   the index {card}:bids or {card}:asks with the orders that rested before, read by pages, best first, each parsed
--     only when it becomes the head;
--   orders of the batch that came to rest: for each price level a queue, linked through `next`.
-- Both sides run through the same code: a `key` is the price in cents of an ask and the negative price of a bid. So the
-- lowest key is the best, and an order crosses what lies at or below its own limit key.
--
-- match_commands (match.lua) reads and writes these fields directly, because a call for each costs too much.
local side = {}

-- Orders of a page. A small batch reaches few orders, a large one hundreds, so pages double.
local PAGE_MIN, PAGE_MAX = 4, 64
local NONE = math.huge
local parse = order_line.parse

-- `sign`: 1 for asks, -1 for bids.
function side.new(tag, sign)
  return {
    sign = sign,
    side_text = sign == 1 and ',sell,' or ',buy,',
    index = tag .. (sign == 1 and ':asks' or ':bids'),
    open = tag .. ':open',
    -- Orders of the index: `loaded` of them are in `fields` and `records`, `head` is the place of the head. `key` is
    -- the head's, NONE where no order is left, nil before the first look. `sequence` to `line` are the head's, too.
    key = nil, page = PAGE_MIN, loaded = 0, head = 0, exhausted = false, fields = {}, records = {},
    removed = {}, -- by field of {card}:open: true where the order left, its record where a replace has changed it
    sequence = nil, left = 0, filled = 0, trader = nil, line = nil, head_changed = false,
    prefix_removed = 0, -- members that leave the best end of the index: filled ones, and any without a record
    canceled = {}, -- members that leave from anywhere
    added = {}, -- scores and members in turn that enter
    -- Orders of the batch: `first` and `last` of the queue by key, and keys that are in use (side.push).
    best = NONE, first = {}, last = {}, next = {}, small = {}, middle = {}, large = {}, large_count = 0,
    top = -NONE, -- the better of `key` and `best`; before the first look anything may cross
  }
end

-- Notes for levels.lua that the quantity at a key has changed; only where the card's levels are tracked.
function side.change_level(book, key, change)
  local changes = book.level_changes
  changes[key] = (changes[key] or 0) + change
end

local function load_page(book)
  local page = book.page
  local members = redis.call('ZRANGE', book.index, book.loaded, book.loaded + page - 1)
  local count = #members
  if count < page then book.exhausted = true end
  if page < PAGE_MAX then book.page = 2 * page end
  if count == 0 then return end
  local records = redis.call('HMGET', book.open, unpack(members))
  local loaded, fields, lines = book.loaded, book.fields, book.records
  for i = 1, count do fields[loaded + i], lines[loaded + i] = members[i], records[i] end
  book.loaded = loaded + count
end

-- Makes the next order of the index the head. Orders that this batch has canceled are passed over.
function side.next_maker(book)
  local head = book.head
  while true do
    head = head + 1
    if head > book.loaded then
      if not book.exhausted then load_page(book) end
      if head > book.loaded then
        book.head, book.key, book.sequence, book.top = head - 1, NONE, nil, book.best
        return
      end
    end
    local record, field = book.records[head], book.fields[head]
    local changed = book.removed[field]
    if not record then
      book.prefix_removed = book.prefix_removed + 1
    elseif changed ~= true then
      local line, filled, trader, price, quantity = parse(changed or record)
      local key, best = book.sign * price, book.best
      book.head, book.key, book.sequence = head, key, field
      book.top = key < best and key or best
      book.filled, book.left = filled, quantity - filled
      book.trader, book.line, book.head_changed = trader, line, false
      return
    end
  end
end

-- Queues order i of the batch, which comes to rest at this key.
-- The best key after the current one is found by steps: a cent at a time within a small span, and over spans without
-- keys. `small` counts keys by small span, `middle` small spans by middle span, `large` middle spans by large span. All
-- allowed prices together are at most 16 + 32 + 32 + 62 steps; a search takes a few. docs/decisions.md compares this
-- with binary heaps, which were slower.
local SMALL, MIDDLE, LARGE = 16, 512, 16384
function side.push(book, i, key)
  local last = book.last[key]
  book.last[key] = i
  if last then
    book.next[last] = i
    return
  end
  book.first[key] = i
  if key < book.best then
    book.best = key
    if key < book.top then book.top = key end
  end
  local spans, span = book.small, key - key % SMALL
  local held = spans[span]
  if held then
    spans[span] = held + 1
    return
  end
  spans[span] = 1
  spans, span = book.middle, key - key % MIDDLE
  held = spans[span]
  spans[span] = held and held + 1 or 1
  if held then return end
  spans, span = book.large, key - key % LARGE
  held = spans[span]
  spans[span] = held and held + 1 or 1
  if not held then book.large_count = book.large_count + 1 end
end

-- Removes the small span of this key, which has lost its last key. Returns the next small span; nil where none is left.
local function next_span(book, key)
  local small, middle, large = book.small, book.middle, book.large
  local span = key - key % SMALL
  small[span] = nil
  local wider = key - key % MIDDLE
  local held = middle[wider]
  if held == 1 then
    middle[wider] = nil
    local widest = key - key % LARGE
    held = large[widest]
    if held == 1 then
      large[widest] = nil
      book.large_count = book.large_count - 1
      if book.large_count == 0 then return nil end
      repeat widest = widest + LARGE until large[widest]
      wider = widest - MIDDLE
    else
      large[widest] = held - 1
    end
    repeat wider = wider + MIDDLE until middle[wider]
    span = wider - SMALL
  else
    middle[wider] = held - 1
  end
  repeat span = span + SMALL until small[span]
  return span
end

-- Removes the oldest order of the batch at the best key.
function side.pop(book)
  local best, first = book.best, book.first
  local following = book.next[first[best]]
  first[best] = following
  if following then return end
  book.last[best] = nil
  local small, span = book.small, best - best % SMALL
  local held = small[span]
  if held > 1 then
    small[span] = held - 1
  else
    span = next_span(book, best)
    if not span then
      book.best, book.top = NONE, book.key
      return
    end
    best = span - 1
  end
  repeat best = best + 1 until first[best]
  book.best = best
  book.top = best < book.key and best or book.key
end

-- Returns the best key at which an order rests, NONE where none does. Orders of the batch that were canceled are popped.
function side.best_key(book, left)
  while book.best < book.key and left[book.first[book.best]] == 0 do side.pop(book) end
  return book.top
end

-- Iterates over orders of the index from the head on, without moving it: key, unfilled quantity, trader; at last NONE.
local function walk_index(book)
  local place = book.head
  return function(started)
    if not started then return book.key, book.left, book.trader end
    while true do
      place = place + 1
      if place > book.loaded and not book.exhausted then load_page(book) end
      if place > book.loaded then return NONE end
      local record = book.records[place]
      local changed = book.removed[book.fields[place]]
      if record and changed ~= true then
        local _, filled, trader, price, quantity = parse(changed or record)
        return book.sign * price, quantity - filled, trader
      end
    end
  end
end

-- The same over orders of the batch.
local function walk_batch(book, left, traders)
  local keys = {}
  for key in pairs(book.last) do keys[#keys + 1] = key end
  table.sort(keys)
  local level, i = 1, book.first[keys[1]]
  return function(started)
    if started then i = book.next[i] end
    while true do
      while not i do
        level = level + 1
        if level > #keys then return NONE end
        i = book.first[keys[level]]
      end
      if left[i] > 0 then return keys[level], left[i], traders[i] end
      i = book.next[i]
    end
  end
end

-- Returns the quantity that an order with this limit key could trade at once, and how many orders were looked at.
-- Stops at `wanted`; and where `trader` is given, at the first order of that trader.
function side.fillable(book, limit_key, wanted, left, traders, trader)
  local next_of_index, next_of_batch = walk_index(book), walk_batch(book, left, traders)
  local index_key, index_left, index_trader = next_of_index(false)
  local batch_key, batch_left, batch_trader = NONE, 0, nil
  if book.best ~= NONE then batch_key, batch_left, batch_trader = next_of_batch(false) end
  local found, looked_at = 0, 0
  while found < wanted and math.min(index_key, batch_key) <= limit_key do
    looked_at = looked_at + 1
    if index_key <= batch_key then
      if index_trader == trader then break end
      found = found + index_left
      index_key, index_left, index_trader = next_of_index(true)
    else
      if batch_trader == trader then break end
      found = found + batch_left
      batch_key, batch_left, batch_trader = next_of_batch(true)
    end
  end
  return found, looked_at
end
