-- client_order: the order that a trader entered on this card under its own id, in the last 24 hours.
--
-- KEYS  {card}
-- ARGS  "<trader>:<client_order_id>"
-- Reply the sequence, or nil
local MS_PER_DAY = 86400000

local function client_order(keys, args)
  local ids_key = keys[1] .. ':client_ids:'
  local day = math.floor(redis.call('TIME')[1] * 1000 / MS_PER_DAY)
  local remembered = redis.call('HGET', ids_key .. text.integer[day], args[1])
    or redis.call('HGET', ids_key .. text.integer[day - 1], args[1])
    or redis.call('HGET', ids_key .. text.integer[day + 1], args[1])
  return remembered and tonumber(string.match(remembered, '^%d+')) or nil
end

return client_order
