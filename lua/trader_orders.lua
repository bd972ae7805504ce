-- trader_orders: the latest orders of a trader on this card, newest first.
--
-- KEYS  {card}
-- ARGS  trader id, how many at most (50 for "all"), "all" or "open" (only those that rest in the book)
-- Reply the orders' lines, as in {card}:open or {card}:closed
local function trader_orders(keys, args)
  local tag, limit = keys[1], tonumber(args[2])
  local only_open = args[3] == 'open'
  local sequences = trader.sequences(tag, args[1], only_open)
  local open = bulk.read(tag .. ':open', sequences)
  local closed = only_open and {} or bulk.read(tag .. ':closed', sequences)
  local reply = {}
  for i = #sequences, 1, -1 do
    local line = open[i] or closed[i]
    if line and #reply < limit then reply[#reply + 1] = line end
  end
  return reply
end

return trader_orders
