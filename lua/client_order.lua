-- client_order: finds the order that a trader entered on this card under its own id, in the last 24 hours.
--
-- KEYS   {card}
-- ARGS   "<trader id>:<client_order_id>"
-- Reply  {sequence of its command, sequence of the order that the command replaces, else 0}; or nil
local function client_order(keys, args)
  local ids_key = keys[1] .. ':client_ids:'
  local day = math.floor(log.now_ms() / text.MS_PER_DAY)
  -- append.lua stores ids by day. Tomorrow's key exists where a clock went back over midnight.
  local stored = redis.call('HGET', ids_key .. text.integer[day], args[1])
    or redis.call('HGET', ids_key .. text.integer[day - 1], args[1])
    or redis.call('HGET', ids_key .. text.integer[day + 1], args[1])
  if not stored then return nil end
  return { tonumber(string.match(stored, '^%d+')), tonumber(string.match(stored, ' %a(%d+)') or 0) }
end

return client_order
