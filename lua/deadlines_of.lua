-- deadlines_of: when a trader's orders on a card are canceled.
--
-- KEYS   {card}
-- ARGS   the trader id
-- Reply  {this server's time, the deadline of the switch, that of the lease, the grace of the lease in seconds}; times in
--        milliseconds since 1970, 0 where there is none
local function deadlines_of(keys, args)
  local tag, id = keys[1], args[1]
  local member = id .. deadlines.LEASE
  local terms = deadlines.terms(tag, { member })[1]
  local grace = terms and tonumber(string.match(terms, '^%d+ (%d+)')) or 0
  return { log.now_ms(), deadlines.of(tag, id), deadlines.of(tag, member), grace }
end

return deadlines_of
