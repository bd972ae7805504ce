-- cursor: the position of matching in a card's log. The hash {card}:cursor, written by the call that moves it:
--   log_id    the last entry of {card}:orders whose commands are all matched
--   part      number of matched commands of the entry after that one
--   sequence  the last matched command
--   trades    number of trades so far
--   rejected  number of malformed entries so far
local cursor = {}

local integer = text.integer

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

-- Moves a position to the end of a batch.
function cursor.advance(position, batch, trade_count)
  position.log_id, position.part, position.sequence = batch.log_id, batch.part, batch.sequence
  position.trades = position.trades + trade_count
  position.rejected = position.rejected + #batch.rejected
end

function cursor.write(tag, position)
  redis.call('HSET', tag .. ':cursor', 'log_id', position.log_id, 'part', integer[position.part],
    'sequence', integer[position.sequence], 'trades', integer[position.trades],
    'rejected', integer[position.rejected])
end
