-- append: puts commands at the end of a card's log and gives each its sequence.
--
-- Guarantee: all of them are in the log, in order and without a gap, or none is; and so the orders among them are in their
--   traders' lists. A client_order_id that the trader has used on this card in the last 24 hours is never entered a second
--   time: then nothing is appended, and the caller is told which commands repeat what. Nothing is appended to another
--   history, or to a server that was started since the caller compared it with the archive (parts/history.lua).
-- KEYS  {card}
-- ARGS  how many commands, the mark of the history, how many may wait to be matched, the least time to be given
--       (milliseconds; a time that is a day and more ahead of the clock is not taken), what happens when a trader meets
--       itself ("allow", "cancel_taker"), the columns kinds, traders, prices, quantities, clients of log.lua (the last
--       "" where there is no id), how many runs there are; for each run of commands of one trader its id ("" where they
--       are cancels) and how many they are; then for each command that carries an id: its place (0 first),
--       "<trader>:<client_order_id>", contents
-- Reply {first sequence, time, its milliseconds}; or, with nothing appended, {0, place, "<sequence> <contents>", …}
--       where the second is empty for an id that repeats within these very commands
-- Error HISTORY where the mark is another one; BACKLOG when the matcher is too far behind
local MS_PER_DAY = 86400000
local REMEMBERED_SECONDS = 2 * 86400
local FIXED = 11 -- arguments before those of runs

local function append(keys, args)
  local tag = keys[1]
  local count, waiting_max, time_ms_min = tonumber(args[1]), tonumber(args[3]), tonumber(args[4])
  if not count or count < 1 or count > log.COMMANDS_MAX then
    return redis.error_reply('ERR append takes 1 to ' .. log.COMMANDS_MAX .. ' commands')
  end
  local ids_from = FIXED + 2 * tonumber(args[FIXED])
  if args[2] ~= history.mark(tag) then return redis.error_reply('HISTORY the mark is ' .. history.mark(tag)) end
  local sequence = log.last_sequence(tag)
  local now_ms = log.now_ms()

  -- Ids are remembered by the day of their append, for that day and the next.
  local ids_key = tag .. ':client_ids:'
  local day = math.floor(now_ms / MS_PER_DAY)
  local today_key = ids_key .. text.integer[day]
  local ids, remembered = {}, {}
  if #args > ids_from then
    local repeated, seen = { 0 }, {}
    for a = ids_from + 1, #args, 3 do ids[#ids + 1] = args[a + 1] end
    local today = bulk.read(today_key, ids)
    local yesterday = bulk.read(ids_key .. text.integer[day - 1], ids)
    -- A clock may have gone back over midnight.
    local tomorrow_key = ids_key .. text.integer[day + 1]
    local tomorrow = redis.call('EXISTS', tomorrow_key) == 1 and bulk.read(tomorrow_key, ids) or {}
    for i = 1, #ids do
      local place, contents = args[ids_from + 3 * i - 2], args[ids_from + 3 * i]
      local first = today[i] or yesterday[i] or tomorrow[i] or (seen[ids[i]] and '')
      seen[ids[i]] = true
      if first then
        repeated[#repeated + 1] = tonumber(place)
        repeated[#repeated + 1] = first
      else
        remembered[#remembered + 1] = ids[i]
        remembered[#remembered + 1] = text.integer[sequence + 1 + place] .. ' ' .. contents
      end
    end
    if #repeated > 1 then return repeated end
  end
  local matched = log.last_matched(tag)
  if sequence - matched + count > waiting_max then return log.backlog(tag, sequence - matched) end

  local entry = {
    'entry', '', 'at', '', 'kinds', args[6], 'traders', args[7], 'prices', args[8], 'quantities', args[9],
  }
  if args[10] ~= '' then
    entry[#entry + 1] = 'clients'
    entry[#entry + 1] = args[10]
  end
  if args[5] == 'cancel_taker' then
    entry[#entry + 1] = 'self_trade'
    entry[#entry + 1] = 'cancel_taker'
  end
  -- first write
  local time_ms, at = log.append(tag, sequence, count, log.at_least(time_ms_min, now_ms), entry)
  if #remembered > 0 then
    bulk.call('HSET', today_key, remembered)
    redis.call('EXPIRE', today_key, REMEMBERED_SECONDS)
  end
  local last, refused = sequence, nil
  for a = FIXED + 1, ids_from, 2 do
    local first = last + 1
    last = last + args[a + 1]
    if args[a] ~= '' then refused = trader.add(tag, args[a], first, last, matched) or refused end
  end
  -- A key of another type is in the way: the order is in the log, as after a reply that was lost.
  if refused then return redis.error_reply('ERR a list of a trader of ' .. tag .. ' cannot be written: ' .. refused) end
  return { sequence + 1, at, time_ms }
end

return append
