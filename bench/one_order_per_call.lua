-- The baseline: the obvious design, one script call an order, a hash an order. It does what lua/match.lua does for
-- limit orders, immediate-or-cancel orders and cancels, with the same guarantee (the cursor moves in the same step),
-- and keeps what that keeps: both books, every order by its sequence, the latest 50 orders of each trader and trades
-- of the card, and a stream of events for an archiver. It is the yardstick of `tcgx bench match` and stays as it is.
--
-- Cancels and immediate-or-cancel orders were added for the flow `market`, in the same plain style. A limit order pays
-- one look into the table of its fields for each of the two: nothing that a measurement shows.
--
-- KEYS  {card}
-- Reply the order's sequence, 0 when none waits
local tag = KEYS[1]
local cursor = redis.call('GET', tag .. ':cursor') or '0-0'
local entry = redis.call('XRANGE', tag .. ':orders', '(' .. cursor, '+', 'COUNT', 1)[1]
if not entry then return 0 end
local fields = {}
for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
local side, trader, at = fields.side, fields.trader, fields.at
local sequence = redis.call('INCR', tag .. ':sequence')

local function complete(completed, filled)
  redis.call('XADD', tag .. ':events', '*', 'type', 'completed', 'sequence', completed, 'filled', filled, 'at', at)
end

if fields.cancel then
  local target_key = tag .. ':order:' .. fields.cancel
  local stored = redis.call('HMGET', target_key, 'trader', 'status', 'side', 'filled')
  if stored[1] == trader and (stored[2] == 'open' or stored[2] == 'partially_filled') then
    redis.call('ZREM', stored[3] == 'buy' and tag .. ':bids' or tag .. ':asks', string.format('%012d', fields.cancel))
    redis.call('HSET', target_key, 'status', 'canceled', 'closed_at', at)
    complete(fields.cancel, stored[4])
  end
  redis.call('SET', tag .. ':cursor', entry[1])
  return sequence
end

local price, quantity = tonumber(fields.price), tonumber(fields.quantity)
local opposite = side == 'buy' and tag .. ':asks' or tag .. ':bids'
local own = side == 'buy' and tag .. ':bids' or tag .. ':asks'
local sign = side == 'buy' and 1 or -1
local order_key = tag .. ':order:' .. sequence
local left = quantity

redis.call('HSET', order_key, 'trader', trader, 'side', side, 'price', price, 'quantity', quantity, 'filled', 0,
  'status', 'open', 'accepted_at', at)
while left > 0 do
  local best = redis.call('ZRANGE', opposite, 0, 0, 'WITHSCORES')
  if #best == 0 or tonumber(best[2]) > sign * price then break end
  local maker = tonumber(best[1])
  local maker_key = tag .. ':order:' .. maker
  local stored = redis.call('HMGET', maker_key, 'quantity', 'filled')
  local maker_left = stored[1] - stored[2]
  local fill = math.min(left, maker_left)
  left = left - fill
  if fill == maker_left then
    redis.call('ZREM', opposite, best[1])
    redis.call('HSET', maker_key, 'filled', stored[1], 'status', 'filled', 'closed_at', at)
    complete(maker, stored[1])
  else
    redis.call('HSET', maker_key, 'filled', stored[2] + fill, 'status', 'partially_filled')
  end
  local number = redis.call('INCR', tag .. ':trade_number')
  local trade_price = math.abs(tonumber(best[2]))
  redis.call('LPUSH', tag .. ':trades', number .. ',' .. trade_price .. ',' .. fill .. ',' .. side .. ',' .. at)
  redis.call('LTRIM', tag .. ':trades', 0, 49)
  redis.call('XADD', tag .. ':events', '*', 'type', 'trade', 'number', number, 'taker', sequence, 'maker', maker,
    'price', trade_price, 'quantity', fill, 'at', at)
end
if left == 0 then
  redis.call('HSET', order_key, 'filled', quantity, 'status', 'filled', 'closed_at', at)
  complete(sequence, quantity)
elseif fields.time_in_force == 'ioc' then
  redis.call('HSET', order_key, 'filled', quantity - left, 'status', 'expired', 'closed_at', at)
  complete(sequence, quantity - left)
else
  if left < quantity then redis.call('HSET', order_key, 'filled', quantity - left, 'status', 'partially_filled') end
  redis.call('ZADD', own, -sign * price, string.format('%012d', sequence))
end
redis.call('LPUSH', tag .. ':trader:' .. trader, sequence)
redis.call('LTRIM', tag .. ':trader:' .. trader, 0, 49)
redis.call('SET', tag .. ':cursor', entry[1])
return sequence
