-- trader: {card}:trader:<id>, a list of sequences, oldest first: the trader's latest orders and whatever
-- older ones are still open. Their contents are in {card}:open and {card}:closed.
local trader = {}

local LATEST = 50
local TRIM_AT = 2 * LATEST

function trader.key(tag, id)
  return tag .. ':trader:' .. id
end

-- Drops the completed orders beyond the latest ones.
function trader.trim(tag, id)
  local key = trader.key(tag, id)
  local older = redis.call('LRANGE', key, 0, -LATEST - 1)
  local records = bulk.read(tag .. ':open', older)
  local closed, kept = {}, {}
  for i = #older, 1, -1 do
    if records[i] then kept[#kept + 1] = older[i] else closed[#closed + 1] = older[i] end
  end
  redis.call('LTRIM', key, -LATEST, -1)
  bulk.call('LPUSH', key, kept)
  bulk.call('HDEL', tag .. ':closed', closed)
end

-- Appends a sequence, or a list of them. Trims when the length passes 100, 200, 400, …: a trim costs what the list
-- holds, so it has to become rarer as more open orders stay in it.
function trader.append(tag, id, sequences)
  local key = trader.key(tag, id)
  local alone = type(sequences) == 'string'
  local length = alone and redis.call('RPUSH', key, sequences) or bulk.call('RPUSH', key, sequences)
  local bound = TRIM_AT
  while bound <= length do
    if length - (alone and 1 or #sequences) < bound then
      trader.trim(tag, id)
      return
    end
    bound = bound * 2
  end
end
