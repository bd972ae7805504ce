-- append: puts commands at the end of a card's log and gives each its sequence.
--
-- Guarantee: all commands are in the log, in order and without a gap, or none is; the same call adds its orders to
--   their traders' lists. A client_order_id that the trader has used on this card in the last 24 hours is never entered
--   twice: then nothing is appended, and the reply names the commands that repeat one. Nothing is appended to another
--   history, or to a server that was started since a service compared it with the archive (parts/history.lua).
-- KEYS   {card}
-- ARGS   1 number of commands
--        2 mark of the history
--        3 most commands that may wait to be matched
--        4 least time of the append in milliseconds; a time more than a day ahead of the clock is ignored
--        5 self-trade rule: "allow" or "cancel_taker"
--        6 limits of each trader on this card, "" without any: "<orders a second> <at once> <open orders>"; 0 is no limit
--        7 to 12 the columns kinds, traders, prices, quantities, clients, targets (parts/log.lua); clients is "" without any
--        id, targets without any replace
--        13 number of runs, then for each run of commands of one trader: trader id ("" for cancels), number of commands
--        then for each command with a client_order_id: its place (0 first), "<trader id>:<client_order_id>", its terms
-- Reply  {first sequence, time, its milliseconds}; or, with nothing appended, {0, place, "<sequence> <terms>", …} of
--        the repeated ids, where "" stands for an id that repeats within these commands; or, with nothing appended,
--        {-1, trader id, orders, limit, value, …} of the traders that have more orders in this call than they may place:
--        how many they may place; "rate" and the milliseconds until one more, or "open" and the number of open orders:
--        of "open", how many beside replaces
--        or, with nothing appended, {-2, "<time> <reason>"} where the card is halted and one of the commands is an order
-- Errors HISTORY where the mark is another one; BACKLOG where too many commands wait
local COMMANDS_MAX, MS_PER_DAY = limits.commands_max, text.MS_PER_DAY
local integer, floor = text.integer, math.floor
local RUNS = 13 -- the argument before those of runs

