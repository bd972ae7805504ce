-- trader: which orders a trader has entered on this card, by sequence. Their contents are in {card}:open and
-- {card}:closed.
--   {card}:traders   a hash, read and written for a whole batch in one call each (with a list a trader, one RPUSH
--                    an order, a match call costs 1.1 to 1.3 times as much):
--     <id>             the newest sequences, a comma before each, behind the number of that chunk
--     <id>:<number>    the chunks before that one, full ones, as many as the latest orders take
--   {card}:older:<id>  a list: orders of older chunks that were open when these were dropped, oldest first
local trader = {}

local LATEST = 50
local CHUNK = 8
local CHUNKS = math.ceil(LATEST / CHUNK) -- full ones that are kept besides the newest
local NUMBER = '%06d'
local DIGITS = 6
local ITEM = 13 -- a comma and a sequence
local FULL = DIGITS + CHUNK * ITEM
local TRIM_AT = 2 * LATEST

local function chunk_field(id, number)
  return id .. ':' .. text.integer[number]
end

local function sequences_of(chunk, into)
  for sequence in string.gmatch(chunk, ',(%d+)') do into[#into + 1] = sequence end
  return into
end

-- Appends to a trader's older open orders. Drops the completed ones when the length passes 100, 200, 400, …: that
-- costs what the list holds, so it has to become rarer as more open orders stay in it.
local function keep_older(tag, id, open)
  local key = tag .. ':older:' .. id
  local length = bulk.call('RPUSH', key, open)
  local bound = TRIM_AT
  while bound <= length do
    if length - #open < bound then
      trader.trim(tag, id)
      return
    end
    bound = bound * 2
  end
end

-- Drops the completed orders from a trader's older ones.
function trader.trim(tag, id)
  local key = tag .. ':older:' .. id
  local sequences = redis.call('LRANGE', key, 0, -1)
  local records = bulk.read(tag .. ':open', sequences)
  local open, closed = {}, {}
  for i = 1, #sequences do
    local into = records[i] and open or closed
    into[#into + 1] = sequences[i]
  end
  if #closed == 0 then return end
  redis.call('DEL', key)
  bulk.call('RPUSH', key, open)
  bulk.call('HDEL', tag .. ':closed', closed)
end

-- Drops chunks that are older than the latest orders.
local function retire(tag, dropped)
  local key = tag .. ':traders'
  local fields = {}
  for d = 1, #dropped do fields[d] = chunk_field(dropped[d].id, dropped[d].number) end
  local chunks = bulk.read(key, fields)
  local sequences, ends = {}, {}
  for d = 1, #dropped do
    sequences_of(chunks[d] or '', sequences)
    ends[d] = #sequences
  end
  local records = bulk.read(tag .. ':open', sequences)
  local closed, from = {}, 1
  for d = 1, #dropped do
    local open = {}
    for i = from, ends[d] do
      local into = records[i] and open or closed
      into[#into + 1] = sequences[i]
    end
    from = ends[d] + 1
    if #open > 0 then keep_older(tag, dropped[d].id, open) end
  end
  bulk.call('HDEL', tag .. ':closed', closed)
  bulk.call('HDEL', key, fields)
end

-- Enters the orders of a batch (not its cancels), after {card}:open and {card}:closed are written.
function trader.enter(tag, batch, fields, count)
  local kinds, traders, cancels = batch.kinds, batch.traders, batch.cancels
  -- A trader's first order of the batch has the slot of its id; `again` lists the others.
  local slot_of, ids, first, slots, again = {}, {}, {}, 0, {}
  for i = 1, count do
    if not cancels or kinds[i] ~= 0 then
      local id = traders[i]
      if slot_of[id] then
        again[#again + 1] = i
      else
        slots = slots + 1
        slot_of[id], ids[slots], first[slots] = slots, id, fields[i]
      end
    end
  end
  if slots == 0 then return end
  local key = tag .. ':traders'
  local newest = bulk.read(key, ids)
  local written, dropped = {}, {}

  -- A chunk with one more sequence: itself or, where it is full, the next one.
  local function longer(chunk, id, sequence)
    if not chunk then return '000000,' .. sequence end
    if #chunk < FULL then return chunk .. ',' .. sequence end
    local number = tonumber(string.sub(chunk, 1, DIGITS))
    written[#written + 1] = chunk_field(id, number)
    written[#written + 1] = string.sub(chunk, DIGITS + 1)
    if number >= CHUNKS then dropped[#dropped + 1] = { id = id, number = number - CHUNKS } end
    return string.format(NUMBER, number + 1) .. ',' .. sequence
  end

  for slot = 1, slots do
    local chunk = newest[slot]
    newest[slot] = chunk and #chunk < FULL and chunk .. ',' .. first[slot] or longer(chunk, ids[slot], first[slot])
  end
  for a = 1, #again do
    local slot = slot_of[traders[again[a]]]
    newest[slot] = longer(newest[slot], ids[slot], fields[again[a]])
  end
  local at = #written
  for slot = 1, slots do
    written[at + 1], written[at + 2] = ids[slot], newest[slot]
    at = at + 2
  end
  bulk.call('HSET', key, written)
  if #dropped > 0 then retire(tag, dropped) end
end

-- A trader's sequences, oldest first: the latest ones (50 or a few more), with `all_open` also older ones that may
-- still be open.
function trader.sequences(tag, id, all_open)
  local key = tag .. ':traders'
  local found = all_open and redis.call('LRANGE', tag .. ':older:' .. id, 0, -1) or {}
  local newest = redis.call('HGET', key, id)
  if not newest then return found end
  local number = tonumber(string.sub(newest, 1, DIGITS))
  local fields = {}
  for n = math.max(0, number - CHUNKS), number - 1 do fields[#fields + 1] = chunk_field(id, n) end
  local chunks = bulk.read(key, fields)
  for c = 1, #fields do sequences_of(chunks[c] or '', found) end
  return sequences_of(newest, found)
end
