-- adopt: readies a card for appends to a server that may be a promoted replica, once for each run of the server.
--
-- Such a server may lack the end of the log. Orders of that end may have been seen, although nobody had an answer. So
--   their sequences are filled with cancels that cancel nothing, and are given to no other order.
-- Guarantee: the sequences of a run are filled once, however many services call this. The log stays without a gap.
-- KEYS   {card}
-- ARGS   1 mark of the history
--        2 the last sequence of an earlier run that the caller knows as acknowledged; 0 if there is none
--        3 the last sequence that the caller knows at all
--        4 how many more sequences may have been given out
-- Reply  {the last sequence that the server had when its run was adopted; the last acknowledged one that it lacked, 0
--        if it lacked none}
-- Errors HISTORY where the mark is another one
local COMMANDS_MAX = limits.commands_max

-- The fields and values of a log entry with cancels behind a sequence. Each names itself, by a trader that is nobody.
local function entry_of(sequence, count)
  local own = {}
  for i = 1, count do own[i] = text.integer[sequence + i] end
  return {
    'entry', '', 'at', '', 'kinds', string.rep('C', count),
    'traders', '[' .. string.rep('"0",', count - 1) .. '"0"]',
    'prices', '[' .. table.concat(own, ',') .. ']',
    'quantities', '[' .. string.rep('0,', count - 1) .. '0]',
  }
end

local function adopt(keys, args)
  local tag, acknowledged, known, margin = keys[1], tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
  if not (acknowledged and known and margin) then
    return redis.error_reply('ERR adopt takes a mark, two sequences, and a number of sequences')
  end
  local refusal = history.refuse(tag, args[1])
  if refusal then return refusal end
  local key, sequence = tag .. ':history', log.last_sequence(tag)
  local stored = redis.call('HMGET', key, 'run', 'kept', 'lost')
  local kept, lost = tonumber(stored[2] or 0), tonumber(stored[3] or 0)
  local time_ms = log.now_ms()
  -- first write
  if stored[1] ~= history.run then
    kept = sequence
    known = math.max(sequence, known)
    local last = known > 0 and known + margin or 0 -- nothing was ever given out of a log without a command
    while sequence < last do
      local count = math.min(COMMANDS_MAX, last - sequence)
      log.append(tag, sequence, count, time_ms, entry_of(sequence, count))
      sequence = sequence + count
    end
    redis.call('HSET', key, 'run', history.run, 'kept', text.integer[kept])
  end
  if acknowledged > kept and acknowledged > lost then
    lost = acknowledged
    redis.call('HSET', key, 'lost', text.integer[lost])
  end
  return { kept, lost }
end

return adopt
