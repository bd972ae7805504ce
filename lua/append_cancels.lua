-- append_cancels: append (append.lua) of cancels alone, each of one order. May run with full memory, since cancels make
-- room in a book, and are few.
--
-- Guarantee: all cancels are in the log, in order and without a gap, or none is.
-- KEYS   {card}
-- ARGS   1 number of cancels
--        2 mark of the history
--        3 most commands that may wait to be matched
--        4 least time of the append, as in append
--        5 and 6 the columns traders and prices (parts/log.lua)
-- Reply  {first sequence, time, its milliseconds}
-- Errors HISTORY where the mark is another one; BACKLOG where too many commands wait
local COMMANDS_MAX = limits.commands_max

local function append_cancels(keys, args)
  local tag, count, waiting_max, time_ms_min = keys[1], tonumber(args[1]), tonumber(args[3]), tonumber(args[4])
  if not count or count < 1 or count > COMMANDS_MAX then
    return redis.error_reply('ERR append_cancels takes 1 to ' .. COMMANDS_MAX .. ' cancels')
  end
  local refusal = history.refuse(tag, args[2])
  if refusal then return refusal end
  local sequence, matched = log.last_sequence(tag), log.last_matched(tag)
  if sequence - matched + count > waiting_max then return log.backlog(tag, sequence - matched) end
  local entry = {
    'entry', '', 'at', '', 'kinds', string.rep('C', count), 'traders', args[5], 'prices', args[6],
    'quantities', '[' .. string.rep('0,', count - 1) .. '0]',
  }
  -- first write
  local time_ms, at = log.append(tag, sequence, count, log.append_time(time_ms_min, log.now_ms()), entry)
  return { sequence + 1, at, time_ms }
end

return append_cancels
