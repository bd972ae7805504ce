-- entry: a log entry of 500 commands is appended, then read and checked: integers, in their ranges, of one length.
--
-- ARGS  sequence before the entry's first command, the entry's id, its commands in the variant's encoding
-- Reply how many commands, and trader, price and quantity of the last: the same of all
local AT = '2026-01-01T00:00:00.000Z'
local FLAT = 5
local KIND_MAX, INTEGER_MAX, PRICE_MAX = 3, 2147483647, 1000000

-- The same fields, checks of the id and number of entries read as log.read has.
local function append_and_read(tag, args, ...)
  local key, id = tag .. ':orders', args[2]
  redis.call('XADD', key, id, 'entry', id, 'at', AT, ...)
  redis.call('SET', tag .. ':sequence', text.integer[tonumber(args[1]) + 500])
  local fields = redis.call('XRANGE', key, id, '+', 'COUNT', 2)[1][2]
  if fields[1] ~= 'entry' or fields[2] ~= id or fields[3] ~= 'at'
    or not string.find(fields[4], '^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ$') then
    error('it names another id than its own')
  end
  return fields
end

local function integer(value, low, high)
  if type(value) ~= 'number' or value % 1 ~= 0 or value < low or value > high then error('not an integer in range') end
  return value
end

local function flat(values)
  local count = #values / FLAT
  local kinds, traders, prices, quantities, clients = {}, {}, {}, {}, {}
  for i = 1, count do
    local at = FLAT * i - FLAT
    kinds[i] = integer(values[at + 1], -KIND_MAX, KIND_MAX)
    traders[i] = text.integer[integer(values[at + 2], 1, INTEGER_MAX)]
    prices[i] = integer(values[at + 3], 1, PRICE_MAX)
    quantities[i] = integer(values[at + 4], 1, INTEGER_MAX)
    local client = values[at + 5]
    if client ~= 0 and type(client) ~= 'string' then error('not a client_order_id') end
    clients[i] = client
  end
  return { count, traders[count], prices[count], quantities[count] }
end

local entry = {}

-- What tcgx has: lua/parts/log.lua.
function entry.json_columns(tag, args)
  local base, id = tonumber(args[1]), args[2]
  redis.call('XADD', tag .. ':orders', id, 'entry', id, 'at', AT, 'kinds', args[3], 'traders', args[4],
    'prices', args[5], 'quantities', args[6])
  redis.call('SET', tag .. ':sequence', text.integer[base + 500])
  local ms, first = string.match(id, '^(%d+)-(%d+)$')
  local before = { log_id = ms .. '-' .. text.integer[tonumber(first) - 1], sequence = base, part = 0 }
  local batch = log.read(tag, before, 500)
  local count = batch.count
  return { count, batch.traders[count], batch.prices[count], batch.quantities[count] }
end

function entry.json_flat(tag, args)
  return flat(cjson.decode(append_and_read(tag, args, 'commands', args[3])[6]))
end

function entry.msgpack_flat(tag, args)
  return flat(cmsgpack.unpack(append_and_read(tag, args, 'commands', args[3])[6]))
end

function entry.msgpack_columns(tag, args)
  local fields = append_and_read(tag, args, 'kinds', args[3], 'traders', args[4], 'prices', args[5],
    'quantities', args[6])
  local function column(packed, low, high)
    local values = cmsgpack.unpack(packed)
    for i = 1, #values do
      if type(values[i]) ~= 'number' or values[i] % 1 ~= 0 then error('not an integer') end
    end
    if math.min(unpack(values)) < low or math.max(unpack(values)) > high then error('not in range') end
    return values
  end
  local kinds = column(fields[6], -KIND_MAX, KIND_MAX)
  local traders = cmsgpack.unpack(fields[8])
  for i = 1, #traders do
    local id = traders[i]
    if type(id) ~= 'string' or not string.find(id, '^[1-9]%d*$') or (#id > 9 and tonumber(id) > INTEGER_MAX) then
      error('not a trader')
    end
  end
  local prices, quantities = column(fields[10], 1, PRICE_MAX), column(fields[12], 1, INTEGER_MAX)
  local count = #kinds
  if #traders ~= count or #prices ~= count or #quantities ~= count then error('not of one length') end
  return { count, traders[count], prices[count], quantities[count] }
end

return entry