-- Looks up the client_order_ids of the arguments after `ids_from`. Returns the reply that names repeated ids; or nil,
-- the key of today's ids, and what to add to it: ids and "<sequence> <terms>" in turn.
-- Ids are stored by the day of their append, and kept for that day and the next.
local function check_client_ids(tag, args, ids_from, sequence, now_ms)
  local day, ids_key, ids = floor(now_ms / MS_PER_DAY), tag .. ':client_ids:', {}
  for a = ids_from + 1, #args, 3 do ids[#ids + 1] = args[a + 1] end
  local today_key, tomorrow_key = ids_key .. integer[day], ids_key .. integer[day + 1]
  local today, yesterday = bulk.read(today_key, ids), bulk.read(ids_key .. integer[day - 1], ids)
  -- A clock may have gone back over midnight.
  local tomorrow = redis.call('EXISTS', tomorrow_key) == 1 and bulk.read(tomorrow_key, ids) or {}
  local repeated, added, seen = { 0 }, {}, {}
  for i = 1, #ids do
    local place, terms = args[ids_from + 3 * i - 2], args[ids_from + 3 * i]
    local first = today[i] or yesterday[i] or tomorrow[i] or (seen[ids[i]] and '')
    seen[ids[i]] = true
    if first then
      repeated[#repeated + 1] = tonumber(place)
      repeated[#repeated + 1] = first
    else
      added[#added + 1] = ids[i]
      added[#added + 1] = integer[sequence + 1 + place] .. ' ' .. terms
    end
  end
  if #repeated > 1 then return repeated end
  return nil, today_key, added
end

-- The orders of each trader of a call, and the traders in order of their first one.
local function orders_by_trader(args, ids_from)
  local orders, ids = {}, {}
  for a = RUNS + 1, ids_from, 2 do
    local id = args[a]
    if id ~= '' then
      if not orders[id] then ids[#ids + 1] = id end
      orders[id] = (orders[id] or 0) + args[a + 1]
    end
  end
  return orders, ids
end

-- The replaces of each trader of a call. A replace opens no order more than it closes, so open orders do not limit it.
local function replaces_by_trader(args, ids_from)
  local replaces, place = {}, 0
  for a = RUNS + 1, args[12] ~= '' and ids_from or RUNS, 2 do
    local _, count = string.gsub(string.sub(args[7], place + 1, place + args[a + 1]), '[RrQq]', '')
    replaces[args[a]] = (replaces[args[a]] or 0) + count
    place = place + args[a + 1]
  end
  return replaces
end

-- Checks the limits of the traders of a call. Returns the reply that names those who may not place all of their orders;
-- or nil, and what `count_orders` needs once the orders are in the log.
local function check_limits(tag, args, ids_from, matched, now_ms)
  local per_second, burst, open_max = string.match(args[6], '^(%d+) (%d+) (%d+)$')
  per_second, burst, open_max = tonumber(per_second), tonumber(burst), tonumber(open_max)
  local orders, ids = orders_by_trader(args, ids_from)
  local replaces = replaces_by_trader(args, ids_from)
  local refused, debts, open, counted = { -1 }, {}, {}, {}
  for i = 1, #ids do
    local id, wanted, free = ids[i], orders[ids[i]], replaces[ids[i]] or 0
    local placed = wanted - free
    local by_rate, by_open, wait_ms = wanted, placed, nil -- how many orders each limit allows
    if per_second > 0 then debts[id], by_rate, wait_ms = rate.look(tag, id, per_second, burst, now_ms) end
    if open_max > 0 and placed > 0 then
      open[id], counted[id] = trader.open_orders(tag, id, open_max - placed, matched, now_ms)
      by_open = math.max(0, open_max - open[id])
    end
    if by_rate < wanted or by_open < placed then
      local is_open = by_open < placed and (by_open <= by_rate or by_rate == wanted)
      refused[#refused + 1] = id
      refused[#refused + 1] = is_open and by_open or by_rate
      refused[#refused + 1] = is_open and 'open' or 'rate'
      refused[#refused + 1] = is_open and open[id] or wait_ms
    end
  end
  if #refused > 1 then return refused end
  return nil, {
    ids = ids, orders = orders, replaces = replaces, per_second = per_second, now_ms = now_ms,
    debts = debts, open = open, counted = counted,
  }
end

-- Counts the orders of a call, which are behind a sequence, towards the limits of their traders.
local function count_orders(tag, args, ids_from, sequence, checked)
  local last_of = {}
  for a = RUNS + 1, ids_from, 2 do
    sequence = sequence + args[a + 1]
    last_of[args[a]] = sequence
  end
  for i = 1, #checked.ids do
    local id = checked.ids[i]
    local orders, debt, open = checked.orders[id], checked.debts[id], checked.open[id]
    if debt then rate.take(tag, id, debt, orders, checked.per_second, checked.now_ms) end
    if open then
      local opened = orders - (checked.replaces[id] or 0)
      trader.remember_open(tag, id, open + opened, last_of[id], checked.counted[id])
    end
  end
end

-- Whether a call has an order: orders are in runs of a trader, cancels in runs of none.
local function has_orders(args, ids_from)
  for a = RUNS + 1, ids_from, 2 do
    if args[a] ~= '' then return true end
  end
  return false
end

-- The fields and values of the log entry, with room for its id and time.
local function entry_of(args)
  local entry = {
    'entry', '', 'at', '', 'kinds', args[7], 'traders', args[8], 'prices', args[9], 'quantities', args[10],
  }
  if args[12] ~= '' then
    entry[#entry + 1] = 'targets'
    entry[#entry + 1] = args[12]
  end
  if args[11] ~= '' then
    entry[#entry + 1] = 'clients'
    entry[#entry + 1] = args[11]
  end
  if args[5] == 'cancel_taker' then
    entry[#entry + 1] = 'self_trade'
    entry[#entry + 1] = 'cancel_taker'
  end
  return entry
end

local function append(keys, args)
  local tag = keys[1]
  local count, waiting_max, time_ms_min = tonumber(args[1]), tonumber(args[3]), tonumber(args[4])
  if not count or count < 1 or count > COMMANDS_MAX then
    return redis.error_reply('ERR append takes 1 to ' .. COMMANDS_MAX .. ' commands')
  end
  local ids_from = RUNS + 2 * tonumber(args[RUNS])
  local refusal, halted = history.refuse(tag, args[2])
  if refusal then return refusal end
  local sequence, now_ms = log.last_sequence(tag), log.now_ms()
  local repeated, today_key, added
  if #args > ids_from then
    repeated, today_key, added = check_client_ids(tag, args, ids_from, sequence, now_ms)
    if repeated then return repeated end
  end
  -- Behind the look-up of ids: a repeated order is answered with the first one, whatever is halted.
  if halted and has_orders(args, ids_from) then return { -2, halted } end
  local matched = log.last_matched(tag)
  trader.begin_append()
  local limited, checked
  if args[6] ~= '' then
    limited, checked = check_limits(tag, args, ids_from, matched, now_ms)
    if limited then return limited end
  end
  if sequence - matched + count > waiting_max then return log.backlog(tag, sequence - matched) end

  -- first write
  local time_ms, at = log.append(tag, sequence, count, log.append_time(time_ms_min, now_ms), entry_of(args))
  if added then
    bulk.call('HSET', today_key, added)
    redis.call('EXPIRE', today_key, limits.client_order_id_seconds)
  end
  local last, refused = sequence, nil
  for a = RUNS + 1, ids_from, 2 do
    local first = last + 1
    last = last + args[a + 1]
    if args[a] ~= '' then refused = trader.add(tag, args[a], first, last, matched) or refused end
  end
  if checked then count_orders(tag, args, ids_from, sequence, checked) end
  -- A list's key has another type. The orders are in the log all the same, so the caller treats this as a lost reply.
  if refused then return redis.error_reply('ERR a list of a trader of ' .. tag .. ' cannot be written: ' .. refused) end
  return { sequence + 1, at, time_ms }
end

return append
