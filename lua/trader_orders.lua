-- trader_orders: the orders of a trader on this card, newest first.
--
-- KEYS   {card}
-- ARGS   1 trader id
--        2 the most orders
--        3 which: "all" (the latest ones, limits.latest at most), "open" (resting in the book), "accepted" (not matched
--        yet), or "unfinished" (sequences of orders that may be open; costs a tenth of their lines)
--        4 optionally a sequence; only orders below it are replied
-- Reply  a line of each order (parts/order_line.lua): of an open one as in {card}:open; of an accepted one with a
--        filled quantity of 0 and "accepted" at the end; of a completed one the sequence alone, since events and
--        archive have the rest. Of "unfinished" the sequence alone; such an order is open where {card}:open has it
-- Errors ERR where an argument is missing
-- The line of an order that is in the log and not matched.
local function accepted_line(sequence, command)
  return text.sequence(sequence) .. ',' .. command.trader .. text.side[command.kind] .. text.integer[command.price]
    .. text.comma[math.abs(command.quantity)] .. order_line.accepted_force(command) .. (command.client == 0 and '' or command.client) .. ','
    .. command.at .. ',0,accepted'
end

-- The lines of accepted and open orders, by sequence.
local function lines_of(tag, sequences, matched)
  local fields, lines, entry, command = {}, {}, nil, nil
  for i = 1, #sequences do
    local sequence = sequences[i]
    if sequence > matched then
      command, entry = log.find(tag, sequence, entry)
      if command then lines[sequence] = accepted_line(sequence, command) end
    else
      fields[#fields + 1] = text.sequence(sequence)
    end
  end
  local records = bulk.read(tag .. ':open', fields)
  for i = 1, #fields do lines[tonumber(fields[i])] = records[i] or nil end
  return lines
end

local function above(sequences, matched)
  local found = {}
  for i = 1, #sequences do
    if sequences[i] > matched then found[#found + 1] = sequences[i] end
  end
  return found
end

local function trader_orders(keys, args)
  local tag, id, limit, which, before = keys[1], args[1], tonumber(args[2]), args[3], tonumber(args[4])
  if not id or not limit then return redis.error_reply('ERR trader_orders takes a trader, a number, and which') end
  local matched = log.last_matched(tag)
  local sequences = trader.newest(tag, id, which == 'all' and math.min(limit, limits.latest) or limit, before)
  if which == 'accepted' then sequences = above(sequences, matched) end
  local reply, lines = {}, which == 'unfinished' and {} or lines_of(tag, sequences, matched)
  for i = 1, #sequences do
    local line = lines[sequences[i]]
    if not line and (which == 'all' or which == 'unfinished') then line = text.sequence(sequences[i]) end
    if line then reply[#reply + 1] = line end
  end
  return reply
end

return trader_orders
