-- order: one order by its sequence, wherever it is in Redis.
--
-- KEYS  {card}
-- ARGS  sequence, and optionally its trader's id: without it, a completed order is found as long as the log holds it
-- Reply names and values in turn: state, sequence, trader_id, side, price_cents, quantity, time_in_force,
--        client_order_id, accepted_at, filled_quantity if anything is filled, and of a completed order status and
--        closed_at. The state is "accepted" (in the log, not matched yet), "open" or "closed". Nil if Redis does
--        not hold the order (unknown, or only in the archive).
local NAMES = {
  'sequence', 'trader_id', 'side', 'price_cents', 'quantity', 'time_in_force', 'client_order_id', 'accepted_at',
  'filled_quantity', 'status', 'closed_at',
}
local INNER, LAST = 2, -2 -- what is between the commas of text.side and text.force

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
      text.integer[command.price], text.integer[command.quantity],
      string.sub(text.force[command.kind], INNER, LAST),
      command.client == 0 and '' or command.client, command.at,
    })
  end
  local field = text.sequence(sequence)
  local line = redis.call('HGET', tag .. ':open', field)
  if line then return named('open', split(line, sequence)) end
  local owner = args[2]
  if not owner then
    local command = log.find(tag, sequence)
    owner = command and command.trader
  end
  line = owner and trader.completed(tag, owner, sequence)
  return line and named('closed', split(line, sequence)) or nil
end

return order
