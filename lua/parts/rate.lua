-- rate: how many orders a trader may place on this card, a second and at once: a token bucket for each trader.
--   {card}:rate:<id>  "<debt> <milliseconds>": the debt is what is missing in the bucket, in thousandths of an order, at
--                     that time of the server's clock. The key expires when the bucket is full again
-- A rate in orders a second is a rate in thousandths of an order a millisecond, so all numbers are integers.
local rate = {}

local ORDER = 1000 -- thousandths
local integer, max, floor, ceil = text.integer, math.max, math.floor, math.ceil

local function rate_key(tag, id) return tag .. ':rate:' .. id end

-- Returns the trader's debt now, how many orders it may place, and the milliseconds until it may place one more.
function rate.look(tag, id, per_second, burst, now_ms)
  local debt, at_ms = string.match(redis.call('GET', rate_key(tag, id)) or '0 0', '^(%d+) (%d+)$')
  -- A clock that went back pays nothing off.
  debt = max(0, debt - max(0, now_ms - at_ms) * per_second)
  local room = burst * ORDER - debt
  local orders = max(0, floor(room / ORDER))
  return debt, orders, ceil(((orders + 1) * ORDER - room) / per_second)
end

-- Takes orders out of a bucket that has them. `debt`: as `rate.look` has returned it.
function rate.take(tag, id, debt, orders, per_second, now_ms)
  debt = debt + orders * ORDER
  redis.call('SET', rate_key(tag, id), integer[debt] .. ' ' .. integer[now_ms], 'PX', integer[ceil(debt / per_second)])
end
