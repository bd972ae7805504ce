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
    index = tag .. (sign == 1 and ':asks' or ':bids'),
    open = tag .. ':open',
    -- The book's own orders. `key` is that of the head, NONE when there is none, nil before the first look.
    key = nil, page = PAGE_MIN, loaded = 0, at = 0, exhausted = false, fields = {}, records = {}, gone = {},
    sequence = nil, left = 0, filled = 0, trader = nil, line = nil, touched = false,
    consumed = 0, -- how many of them, from the best on, are filled
    canceled = {}, -- members that go from anywhere
    entered = {}, -- score, member, … that come
    -- The batch's own orders.
    best = NONE, heap = {}, spans = 0, held = {}, first = {}, last = {}, next = {},
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

-- Adds order i of the batch, which comes to rest at this key. Of the keys that have orders, `held` counts those in each
-- span of SPAN, and the spans are a binary heap: within a span the next key is found cent by cent. Walking so from key
-- to key alone was a tenth of a match call, and a heap of keys a fifth.
local SPAN = 16
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
  local span, held = key - key % SPAN, book.held
  local keys = held[span]
  if keys then
    held[span] = keys + 1
    return
  end
  held[span] = 1
  local heap, at = book.heap, book.spans + 1
  book.spans = at
  while at > 1 do
    local parent = (at - at % 2) / 2
    if heap[parent] <= span then break end
    heap[at] = heap[parent]
    at = parent
  end
  heap[at] = span
end

-- Removes the best span from the heap; the next one, or nil.
local function next_span(book)
  local heap, spans = book.heap, book.spans
  local moved = heap[spans]
  heap[spans] = nil
  spans = spans - 1
  book.spans = spans
  if spans == 0 then return nil end
  local at, child = 1, 2
  while child <= spans do
    if child < spans and heap[child + 1] < heap[child] then child = child + 1 end
    if heap[child] >= moved then break end
    heap[at] = heap[child]
    at, child = child, 2 * child
  end
  heap[at] = moved
  return heap[1]
end

-- Removes the oldest of the batch's orders at the best key.
function side.pop(book)
  local best, first = book.best, book.first
  local following = book.next[first[best]]
  first[best] = following
  if following then return end
  book.last[best] = nil
  local span, held = best - best % SPAN, book.held
  local keys = held[span]
  if keys > 1 then
    held[span] = keys - 1
  else
    held[span] = nil
    best = next_span(book)
    if not best then
      book.best, book.top = NONE, book.key
      return
    end
    best = best - 1
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
