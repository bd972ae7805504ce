-- watch: asks that match writes more into the events of a card, for some time from now on; and looks at its book.
--
-- Guarantee: every match call after this one, until the time is over, writes `levels` into its event (report.lua), and
--   `opened` where orders are watched. So the reply and the events after its sequence are the book at every sequence.
-- KEYS   {card}
-- ARGS   the most price levels of each side in the reply, 0 for none; milliseconds; 1 to watch orders, too, else 0
-- Reply  as depth. A side with fewer levels than asked for is complete
-- Errors ERR where an argument is out of its range
local TIME_MAX = 60000

local function is_whole(number, low, high) return number and number % 1 == 0 and number >= low and number <= high end

local function watch(keys, args)
  local tag, limit, milliseconds, with_orders = keys[1], tonumber(args[1]), tonumber(args[2]), args[3] == '1'
  if not is_whole(limit, 0, math.huge) or not is_whole(milliseconds, 1, TIME_MAX) then
    return redis.error_reply('ERR watch takes how many levels, and 1 to ' .. TIME_MAX .. ' milliseconds')
  end
  local position = cursor.read(tag)
  watching.renew(tag, milliseconds, with_orders)
  local bids, asks = {}, {}
  if limit > 0 then bids, asks = levels.watched(tag, position, limit) end
  return { position.sequence, bids, asks }
end

return watch
