-- trader_orders: the latest orders of a trader on this card, or those that rest in the book, newest first.
--
-- KEYS  {card}
-- ARGS  trader id, how many at most (50 for "all"), and which: "all", "open" (those that rest in the book), or
--       "resting": the sequences of those that may be open, which costs a tenth; optionally, for this one, a sequence
--       that all of them are below
-- Reply the orders' lines, as in {card}:open or, of completed ones, {card}:trader:<id>; of "resting" sequences of 12
--       digits: they are open where {card}:open has them
local function newest_below(found, limit, before)
  local reply = {}
  for i = #found, 1, -1 do
    if #reply == limit then break end
    if not before or found[i] < before then reply[#reply + 1] = found[i] end
  end
  return reply
end

local function trader_orders(keys, args)
  local tag, id, limit, which = keys[1], args[1], tonumber(args[2]), args[3]
  local reply, unfiled = {}, trader.unfiled(tag)
  if which == 'resting' then
    return newest_below(trader.resting(tag, id, unfiled), limit, args[4] and text.sequence(tonumber(args[4])))
  end
  if which == 'open' then
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
