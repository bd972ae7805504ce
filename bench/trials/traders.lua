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

-- Buckets of all traders whose ids end alike, all lines of a portion in one HSET; to be sorted into lists later.
function traders.portions(tag, args)
  local batch, fields = read(args)
  local buckets, names, key = {}, {}, tag .. ':recent'
  for i = 1, batch.count do
    local bucket = string.sub(batch.traders[i], -2)
    local lines = buckets[bucket]
    if not lines then
      lines = {}
      buckets[bucket], names[#names + 1] = lines, bucket
    end
    lines[#lines + 1] = fields[i] .. ',' .. batch.traders[i] .. ',\n'
  end
  local number = redis.call('HINCRBY', key, 'portions', 1)
  local written = {}
  for n = 1, #names do
    written[2 * n - 1], written[2 * n] = names[n] .. ':' .. text.integer[number], table.concat(buckets[names[n]])
  end
  redis.call('HSET', key, unpack(written))
  local last, found = batch.traders[batch.count], {}
  local recent = {}
  for n = math.max(1, number - 200), number do recent[#recent + 1] = string.sub(last, -2) .. ':' .. text.integer[n] end
  local texts = bulk.read(key, recent)
  for n = 1, #recent do
    for sequence, id in string.gmatch(texts[n] or '', '(%d+),(%d+),') do
      if id == last then found[#found + 1] = sequence end
    end
  end
  return latest(found)
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
