-- watching: who reads a card's events live, and so what more match writes into them.
--
-- An API process with subscribers renews a lease of some seconds (watch.lua). While it lasts, an event has the price
-- levels that changed, and for readers of orders also the orders that rest after it. Leases are in Lua's memory alone:
-- without one a match call looks into an empty table, and a restarted server writes plain events until the next
-- renewal. A reader that meets a plain event asks for a snapshot. The book does not depend on any of this.
local watching = {}

local leases = {} -- by tag: the milliseconds since 1970 at which each part ends, `levels` and `orders`

local function now_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- Renews the lease of a card. Where several readers renew it, the latest end counts.
function watching.renew(tag, milliseconds, with_orders)
  local ends = now_ms() + milliseconds
  local lease = leases[tag] or { levels = 0, orders = 0 }
  lease.levels = math.max(lease.levels, ends)
  if with_orders then lease.orders = math.max(lease.orders, ends) end
  leases[tag] = lease
end

-- Returns what a match call of this card also writes: nil for nothing; else 1, or 2 where orders are watched, too.
function watching.of(tag)
  local lease = leases[tag]
  if not lease then return nil end
  local now = now_ms()
  if lease.levels <= now then
    leases[tag] = nil
    return nil
  end
  return lease.orders > now and 2 or 1
end
