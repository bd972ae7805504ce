-- begin: begins a history of a card: the first one, or the one that follows a loss.
--
-- Guarantee: nothing is changed unless the card still has the history that the caller has seen and, where sequences
--   jump, every command is matched.
-- KEYS   {card}
-- ARGS   1 id of the history that ends ('' where there is none)
--        2 id of the new one, 32 hex digits
--        3 its base: 0 where it keeps all that is there, else the sequence after which it begins
--        4 least number of trades so far, as the archive has them
-- Reply  the id of the card's history as it is now: the new one, or another one that was begun meanwhile
-- Errors ERR where the base is below the last sequence, or above it while commands wait to be matched
local function begin(keys, args)
  local tag, ended, id = keys[1], args[1], args[2]
  local base, trades = tonumber(args[3] or 0), tonumber(args[4] or 0)
  if not id or #id ~= 32 or string.find(id, '%X') or not base or not trades then
    return redis.error_reply('ERR begin takes an id, an id of 32 hex digits, a base, and a number of trades')
  end
  local current = redis.call('HGET', tag .. ':history', 'id') or ''
  if current ~= ended then return current end
  local position, sequence = cursor.read(tag), log.last_sequence(tag)
  if base > 0 and base < sequence then
    return redis.error_reply('ERR the base is below the last sequence, ' .. text.integer[sequence])
  end
  if base > sequence and position.sequence ~= sequence then
    return redis.error_reply('ERR ' .. text.integer[sequence - position.sequence] .. ' commands wait to be matched')
  end
  local began_at = text.time(log.now_ms())
  -- first write
  redis.call('HSET', tag .. ':history', 'id', id, 'format', text.integer[history.FORMAT], 'base', text.integer[base],
    'began_at', began_at)
  redis.call('HDEL', tag .. ':history', 'run', 'kept', 'lost') -- of the history that ends (adopt.lua)
  if base > sequence then redis.call('SET', tag .. ':sequence', text.integer[base]) end
  if base > sequence or trades > position.trades then
    position.sequence, position.trades = math.max(position.sequence, base), math.max(position.trades, trades)
    cursor.write(tag, position)
  end
  return id
end

return begin
