-- trim: drops archived entries from a card's streams, except those of the newest commands.
--
-- Guarantee: nothing beyond the archived sequence, or beyond the cursor of matching, is dropped.
-- KEYS   {card}
-- ARGS   the archived sequence; the archived commands to keep in {card}:events; the same in {card}:orders
-- Reply  {entries dropped from {card}:events, entries dropped from {card}:orders}
local function trim(keys, args)
  local tag = keys[1]
  local archived = math.min(tonumber(args[1]), cursor.read(tag).sequence)
  local dropped = { 0, 0 }
  local oldest_event = archived - tonumber(args[2]) + 1
  if oldest_event > 1 then
    dropped[1] = redis.call('XTRIM', tag .. ':events', 'MINID', text.integer[oldest_event])
  end
  local oldest_command = archived - tonumber(args[3]) + 1
  local entry = oldest_command > 1 and log.entry_of(tag, oldest_command)
  if entry then dropped[2] = redis.call('XTRIM', tag .. ':orders', 'MINID', entry[1]) end
  return dropped
end

return trim
