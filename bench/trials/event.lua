-- event: how the trades and the completed orders of a batch are told to those who follow.
--
-- Every order of the first 78 % of the batch trades with its neighbour: as many as of the uniform flow do.
-- The match function stores the lines of completed orders in {card}:closed, too: that is not done here, but with arrays
-- they have to be made besides (msgpack_and_lines).
-- ARGS  sequence before the batch's first, traders and price_cents as JSON
-- Reply how many trades: the same of all
local AT = '2026-01-01T00:00:00.000Z'
local SHARE = 0.78
local integer, side_text, one_and_force = text.integer, text.side, text.one_and_force
local comma = text.comma
local BUY, SELL = string.byte('Gg', 1, 2)

local function read(args)
  local base, traders, prices = tonumber(args[1]), cjson.decode(args[2]), cjson.decode(args[3])
  return base, traders, prices, math.floor(#prices * SHARE / 2)
end

local function id_of(base, count)
  return text.integer[base + count] .. '-0'
end

local function line(field, trader_id, kind, price)
  return field .. ',' .. trader_id .. side_text[kind] .. integer[price] .. one_and_force[kind] .. ',' .. AT .. ',1,filled,' .. AT .. '\n'
end

-- The lines of the two orders of trade t.
local function orders_of(base, traders, prices, t)
  local maker, taker = 2 * t - 1, 2 * t
  return line(text.sequence(base + maker), traders[maker], SELL, prices[maker]),
    line(text.sequence(base + taker), traders[taker], BUY, prices[taker])
end

local function trade_of(base, traders, prices, t)
  local maker, taker = 2 * t - 1, 2 * t
  return text.sequence(base + t) .. ',' .. text.sequence(base + taker) .. ',' .. text.sequence(base + maker) .. ','
    .. traders[taker] .. ',' .. traders[maker] .. comma[prices[maker]] .. ',1,buy,' .. AT .. '\n'
end

local event = {}

function event.nothing(_, args)
  read(args)
  return 0
end

local function lines_joined(tag, args, join)
  local base, traders, prices, count = read(args)
  local trades, orders = {}, {}
  for t = 1, count do
    trades[t] = trade_of(base, traders, prices, t)
    orders[2 * t - 1], orders[2 * t] = orders_of(base, traders, prices, t)
  end
  redis.call('XADD', tag .. ':events', id_of(base, #prices), 'trades', join(trades, count), 'orders', join(orders, 2 * count))
  return count
end

-- What tcgx has: lua/match.lua.
function event.lines(tag, args) return lines_joined(tag, args, text.join) end

function event.lines_concat(tag, args) return lines_joined(tag, args, function(parts) return table.concat(parts) end) end

-- One XADD a trade, with its two orders.
function event.singly(tag, args)
  local base, traders, prices, count = read(args)
  for t = 1, count do
    local maker, taker = orders_of(base, traders, prices, t)
    redis.call('XADD', tag .. ':events', text.integer[base + 1] .. '-' .. t, 'trade',
      trade_of(base, traders, prices, t), 'maker', maker, 'taker', taker)
  end
  return count
end

-- Arrays of values.
local function arrays(args)
  local base, traders, prices, count = read(args)
  local trades, orders = {}, {}
  for t = 1, count do
    local maker, taker = 2 * t - 1, 2 * t
    trades[t] = { base + t, base + taker, base + maker, traders[taker], traders[maker], prices[maker], 1, 'buy', AT }
    orders[maker] = { base + maker, traders[maker], 'sell', prices[maker], 1, 'gtc', '', AT, 1, 'filled', AT }
    orders[taker] = { base + taker, traders[taker], 'buy', prices[taker], 1, 'gtc', '', AT, 1, 'filled', AT }
  end
  return base, #prices, count, trades, orders
end

function event.json(tag, args)
  local base, size, count, trades, orders = arrays(args)
  redis.call('XADD', tag .. ':events', id_of(base, size), 'trades', cjson.encode(trades), 'orders', cjson.encode(orders))
  return count
end

function event.msgpack(tag, args)
  local base, size, count, trades, orders = arrays(args)
  redis.call('XADD', tag .. ':events', id_of(base, size), 'trades', cmsgpack.pack(trades),
    'orders', cmsgpack.pack(orders))
  return count
end

function event.msgpack_and_lines(tag, args)
  local base, traders, prices, count = read(args)
  local closed = {}
  for t = 1, count do closed[2 * t - 1], closed[2 * t] = orders_of(base, traders, prices, t) end
  return event.msgpack(tag, args)
end

return event
