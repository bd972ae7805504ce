-- append: puts commands at the end of a card's log and gives each its sequence.
--
-- Guarantee: all of them are in the log, in order and without a gap, or none is. A client_order_id that
--   the trader has used on this card in the last 24 hours is never entered a second time: then nothing
--   is appended, and the caller is told which commands repeat what. Nothing is appended to another history, or to a
--   server that was started since the caller compared it with the archive (parts/history.lua).
-- KEYS  {card}
-- ARGS  how many commands, the mark of the history, how many may wait to be matched, the least time to be given
--       (milliseconds; a time that is a day and more ahead of the clock is not taken), what happens when a trader meets
--       itself ("allow", "cancel_taker"), the columns kinds, traders, prices, quantities, clients of log.lua (the last
--       "" where there is no id), then for each command that carries an id: its place (0 first),
--       "<trader>:<client_order_id>", contents
-- Reply {first sequence, time, its milliseconds}; or, with nothing appended, {0, place, "<sequence> <contents>", …}
--       where the second is empty for an id that repeats within these very commands
-- Error HISTORY where the mark is another one; BACKLOG when the matcher is too far behind
local MS_PER_DAY = 86400000
local REMEMBERED_SECONDS = 2 * 86400
local FIXED = 10 -- arguments before those of client_order_ids

-- The greatest id that this stream has ever held.
local function last_id(key)
  local about = redis.call('XINFO', 'STREAM', key)
  for i = 1, #about, 2 do
    if about[i] == 'last-generated-id' then return about[i + 1] end
  end
end

local function append(keys, args)
  local tag = keys[1]
  local count, waiting_max, time_ms_min = tonumber(args[1]), tonumber(args[3]), tonumber(args[4])
  if not count or count < 1 or count > log.COMMANDS_MAX then
    return redis.error_reply('ERR append takes 1 to ' .. log.COMMANDS_MAX .. ' commands')
  end
  if args[2] ~= history.mark(tag) then return redis.error_reply('HISTORY the mark is ' .. history.mark(tag)) end
  local sequence_key, orders_key = tag .. ':sequence', tag .. ':orders'
  local sequence = tonumber(redis.call('GET', sequence_key) or 0)
  local now = redis.call('TIME')
  local time_ms = now[1] * 1000 + math.floor(now[2] / 1000)

  -- Ids are remembered by the day of their append, for that day and the next.
  local ids_key = tag .. ':client_ids:'
  local day = math.floor(time_ms / MS_PER_DAY)
  local today_key = ids_key .. text.integer[day]
  local ids, remembered = {}, {}
  if #args > FIXED then
    local repeated, seen = { 0 }, {}
    for a = FIXED + 1, #args, 3 do ids[#ids + 1] = args[a + 1] end
    local today = bulk.read(today_key, ids)
    local yesterday = bulk.read(ids_key .. text.integer[day - 1], ids)
    -- A clock may have gone back over midnight.
    local tomorrow_key = ids_key .. text.integer[day + 1]
    local tomorrow = redis.call('EXISTS', tomorrow_key) == 1 and bulk.read(tomorrow_key, ids) or {}
    for i = 1, #ids do
      local place, contents = args[FIXED + 3 * i - 2], args[FIXED + 3 * i]
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
  local matched = tonumber(redis.call('HGET', tag .. ':cursor', 'sequence') or 0)
  if sequence - matched + count > waiting_max then
    return redis.error_reply('BACKLOG ' .. text.integer[sequence - matched] .. ' commands of ' .. tag
      .. ' wait to be matched')
  end

  local first = text.integer[sequence + 1]
  -- The trader's order before this one may be on a card of another server, whose clock is ahead.
  if time_ms_min > time_ms and time_ms_min < time_ms + MS_PER_DAY then time_ms = time_ms_min end
  -- first write: an id is its time and its sequence; where a later id is in the log already (a clock
  -- that went back, an entry made by hand), the millisecond after that one stands in for the time
  local id = text.integer[time_ms] .. '-' .. first
  local entry = {
    'entry', id, 'at', text.time(time_ms), 'kinds', args[6], 'traders', args[7], 'prices', args[8],
    'quantities', args[9],
  }
  if args[10] ~= '' then
    entry[#entry + 1] = 'clients'
    entry[#entry + 1] = args[10]
  end
  if args[5] == 'cancel_taker' then
    entry[#entry + 1] = 'self_trade'
    entry[#entry + 1] = 'cancel_taker'
  end
  local added = redis.pcall('XADD', orders_key, id, unpack(entry))
  if type(added) == 'table' and added.err then
    local next_ms = tonumber(string.match(last_id(orders_key), '^%d+')) + 1
    id = text.integer[next_ms] .. '-' .. first
    entry[2] = id
    -- Times rise with the log, unless somebody has made an entry of some far day.
    if next_ms < time_ms + MS_PER_DAY then time_ms, entry[4] = next_ms, text.time(next_ms) end
    redis.call('XADD', orders_key, id, unpack(entry))
  end
  redis.call('SET', sequence_key, text.integer[sequence + count])
  if #remembered > 0 then
    bulk.call('HSET', today_key, remembered)
    redis.call('EXPIRE', today_key, REMEMBERED_SECONDS)
  end
  return { sequence + 1, entry[4], time_ms }
end

return append
