-- halt: halts a card or lets it go on. While it is halted, append refuses orders and takes cancels.
--
-- Guarantee: no order that append has not answered when this replies gets a sequence until the card goes on.
-- KEYS   {card}
-- ARGS   1 the reason of the halt; '' lets the card go on
-- Reply  {"<time> <reason>" of the halt before this call, or '' where the card was not halted; the same of now}
-- Errors ERR where the card has no history yet
local function halt(keys, args)
  local tag, reason = keys[1], args[1]
  if not reason then return redis.error_reply('ERR halt takes a reason') end
  local stored = redis.call('HMGET', tag .. ':history', 'id', 'halted')
  if not stored[1] then return redis.error_reply('ERR ' .. tag .. ' has no history yet: start an API first') end
  local before, halted = stored[2] or '', ''
  -- The first halt counts: its time says since when nothing was accepted.
  if reason ~= '' then halted = before ~= '' and before or text.time(log.now_ms()) .. ' ' .. reason end
  -- first write
  if halted == '' then
    redis.call('HDEL', tag .. ':history', 'halted')
  else
    redis.call('HSET', tag .. ':history', 'halted', halted)
  end
  return { before, halted }
end

return halt
