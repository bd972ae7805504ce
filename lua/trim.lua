-- trim: drops archived entries from a card's streams, except those of the newest commands.
--
-- Guarantee: nothing beyond the archived sequence, or beyond the cursor of matching, is dropped. A call drops a bounded
--   number of entries from each stream.
-- KEYS   {card}
-- ARGS   the archived sequence; the archived commands to keep in {card}:events; the same in {card}:orders
-- Reply  {entries dropped from {card}:events, entries dropped from {card}:orders, 1 if more may be dropped else 0}
local ENTRIES_MAX = 1000 -- of a stream and call

-- Drops entries before an id: whole nodes of the stream, up to the limit; where that is all, the rest of the last node.
local function drop(key, id)
  local dropped = redis.call('XTRIM', key, 'MINID', '~', id, 'LIMIT', ENTRIES_MAX)
  if dropped > 0 then return dropped, true end
  return redis.call('XTRIM', key, 'MINID', id), false
end

local function trim(keys, args)
  local tag = keys[1]
  local archived = math.min(tonumber(args[1]), cursor.read(tag).sequence)
  local events, orders, more_events, more_orders = 0, 0, false, false
  local oldest_event = archived - tonumber(args[2]) + 1
  if oldest_event > 1 then events, more_events = drop(tag .. ':events', text.integer[oldest_event]) end
  local oldest_command = archived - tonumber(args[3]) + 1
  local entry = oldest_command > 1 and log.entry_of(tag, oldest_command)
  if entry then orders, more_orders = drop(tag .. ':orders', entry[1]) end
  return { events, orders, (more_events or more_orders) and 1 or 0 }
end

return trim
