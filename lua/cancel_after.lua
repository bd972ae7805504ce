-- cancel_after: sets, renews or clears the switch of a trader on a card. Once its time is over, an engine cancels all
-- orders of the trader there (cancel_due.lua), and the switch is off until it is set again.
--
-- Guarantee: the time counts by this server's clock, from this call on.
-- KEYS   {card}
-- ARGS   1 mark of the history
--        2 trader id
--        3 milliseconds; 0 clears the switch
-- Reply  the deadline in milliseconds since 1970; 0 where the switch is off
-- Errors HISTORY where the mark is another one
local MS_MAX = limits.cancel_after_seconds_max * 1000

local function cancel_after(keys, args)
  local tag, id, milliseconds = keys[1], args[2], tonumber(args[3])
  if not id or not string.find(id, '^[1-9]%d*$')
    or not milliseconds or milliseconds % 1 ~= 0 or milliseconds < 0 or milliseconds > MS_MAX then
    return redis.error_reply('ERR cancel_after takes a mark, a trader, and 0 to ' .. MS_MAX .. ' milliseconds')
  end
  local refusal = deadlines.refuse(tag, args[1])
  if refusal then return refusal end
  local deadline_ms = log.now_ms() + milliseconds
  -- first write
  if milliseconds == 0 then
    deadlines.clear(tag, { id })
    return 0
  end
  deadlines.set(tag, { text.integer[deadline_ms], id }, { id, text.integer[milliseconds] })
  return deadline_ms
end

return cancel_after
