-- trader_orders: the latest orders of a trader on this card, newest first.
--
-- KEYS  {card}
-- ARGS  trader id, how many at most (50 for "all"), "all" or "open" (only those that rest in the book)
-- Reply the orders' lines, as in {card}:open or, of completed ones, {card}:trader:<id>
local function trader_orders(keys, args)
  local tag, id, limit = keys[1], args[1], tonumber(args[2])
  local reply, unfiled = {}, trader.unfiled(tag)
  if args[3] == 'open' then
    local resting = trader.resting(tag, id, unfiled)
    local open = bulk.read(tag .. ':open', resting)
    for i = #resting, 1, -1 do
      if open[i] and #reply < limit then reply[#reply + 1] = open[i] end
    end
    return reply
  end
  local known, sequences = trader.latest(tag, id, unfiled)
  local from = math.max(1, #sequences - limit + 1)
  local resting = {} -- as far as is known from there: the others are completed
  for i = from, #sequences do
    local item = known[sequences[i]]
    if trader.rests(item) then resting[#resting + 1] = item end
  end
  local records, open = bulk.read(tag .. ':open', resting), {}
  for r = 1, #resting do open[resting[r]] = records[r] end
  for i = #sequences, from, -1 do
    local item = known[sequences[i]]
    reply[#reply + 1] = open[item] or item
  end
  return reply
end

return trader_orders
