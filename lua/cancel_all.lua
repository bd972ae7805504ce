-- cancel_all: puts a cancel for each order of a trader that may be open at the end of a card's log.
--
-- Guarantee: none is missed that was accepted before, matched or not. All cancels of a call are in the log, in order and
--   without a gap, or none is.
-- KEYS  {card}
-- ARGS  the trader's id, the mark of the history, how many commands may wait to be matched, the least time to be given (as
--       in append), and, to go on with what a call before has left: the last order that it canceled, and the sequence that
--       all are below; 0 and 0 at first
-- Reply {first sequence of the cancels (0 where there is nothing to cancel), their time, its milliseconds, 1 if there are
--       more, the sequence that all are below, the sequences of the orders, oldest first}
-- Error HISTORY where the mark is another one; BACKLOG when the matcher is too far behind
local ENTRIES_MAX = 5 -- of a call

local function cancel_all(keys, args)
  local tag, id, waiting_max, time_ms_min = keys[1], args[1], tonumber(args[3]), tonumber(args[4])
  local after, before = tonumber(args[5]), tonumber(args[6])
  if not id or not string.find(id, '^[1-9]%d*$') or not (waiting_max and time_ms_min and after and before) then
    return redis.error_reply('ERR cancel_all takes a trader, a mark, a bound, a time, and two sequences')
  end
  if args[2] ~= history.mark(tag) then return redis.error_reply('HISTORY the mark is ' .. history.mark(tag)) end
  local sequence, matched = log.last_sequence(tag), log.last_matched(tag)
  if before == 0 then before = sequence + 1 end
  local targets, more = trader.unfinished(
    tag, trader.between(tag, id, after, before), matched, ENTRIES_MAX * log.COMMANDS_MAX
  )
  if #targets == 0 then return { 0, '', 0, 0, before, targets } end
  -- What a call before began is finished, whatever waits: a trader has only so many orders.
  if after == 0 and sequence - matched >= waiting_max then return log.backlog(tag, sequence - matched) end
  local time_ms = log.at_least(time_ms_min, log.now_ms())
  local first, at = sequence + 1, nil
  -- first write
  for from = 1, #targets, log.COMMANDS_MAX do
    local to = math.min(from + log.COMMANDS_MAX - 1, #targets)
    local count, sequences = to - from + 1, {}
    for i = from, to do sequences[i - from + 1] = text.integer[targets[i]] end
    local entry = {
      'entry', '', 'at', '', 'kinds', string.rep('C', count),
      'traders', '[' .. string.rep('"' .. id .. '",', count - 1) .. '"' .. id .. '"]',
      'prices', '[' .. table.concat(sequences, ',') .. ']',
      'quantities', '[' .. string.rep('0,', count - 1) .. '0]',
    }
    time_ms, at = log.append(tag, sequence, count, time_ms, entry)
    sequence = sequence + count
  end
  return { first, at, time_ms, more and 1 or 0, before, targets }
end

return cancel_all
