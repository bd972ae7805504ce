-- cancel: phase of a match call, beside match_commands (match.lua): cancels orders of the book. The loop over commands
-- itself cancels orders of the batch. A cancel does nothing where its order is completed, unknown, or another trader's.
local cancel = {}

local comma, change_level = text.comma, side.change_level
local sub, parse, is_buy, next_maker = string.sub, order_line.parse, order_line.is_buy, side.next_maker
local SEQUENCE_DIGITS = limits.sequence_digits

-- Finds an order of the book as it is now. `record`: what {card}:open held before the batch. Returns its side, field,
-- line, filled quantity, price and quantity; nil where it rests no more, or is not the owner's.
function cancel.resting(call, record, owner)
  local field, book = sub(record, 1, SEQUENCE_DIGITS), is_buy(record) and call.bids or call.asks
  local changed = book.removed[field]
  if changed == true then return nil end
  local line, filled, trader_id, price, quantity = parse(changed or record)
  if trader_id ~= owner then return nil end
  -- Fills of this batch are written back later: of the head, what is filled is in `book`.
  if book.sequence == field then filled = book.filled end
  return book, field, line, filled, price, quantity
end

-- Removes an order of the book, as `cancel.resting` has found it. `left`: what it has left.
function cancel.remove(call, book, field, price, left)
  book.removed[field] = true
  if call.tracked then change_level(book, book.sign * price, -left) end
  book.canceled[#book.canceled + 1] = field
  call.removed[#call.removed + 1] = field
  if book.sequence == field then next_maker(book) end
end

-- Cancels an order of the book. Returns the order's line, or nil.
local function cancel_resting(call, record, owner, closed_suffix)
  local book, field, line, filled, price, quantity = cancel.resting(call, record, owner)
  if not book then return nil end
  cancel.remove(call, book, field, price, quantity - filled)
  return line .. comma[filled] .. ',canceled' .. closed_suffix
end

-- Reads a trader's resting orders, oldest first: fields, records by field, and how many orders were looked at. Walks
-- all of {card}:open, since only logs of earlier versions have such cancels (lua/cancel_all.lua appends one for each
-- order).
local SCAN_COUNT = 1000
local function resting_orders_of(tag, owner)
  local scanned_to, fields, records, looked_at = '0', {}, {}, 0
  repeat
    local reply = redis.call('HSCAN', tag .. ':open', scanned_to, 'COUNT', SCAN_COUNT)
    scanned_to = reply[1]
    local pairs_read = reply[2]
    for i = 1, #pairs_read, 2 do
      local field, record = pairs_read[i], pairs_read[i + 1]
      local _, _, trader_id = parse(record)
      -- HSCAN may return a field twice.
      if trader_id == owner and not records[field] then
        fields[#fields + 1] = field
        records[field] = record
      end
    end
    looked_at = looked_at + #pairs_read / 2
  until scanned_to == '0'
  table.sort(fields)
  return fields, records, looked_at
end

-- Cancels all orders of a trader that are accepted before command i. The book is scanned once for each trader and call,
-- since orders that come to rest later are in the batch.
local function cancel_all(call, i, orders_count, work, closed_suffix)
  local batch, orders, left = call.batch, call.orders, call.left
  local traders, quantities = batch.traders, batch.quantities
  local owner = traders[i]
  call.scanned_traders = call.scanned_traders or {}
  if not call.scanned_traders[owner] then
    call.scanned_traders[owner] = true
    local fields, records, looked_at = resting_orders_of(call.tag, owner)
    for f = 1, #fields do
      local line = cancel_resting(call, records[fields[f]], owner, closed_suffix)
      if line then
        orders_count = orders_count + 1
        orders[orders_count] = line
      end
    end
    work = work + looked_at + budget.CHECK_INTERVAL
  end
  for j = 1, i - 1 do
    if left[j] > 0 and traders[j] == owner then
      orders_count = orders_count + 1
      orders[orders_count] = call.line(j, comma[quantities[j] - left[j]] .. ',canceled' .. closed_suffix)
      left[j] = 0
    end
  end
  return orders_count, work
end

-- Applies command i of the batch, a cancel of a resting order or of all orders of a trader. `closed_suffix` ends the
-- lines of orders that it completes. Returns `orders_count` and `work` as they are then: the loop keeps both in locals.
function cancel.apply(call, i, orders_count, work, closed_suffix)
  local record = call.named[i]
  if record == true then return cancel_all(call, i, orders_count, work, closed_suffix) end
  local line = cancel_resting(call, record, call.batch.traders[i], closed_suffix)
  if not line then return orders_count, work end
  orders_count = orders_count + 1
  call.orders[orders_count] = line
  return orders_count, work
end
