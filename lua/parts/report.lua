-- report: phase of a match call, after its commands are matched. Makes event, notification and reply; writes nothing.
local report = {}

local integer, concat = text.integer, table.concat

-- A notification of at most this many commands has their trades and completed orders.
local NOTIFIED_COMMANDS_MAX = 100

-- Makes the texts that event and notification share, after the cursor has moved.
function report.prepare(call)
  call.first, call.last = integer[call.base + 1], integer[call.position.sequence]
  call.trade_lines = text.join(call.trades, call.trade_count)
  call.order_lines = text.join(call.orders, call.orders_count)
end

-- The lines of orders that rest after the call. `opened`: fields and records in turn (write.lua).
local function opened_lines(opened)
  local lines = {}
  for i = 2, #opened, 2 do lines[i / 2] = opened[i] end
  lines[#lines + 1] = ''
  return concat(lines, '\n')
end

-- The changes of orders that kept their place. `amended`: see replace.lua.
local function amended_lines(amended)
  local lines = {}
  for i, change in ipairs(amended) do
    lines[i] = integer[change.command] .. ',' .. integer[change.target] .. ',' .. integer[change.before] .. ','
      .. integer[change.after] .. '\n'
  end
  return concat(lines)
end

-- Returns the id and the fields of the event. The largest field comes last: making room for a field, Redis copies what
-- stands before it. `opened`: what write.prepare returned.
function report.event(call, opened)
  local position, rejected = call.position, call.batch.rejected
  local event, size = { 'first', call.first, 'log', position.log_id }, 4
  if call.watched and call.tracked then
    event[5], event[6] = 'levels', levels.changed(call.tracked, call.asks.level_changes, call.bids.level_changes)
    size = 6
  end
  if call.watched == 2 then
    event[size + 1], event[size + 2] = 'opened', opened_lines(opened)
    size = size + 2
    if call.amended and #call.amended > 0 then
      event[size + 1], event[size + 2] = 'amended', amended_lines(call.amended)
      size = size + 2
    end
  end
  if call.trade_count > 0 then
    event[size + 1], event[size + 2] = 'trades', call.trade_lines
    size = size + 2
  end
  if call.orders_count > 0 then
    event[size + 1], event[size + 2] = 'orders', call.order_lines
    size = size + 2
  end
  if #rejected > 0 then
    event[size + 1], event[size + 2] = 'rejected', concat(rejected, '\n') .. '\n'
  end
  return call.last .. '-' .. integer[position.rejected], event
end

-- The message to {card}:matched.
function report.notification(call)
  local range = call.first .. ' ' .. call.last
  if call.batch.count > NOTIFIED_COMMANDS_MAX then return range end
  return range .. ' ' .. integer[call.trade_count] .. '\n' .. call.trade_lines .. call.order_lines
end

function report.reply(call)
  local position, batch = call.position, call.batch
  return { batch.count, position.sequence, position.log_id, call.trade_count, #batch.rejected, batch.more and 1 or 0 }
end
