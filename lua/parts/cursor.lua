-- cursor: where matching stands in a card's log; a hash, written by the call that moves it.
--   log_id    the last entry of {card}:orders that is wholly done
--   part      how many commands of the entry after that one are done
--   sequence  the last command that is done
--   trades    how many trades there have been
--   rejected  how many malformed entries were passed over
local cursor = {}

function cursor.read(tag)
  local stored = redis.call('HMGET', tag .. ':cursor', 'log_id', 'part', 'sequence', 'trades', 'rejected')
  return {
    log_id = stored[1] or '0-0',
    part = tonumber(stored[2] or 0),
    sequence = tonumber(stored[3] or 0),
    trades = tonumber(stored[4] or 0),
    rejected = tonumber(stored[5] or 0),
  }
end

function cursor.write(tag, position)
  redis.call('HSET', tag .. ':cursor', 'log_id', position.log_id, 'part', text.integer[position.part],
    'sequence', text.integer[position.sequence], 'trades', text.integer[position.trades],
    'rejected', text.integer[position.rejected])
end
