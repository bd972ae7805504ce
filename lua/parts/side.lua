-- side: one side of a book while a batch is matched, read from two sources:
--   the resting orders of {card}:bids or {card}:asks, paged in best first and parsed only when reached;
--   the orders that came to rest in this very batch, queues by price level linked through `next`.
-- Both sides run through the same code: a `key` is the price in cents of an ask and its negative for a
-- bid, so the lowest key is the best, and an order crosses what lies at or below its own limit key.
--
-- Hot: fields are read and written directly by the matcher; see `tcgx bench match`.
local side = {}

local PAGE = 50
local NONE = math.huge
local match, sub = string.match, string.sub

-- sign: 1 for asks, -1 for bids.
function side.new(tag, sign, digits)
  return {
    sign = sign,
    index = tag .. (sign == 1 and ':asks' or ':bids'),
    open = tag .. ':open',
    digits = digits,
    -- The book's own orders. `key` is that of the head, NONE when there is none, nil before the first look.
    key = nil, loaded = 0, at = 0, exhausted = false, fields = {}, records = {}, gone = {},
    sequence = nil, left = 0, filled = 0, quantity = 0, trader = nil, rest = nil, touched = false,
    consumed = 0, -- how many of them, from the best on, are filled
    canceled = {}, -- members that go from anywhere
    entered = {}, -- score, member, … that come
    -- The batch's own orders.
    best = NONE, worst = -NONE, first = {}, last = {}, next = {},
  }
end

local function load_page(book)
  local members = redis.call('ZRANGE', book.index, book.loaded, book.loaded + PAGE - 1)
  local count = #members
  if count < PAGE then book.exhausted = true end
  if count == 0 then return end
  local fields, digits = {}, book.digits
  for i = 1, count do fields[i] = text.member_sequence(members[i], digits) end
  local records = redis.call('HMGET', book.open, unpack(fields))
  local loaded = book.loaded
  for i = 1, count do
    book.fields[loaded + i] = fields[i]
    book.records[loaded + i] = records[i]
  end
  book.loaded = loaded + count
end

-- The fields of a record in {card}:open: filled, all after it, trader, price, quantity.
function side.parse(record)
  local filled, rest, trader, price, quantity = match(record, '^(%d+),((%d+),%a+,(%d+),(%d+),.*)$')
  return tonumber(filled), rest, trader, tonumber(price), tonumber(quantity)
end

-- Moves the head to the next of the book's own orders that is still there.
function side.advance(book)
  local at = book.at
  while true do
    at = at + 1
    if at > book.loaded then
      if not book.exhausted then load_page(book) end
      if at > book.loaded then
        book.at, book.key, book.sequence = at - 1, NONE, nil
        return
      end
    end
    local record, field = book.records[at], book.fields[at]
    if not record then
      book.consumed = book.consumed + 1
    elseif not book.gone[field] then
      local filled, rest, trader, price, quantity = side.parse(record)
      book.at, book.key, book.sequence = at, book.sign * price, field
      book.filled, book.left, book.quantity = filled, quantity - filled, quantity
      book.trader, book.rest, book.touched = trader, rest, false
      return
    end
  end
end

-- Adds order i of the batch, which comes to rest at this key.
function side.push(book, i, key)
  local last = book.last[key]
  if last then
    book.next[last] = i
  else
    book.first[key] = i
    if key < book.best then book.best = key end
    if key > book.worst then book.worst = key end
  end
  book.last[key] = i
end

-- Removes the oldest of the batch's orders at the best key.
function side.pop(book)
  local key, first = book.best, book.first
  local following = book.next[first[key]]
  first[key] = following
  if following then return end
  book.last[key] = nil
  local worst = book.worst
  repeat
    key = key + 1
    if key > worst then
      book.best, book.worst = NONE, -NONE
      return
    end
  until first[key]
  book.best = key
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
        local filled, _, trader, price, quantity = side.parse(record)
        return book.sign * price, quantity - filled, trader
      end
    end
  end
end

-- The same over the batch's own orders.
local function walk_batch(book, left, traders)
  local key, i = book.best, book.first[book.best]
  return function(started)
    if started then i = book.next[i] end
    while true do
      while not i do
        key = key + 1
        if key > book.worst then return NONE end
        i = book.first[key]
      end
      if left[i] > 0 then return key, left[i], text.integer[traders[i]] end
      i = book.next[i]
    end
  end
end

-- How much an order with this limit key could trade at once, counted up to `wanted`; with `trader`, up
-- to the first order of that trader.
function side.available(book, limit_key, wanted, left, traders, trader)
  local next_old, next_new = walk_book(book), walk_batch(book, left, traders)
  local old_key, old_left, old_trader = next_old(false)
  local new_key, new_left, new_trader = NONE, 0, nil
  if book.best ~= NONE then new_key, new_left, new_trader = next_new(false) end
  local found = 0
  while found < wanted and math.min(old_key, new_key) <= limit_key do
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
  return found
end
