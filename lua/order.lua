-- order: finds one order by its sequence, wherever it is in Redis.
--
-- KEYS   {card}
-- ARGS   sequence
-- Reply  names and values in turn: state, sequence, trader_id, side, price_cents, quantity, time_in_force,
--        client_order_id, accepted_at (values as in parts/order_line.lua); then filled_quantity, where anything is filled; of a completed order also status
--        and closed_at. The state is "accepted" (in the log, not matched yet), "open" or "closed". Nil where Redis does
--        not hold the order (unknown, or only in the archive), or where the order was completed long after it was
--        accepted: the search ends EVENTS_BYTES_MAX behind the event that has the order's command
-- Errors ERR where the argument is no positive integer
local NAMES = {
  'sequence', 'trader_id', 'side', 'price_cents', 'quantity', 'time_in_force', 'client_order_id', 'accepted_at',
  'filled_quantity', 'status', 'closed_at',
}
local INNER, LAST = 2, -2 -- first and last letter between the commas of a side and a time in force

local function named(state, values)
  local reply = { 'state', state }
  for i = 1, #values do
    reply[2 * i + 1], reply[2 * i + 2] = NAMES[i], values[i]
  end
  return reply
end

local function split(line, sequence)
  local values = {}
  for value in string.gmatch(line .. ',', '([^,]*),') do values[#values + 1] = value end
  values[1] = text.integer[sequence]
  return values
end

-- Bytes of events that a search reads; each event counts EVENT_BYTES more than its lines, which bounds their number.
local EVENTS_BYTES_MAX, EVENT_BYTES = 200000, 1000

local function field_of(event, name)
  for f = 1, #event[2], 2 do
    if event[2][f] == name then return event[2][f + 1] end
  end
  return ''
end

-- Searches the line of a completed order in the event that has its command, and in those behind it. Nil where that
-- first event is trimmed, since then the archive has the order.
local function completed_line(tag, sequence)
  local prefix, key, from = text.sequence(sequence) .. ',', tag .. ':events', text.integer[sequence] .. '-0'
  local bytes, is_first = 0, true
  while bytes < EVENTS_BYTES_MAX do
    local event = redis.call('XRANGE', key, from, '+', 'COUNT', 1)[1]
    if not event or is_first and (tonumber(field_of(event, 'first')) or 0) > sequence then return nil end
    local lines = field_of(event, 'orders')
    local at = string.sub(lines, 1, #prefix) == prefix and 1 or string.find(lines, '\n' .. prefix, 1, true)
    if at then return string.match(lines, '[^\n]+', at) end
    bytes, from, is_first = bytes + EVENT_BYTES + #lines + #field_of(event, 'trades'), '(' .. event[1], false
  end
  return nil
end

local function order(keys, args)
  local tag, sequence = keys[1], tonumber(args[1])
  if not sequence or sequence < 1 or sequence % 1 ~= 0 then
    return redis.error_reply('ERR order takes a sequence, a positive integer')
  end
  if sequence > cursor.read(tag).sequence then
    local command = log.find(tag, sequence)
    if not command or command.kind == text.CANCEL then return nil end
    return named('accepted', {
      text.integer[sequence], command.trader, string.sub(text.side[command.kind], INNER, LAST),
      text.integer[command.price], text.integer[math.abs(command.quantity)],
      string.sub(order_line.accepted_force(command), INNER, LAST),
      command.client == 0 and '' or command.client, command.at,
    })
  end
  local field = text.sequence(sequence)
  local line = redis.call('HGET', tag .. ':open', field)
  if line then return named('open', split(line, sequence)) end
  line = completed_line(tag, sequence)
  return line and named('closed', split(line, sequence)) or nil
end

return order
