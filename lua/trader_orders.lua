-- trader_orders: the orders of a trader on this card, newest first.
--
-- KEYS  {card}
-- ARGS  trader id, how many at most, and which: "all" (the latest, 50 at most), "open" (those that rest in the book),
--       "accepted" (those that are not matched yet), or "unfinished": sequences of those that may be open, which costs a
--       tenth; optionally a sequence that all of them are below
-- Reply the orders' lines: of open ones as in {card}:open; of accepted ones with a filled quantity of 0 and "accepted"
--       behind that; of completed ones the sequence alone, since these are in the events and the archive. Of "unfinished"
--       sequences of 12 digits: they are open where {card}:open has them
local LATEST = 50
local EVERYTHING = math.huge

-- The line of an order that is in the log and not matched.
local function accepted_line(sequence, command)
  return text.sequence(sequence) .. ',' .. command.trader .. text.side[command.kind] .. text.integer[command.price]
    .. text.comma[command.quantity] .. text.force[command.kind] .. (command.client == 0 and '' or command.client) .. ','
    .. command.at .. ',0,accepted'
end

-- Lines of accepted and open orders by sequence.
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

local function filtered(sequences, low, high)
  local found = {}
  for i = 1, #sequences do
    if sequences[i] > low and sequences[i] <= high then found[#found + 1] = sequences[i] end
  end
  return found
end

local function trader_orders(keys, args)
  local tag, id, limit, which, before = keys[1], args[1], tonumber(args[2]), args[3], tonumber(args[4])
  if not id or not limit then return redis.error_reply('ERR trader_orders takes a trader, a number, and which') end
  local matched, sequences = log.last_matched(tag), nil
  if which == 'open' then
    sequences = filtered(trader.newest(tag, id, EVERYTHING, before), 0, matched)
  elseif which == 'all' then
    sequences = trader.newest(tag, id, math.min(limit, LATEST), before)
  else
    sequences = trader.newest(tag, id, limit, before)
    if which == 'accepted' then sequences = filtered(sequences, matched, EVERYTHING) end
  end
  local reply, lines = {}, which == 'unfinished' and {} or lines_of(tag, sequences, matched)
  for i = 1, #sequences do
    local line = lines[sequences[i]]
    if not line and (which == 'all' or which == 'unfinished') then line = text.sequence(sequences[i]) end
    if line and #reply < limit then reply[#reply + 1] = line end
  end
  return reply
end

return trader_orders
