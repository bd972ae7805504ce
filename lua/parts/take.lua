-- take: first phase of a match call. Reads the next commands from the log and prepares the state of the call.
--
-- The state is one table that every phase receives:
--   tag, position       the card, and its cursor (cursor.lua) as the call found it
--   base                the last sequence before the batch: command i of the batch has sequence base + i
--   batch               columns of the commands (log.lua)
--   deadline            second at which the call ends (budget.lua), or nil
--   asks, bids          both sides of the book (side.lua)
--   tracked             the card's price levels (levels.lua), or nil
--   watched             what readers want of the event (watching.lua), or nil
--   plain               whether all orders of the batch have lines of the shortest form: no client_order_id, none
--                       post-only, none that replaces another one
--   named               of command i of the batch, a cancel or replace: the record of the resting order that it names;
--                       `true` of a cancel that names all orders of its trader; nil where it names an order of the
--                       batch or none
--   forces              time in force of order i of the batch where it replaces another one; nil without replaces
--   amended             changes of resting orders that keep their place (replace.lua); nil without replaces
--   left                unfilled quantity of order i of the batch; 0 of a cancel and of a completed order
--   fields              sequence of order i of the batch as text
--   line                writes the line of order i of the batch (order_line.lua)
--   trades, orders      lines of trades and of completed orders, with trade_count and orders_count of them
--   removed             fields that leave {card}:open
--   work                fills, and orders that were only looked at
-- Later phases add first and last (sequences as text), trade_lines and order_lines (report.lua), and scanned_traders
-- (cancel.lua).
local take = {}

local CANCEL = text.CANCEL

-- Reads the resting orders that cancels and replaces of the batch name: one read for all, before anything is matched.
local function read_named_records(tag, batch, base)
  local kinds, prices, targets, commands, fields, records, count =
    batch.kinds, batch.prices, batch.targets, {}, {}, {}, 0
  for i = 1, batch.count do
    local is_cancel = kinds[i] == CANCEL
    local target = is_cancel and prices[i] or targets and targets[i] or 0
    if target <= base then
      if is_cancel and target == 0 then
        records[i] = true
      elseif target > 0 then
        count = count + 1
        commands[count], fields[count] = i, text.sequence(target)
      end
    end
  end
  local values = bulk.read(tag .. ':open', fields)
  for c = 1, count do records[commands[c]] = values[c] or nil end
  return records
end

-- The state of a call; or nil and the reply of a call that has nothing to do. `started` is nil without hold_ms.
function take.call(tag, commands_max, hold_ms, started)
  local position = cursor.read(tag)
  local batch, fault = log.read(tag, position, budget.commands_max(commands_max, hold_ms))
  if not batch then return nil, redis.error_reply('GAP ' .. fault) end
  if batch.count == 0 and #batch.rejected == 0 then
    return nil, { 0, position.sequence, position.log_id, 0, 0, 0 }
  end
  local asks, bids = side.new(tag, 1), side.new(tag, -1)
  local watched = watching.of(tag)
  local tracked = levels.tracked(tag, position, watched)
  if tracked then asks.level_changes, bids.level_changes = {}, {} end
  local fields, forces, amended = {}, nil, nil
  if batch.targets then
    forces, amended = {}, {}
    -- A replace changes quantities. Those of a borrowed column belong to the log.
    if batch.borrowed then batch.quantities = { unpack(batch.quantities, 1, batch.count) } end
  end
  return {
    tag = tag, position = position, base = position.sequence, batch = batch,
    deadline = budget.deadline(started, hold_ms),
    asks = asks, bids = bids, tracked = tracked, watched = watched,
    plain = not batch.clients and not batch.special,
    named = (batch.cancels or batch.targets) and read_named_records(tag, batch, position.sequence),
    left = {}, fields = fields, forces = forces, amended = amended,
    line = order_line.writer(batch, fields, forces),
    trades = {}, orders = {}, removed = {}, trade_count = 0, orders_count = 0, work = 0,
  }
end
