-- The baseline: the obvious design, one script call an order. Kept as the yardstick for lua/match.lua.
-- It keeps what the exchange keeps: both books, what rests, what is completed, the latest 50 orders of
-- each trader and trades of the card, and an event stream for the archiver.
--
-- KEYS  {card}
-- ARGS  buy or sell, trader id, price in cents, quantity, time
local tag = KEYS[1]
local side, trader, price, left, at = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local quantity = left
local sign = side == 'buy' and 1 or -1
local opposite = tag .. (side == 'buy' and ':asks' or ':bids')
local sequence = redis.call('INCR', tag .. ':sequence')
local tail = trader .. ',' .. side .. ',' .. price .. ',' .. quantity .. ',gtc,,' .. at

local function close(field, record)
  redis.call('HSET', tag .. ':closed', field, record)
  redis.call('XADD', tag .. ':events', '*', 'order', field .. ',' .. record)
end

while left > 0 do
  local best = redis.call('ZRANGE', opposite, 0, 0, 'WITHSCORES')
  if #best == 0 or tonumber(best[2]) > sign * price then break end
  local field = tostring(tonumber(best[1]))
  local filled, rest, maker_quantity = string.match(redis.call('HGET', tag .. ':open', field),
    '^(%d+),(%d+,%a+,%d+,(%d+),.*)$')
  local fill = math.min(left, maker_quantity - filled)
  left = left - fill
  filled = filled + fill
  if filled == tonumber(maker_quantity) then
    redis.call('ZREM', opposite, best[1])
    redis.call('HDEL', tag .. ':open', field)
    close(field, filled .. ',' .. rest .. ',filled,' .. at)
  else
    redis.call('HSET', tag .. ':open', field, filled .. ',' .. rest)
  end
  local number = redis.call('INCR', tag .. ':trade_number')
  local trade = number .. ',' .. sequence .. ',' .. field .. ',' .. math.abs(best[2]) .. ',' .. fill .. ',' .. at
  redis.call('LPUSH', tag .. ':trades', trade)
  redis.call('LTRIM', tag .. ':trades', 0, 49)
  redis.call('XADD', tag .. ':events', '*', 'trade', trade)
end
if left == 0 then
  close(tostring(sequence), quantity .. ',' .. tail .. ',filled,' .. at)
else
  redis.call('ZADD', tag .. (side == 'buy' and ':bids' or ':asks'), -sign * price, string.format('%012d', sequence))
  redis.call('HSET', tag .. ':open', tostring(sequence), (quantity - left) .. ',' .. tail)
end
redis.call('LPUSH', tag .. ':trader:' .. trader, sequence)
redis.call('LTRIM', tag .. ':trader:' .. trader, 0, 49)
return sequence
