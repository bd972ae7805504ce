-- side: one side of a book while a batch is matched, read from two sources:
--   the resting orders of {card}:bids or {card}:asks, paged in best first and parsed only when reached;
--   the orders that came to rest in this very batch, queues by price level linked through `next`.
-- Both sides run through the same code: a `key` is the price in cents of an ask and its negative for a
-- bid, so the lowest key is the best, and an order crosses what lies at or below its own limit key.
--
-- Hot: fields are read and written directly by the matcher; see `make bench`.
local side = {}

-- How many orders are read at once: a small batch reaches few, a large one hundreds.
local PAGE_MIN, PAGE_MAX = 4, 64
local NONE = math.huge
local match, byte = string.match, string.byte

-- sign: 1 for asks, -1 for bids.
function side.new(tag, sign)
  return {
    sign = sign,
    side_text = sign == 1 and ',sell,' or ',buy,',
    index = tag .. (sign == 1 and ':asks' or ':bids'),
    open = tag .. ':open',
    -- The book's own orders. `key` is that of the head, NONE when there is none, nil before the first look.
    key = nil, page = PAGE_MIN, loaded = 0, at = 0, exhausted = false, fields = {}, records = {}, gone = {},
    sequence = nil, left = 0, filled = 0, trader = nil, line = nil, touched = false,
    consumed = 0, -- how many of them, from the best on, are filled
    canceled = {}, -- members that go from anywhere
    entered = {}, -- score, member, … that come
    -- The batch's own orders.
    best = NONE, first = {}, last = {}, next = {}, small = {}, middle = {}, large = {}, larges = 0,
    top = -NONE, -- the better of `key` and `best`; before the first look nothing is too far away
  }
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

-- An order is one line wherever it is stored: sequence, trader, side, price_cents, quantity, time in force,
-- client_order_id, accepted_at; then, if anything is filled, filled_quantity; and once it is completed
-- filled_quantity, status and closed_at.
-- Of an order that rests: the line up to accepted_at, what is filled, trader, price and quantity.
local Z, TRADER_AT = 90, 14
local number = text.number
function side.parse(record)
  local trader, price, quantity = match(record, '(%d+),%a+,(%d+),(%d+)', TRADER_AT)
  if byte(record, -1) == Z then return record, 0, trader, number[price], number[quantity] end
  local line, filled = match(record, '^(.*),(%d+)$')
  return line, number[filled], trader, number[price], number[quantity]
end

-- Moves the head to the next of the book's own orders that is still there.
function side.advance(book)
  local at = book.at
  while true do
    at = at + 1
    if at > book.loaded then
      if not book.exhausted then load_page(book) end
      if at > book.loaded then
        book.at, book.key, book.sequence, book.top = at - 1, NONE, nil, book.best
        return
      end
    end
    local record, field = book.records[at], book.fields[at]
    if not record then
      book.consumed = book.consumed + 1
    elseif not book.gone[field] then
      local line, filled, trader, price, quantity = side.parse(record)
      local key, best = book.sign * price, book.best
      book.at, book.key, book.sequence = at, key, field
      book.top = key < best and key or best
      book.filled, book.left = filled, quantity - filled
      book.trader, book.line, book.touched = trader, line, false
      return
    end
  end
end

-- Adds order i of the batch, which comes to rest at this key. The next best of its keys is found by stepping, a cent
-- at a time within a small span, and over spans that hold none: `small` counts the keys in each small span, `middle` the
-- small spans in each middle one, and so on, where there are any. At most 16 + 32 + 32 + 62 steps, of all allowed prices;
-- mostly a few. A binary heap of the keys took 43 of a match call's 204 Lua instructions an order.
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
  if not held then book.larges = book.larges + 1 end
end

-- The first key of the small span that comes next, where the one of this key has just lost its last key; or nil.
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
      book.larges = book.larges - 1
      if book.larges == 0 then return nil end
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

-- Removes the oldest of the batch's orders at the best key.
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

-- Iterates over the book's own orders without changing anything: key, left, trader; NONE at the end.
local function walk_book(book)
  local at = book.at
  return function(started)
    if not started then return book.key, book.left, book.trader end
    while true do
      at = at + 1
      if at > book.loaded and not book.exhausted then load_page(book) end
      if at > book.loaded then return NONE end
      local record = book.records[at]
      if record and not book.gone[book.fields[at]] then
        local _, filled, trader, price, quantity = side.parse(record)
        return book.sign * price, quantity - filled, trader
      end
    end
  end
end

-- The same over the batch's own orders.
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

-- How much an order with this limit key could trade at once, counted up to `wanted`; with `trader`, up
-- to the first order of that trader. And how many orders were looked at.
function side.available(book, limit_key, wanted, left, traders, trader)
  local next_old, next_new = walk_book(book), walk_batch(book, left, traders)
  local old_key, old_left, old_trader = next_old(false)
  local new_key, new_left, new_trader = NONE, 0, nil
  if book.best ~= NONE then new_key, new_left, new_trader = next_new(false) end
  local found, walked = 0, 0
  while found < wanted and math.min(old_key, new_key) <= limit_key do
    walked = walked + 1
    if old_key <= new_key then
      if old_trader == trader then break end
      found = found + old_left
      old_key, old_left, old_trader = next_old(true)
    else
      if new_trader == trader then break end
      found = found + new_left
      new_key, new_left, new_trader = next_new(true)
    end
  end
  return found, walked
end
