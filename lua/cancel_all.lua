-- cancel_all: appends to a card's log a cancel for each order of a trader that may be open.
--
-- Guarantee: no order that was accepted earlier is missed, matched or not, once all calls are made. All cancels of a call
--   are in the log, in order and without a gap, or none is. A call looks at a bounded number of orders.
-- KEYS   {card}
-- ARGS   1 trader id
--        2 mark of the history
--        3 most commands that may wait to be matched
--        4 least time of the append, as in append
--        5 last order that the previous call looked at, as it replied; 0 in a first call
--        6 sequence below which all orders are, as the previous call replied; 0 in a first call
-- Reply  {first sequence of the cancels (0 where there are none), their time, its milliseconds, the last order that was
--        looked at where later ones may be open else 0, the sequence below which all orders are, the sequences of the
--        orders, oldest first}
-- Errors HISTORY where the mark is another one; BACKLOG where too many commands wait before a first call
local function cancel_all(keys, args)
  local tag, id, waiting_max, time_ms_min = keys[1], args[1], tonumber(args[3]), tonumber(args[4])
  local after, before = tonumber(args[5]), tonumber(args[6])
  if not id or not string.find(id, '^[1-9]%d*$') or not (waiting_max and time_ms_min and after and before) then
    return redis.error_reply('ERR cancel_all takes a trader, a mark, a bound, a time, and two sequences')
  end
  local refusal = history.refuse(tag, args[2])
  if refusal then return refusal end
  local sequence, matched = log.last_sequence(tag), log.last_matched(tag)
  local targets, reached
  targets, reached, before = cancel_each.look(tag, id, sequence, matched, after, before)
  if #targets == 0 and reached == 0 then return { 0, '', 0, 0, before, targets } end
  -- What the first call began is finished, whatever waits: a trader has only so many orders.
  if after == 0 and sequence - matched >= waiting_max then return log.backlog(tag, sequence - matched) end
  if #targets == 0 then return { 0, '', 0, reached, before, targets } end
  local time_ms = log.append_time(time_ms_min, log.now_ms())
  -- first write
  local at_ms, at = cancel_each.append(tag, id, sequence, targets, time_ms)
  return { sequence + 1, at, at_ms, reached, before, targets }
end

return cancel_all
