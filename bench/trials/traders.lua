-- traders: which orders a trader has entered.
--
-- ARGS  sequence before the batch's first, kinds and traders as JSON
-- Reply the latest three sequences of the trader of the last order: the same of all
local function read(args)
  local base, kinds, traders = tonumber(args[1]), cjson.decode(args[2]), cjson.decode(args[3])
  local fields = {}
  for i = 1, #traders do fields[i] = text.sequence(base + i) end
  return { kinds = kinds, traders = traders, cancels = false, count = #traders }, fields
end

-- The batch's traders, each with its sequences, a comma before each.
local function by_trader(batch, fields)
  local slot_of, ids, added = {}, {}, {}
  for i = 1, batch.count do
    local id = batch.traders[i]
    local slot = slot_of[id]
    if slot then
      added[slot] = added[slot] .. ',' .. fields[i]
    else
      slot = #ids + 1
      slot_of[id], ids[slot], added[slot] = slot, id, ',' .. fields[i]
    end
  end
  return ids, added
end

local function latest(sequences)
  return table.concat(sequences, ',', math.max(1, #sequences - 2))
end

local function latest_of_text(written)
  local sequences = {}
  for sequence in string.gmatch(written, '%d+') do sequences[#sequences + 1] = sequence end
  return latest(sequences)
end

local traders = {}

function traders.nothing(_, args)
  read(args)
  return ''
end

-- What tcgx has: lua/parts/trader.lua. Here it sorts what the engine would sort.
function traders.buckets(tag, args)
  local batch, fields = read(args)
  local base = tonumber(args[1])
  trader.begin()
  for i = 1, batch.count do trader.file(batch.traders[i], fields[i] .. ',' .. batch.traders[i] .. ',\n') end
  trader.enter(tag, base, base + batch.count)
  return latest(trader.resting(tag, batch.traders[batch.count]))
end

function traders.lists(tag, args)
  local batch, fields = read(args)
  for i = 1, batch.count do redis.call('RPUSH', tag .. ':trader:' .. batch.traders[i], fields[i]) end
  return table.concat(redis.call('LRANGE', tag .. ':trader:' .. batch.traders[batch.count], -3, -1), ',')
end

function traders.strings(tag, args)
  local batch, fields = read(args)
  local ids, added = by_trader(batch, fields)
  local names, written = {}, {}
  for slot = 1, #ids do names[slot] = tag .. ':trader:' .. ids[slot] end
  local before = redis.call('MGET', unpack(names))
  for slot = 1, #ids do
    written[2 * slot - 1], written[2 * slot] = names[slot], (before[slot] or '') .. added[slot]
  end
  redis.call('MSET', unpack(written))
  return latest_of_text(redis.call('GET', tag .. ':trader:' .. batch.traders[batch.count]))
end

function traders.hash(tag, args)
  local batch, fields = read(args)
  local ids, added = by_trader(batch, fields)
  local key, written = tag .. ':traders', {}
  local before = bulk.read(key, ids)
  for slot = 1, #ids do
    written[2 * slot - 1], written[2 * slot] = ids[slot], (before[slot] or '') .. added[slot]
  end
  bulk.call('HSET', key, written)
  return latest_of_text(redis.call('HGET', key, batch.traders[batch.count]))
end

return traders
