-- order: one order by its sequence, wherever it is in Redis.
--
-- KEYS  {card}
-- ARGS  sequence
-- Reply {state, sequence, trader_id, side, price_cents, quantity, time_in_force, client_order_id, accepted_at
--        [, filled_quantity[, status, closed_at]]}; the state is "accepted" (in the log, not matched yet), "open"
--        or "closed"; nil if Redis does not hold it (unknown, or only in the archive)
local KINDS = { 'gtc', 'ioc', 'fok' }

local function split(state, line)
  local reply = { state }
  for value in string.gmatch(line .. ',', '([^,]*),') do reply[#reply + 1] = value end
  return reply
end

local function order(keys, args)
  local tag, sequence = keys[1], tonumber(args[1])
  if not sequence or sequence < 1 or sequence % 1 ~= 0 then
    return redis.error_reply('ERR order takes a sequence, a positive integer')
  end
  local field = text.sequence(sequence)
  if sequence > cursor.read(tag).sequence then
    local command = log.find(tag, sequence)
    if not command or command.kind == 0 then return nil end
    return {
      'accepted', field, text.integer[command.trader], command.kind > 0 and 'buy' or 'sell',
      text.integer[command.price], text.integer[command.quantity], KINDS[math.abs(command.kind)],
      command.client == 0 and '' or command.client, command.at,
    }
  end
  local line = redis.call('HGET', tag .. ':open', field)
  if line then return split('open', line) end
  line = redis.call('HGET', tag .. ':closed', field)
  if line then return split('closed', line) end
  return nil
end

return order
