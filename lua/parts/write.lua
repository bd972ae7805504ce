-- write: last phase of a match call. Brings what Redis holds of the card to the state after the batch.
--   {card}:events  the event of this call
--   {card}:asks    members (sequences) by key: the price in cents, of {card}:bids its negative. Best first
--   {card}:bids
--   {card}:open    the line of each resting order (order_line.lua)
--   {card}:trades  lines of the latest trades, newest first
--   {card}:cursor  (cursor.lua)
-- An order that comes and goes within a batch is never written.
local write = {}

local integer, comma, one_and_force = text.integer, text.comma, text.one_and_force
local SELL, GTC_ONE = text.SELL, one_and_force[string.byte('G')]
local LATEST = limits.latest
local change_level, sub, max = side.change_level, string.sub, math.max

-- The head of each side, where fills have changed it: fields and records in turn.
local function changed_heads(call)
  local opened, count = {}, 0
  for _, book in ipairs({ call.asks, call.bids }) do
    if book.head_changed and book.sequence then
      opened[count + 1], opened[count + 2] = book.sequence, book.line .. comma[book.filled]
      count = count + 2
    end
  end
  return opened, count
end

-- Adds the records of resting orders that a replace has changed, unless they left, or `changed_heads` has them.
local function add_amended(call, opened, count)
  local added = {}
  for _, change in ipairs(call.amended) do
    local book, field = change.book, change.field
    local record = book and not added[field] and book.removed[field]
    if record and record ~= true and not (book.sequence == field and book.head_changed) then
      added[field] = true
      opened[count + 1], opened[count + 2] = field, record
      count = count + 2
    end
  end
  return count
end

-- Lists what enters the book: members of each side in `added`; returns fields and records of {card}:open. Runs
-- before the first write, past which nothing may fail.
function write.prepare(call)
  local batch, left, fields, line = call.batch, call.left, call.fields, call.line
  local kinds, traders, prices, quantities = batch.kinds, batch.traders, batch.prices, batch.quantities
  local plain, times = call.plain, batch.times
  local asks, bids, tracked = call.asks, call.bids, call.tracked
  local added_asks, added_bids, asks_count, bids_count = asks.added, bids.added, 0, 0
  local opened, opened_count = changed_heads(call)
  if call.amended then opened_count = add_amended(call, opened, opened_count) end
  for i = 1, batch.count do
    local remaining = left[i]
    if remaining > 0 then
      local field, price, quantity = fields[i], prices[i], quantities[i]
      local book = asks
      if kinds[i] < SELL then
        book = bids
        added_bids[bids_count + 1], added_bids[bids_count + 2] = integer[-price], field
        bids_count = bids_count + 2
      else
        added_asks[asks_count + 1], added_asks[asks_count + 2] = integer[price], field
        asks_count = asks_count + 2
      end
      if tracked then change_level(book, book.sign * price, remaining) end
      opened[opened_count + 1] = field
      if quantity == 1 and plain then
        opened[opened_count + 2] = field .. ',' .. traders[i] .. book.side_text .. integer[price] .. GTC_ONE .. times[i]
      else
        opened[opened_count + 2] = line(i, remaining == quantity and '' or comma[quantity - remaining])
      end
      opened_count = opened_count + 2
    end
  end
  return opened
end

-- The filled orders of a side are its first members, so one command removes them by rank. Canceled members leave before
-- that, since they may stand among them.
local function write_side(book)
  bulk.call('ZREM', book.index, book.canceled)
  if book.prefix_removed > 0 then redis.call('ZREMRANGEBYRANK', book.index, 0, book.prefix_removed - 1) end
  bulk.call('ZADD', book.index, book.added)
end

local function write_trades(call)
  local trades, count = call.trades, call.trade_count
  if count == 0 then return end
  local latest, key = {}, call.tag .. ':trades'
  for t = max(1, count - LATEST + 1), count do latest[#latest + 1] = sub(trades[t], 1, -2) end
  redis.call('LPUSH', key, unpack(latest))
  redis.call('LTRIM', key, 0, LATEST - 1)
end

-- A key of another type, which only a person can have made, refuses the call before the first write.
local function check_types(call)
  redis.call('ZCARD', call.asks.index)
  redis.call('ZCARD', call.bids.index)
  redis.call('HLEN', call.asks.open)
  redis.call('LLEN', call.tag .. ':trades')
end

-- Writes everything. `opened`: what `prepare` returned.
function write.store(call, opened, event_id, event)
  local tag, asks, bids = call.tag, call.asks, call.bids
  check_types(call)
  -- first write: fails, with nothing changed, if {card}:events has a later id that no match wrote
  redis.call('XADD', tag .. ':events', event_id, unpack(event))
  write_side(asks)
  write_side(bids)
  bulk.call('HDEL', asks.open, call.removed)
  bulk.call('HSET', asks.open, opened)
  write_trades(call)
  cursor.write(tag, call.position)
  if call.tracked then levels.advance(call.tracked, call.position, asks.level_changes, bids.level_changes) end
end
