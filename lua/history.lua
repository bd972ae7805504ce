-- history: describes which history a card's keys belong to, and how far it has come. A service compares this with the
-- archive (engine/history.py), to find keys of another history, of an earlier time, or of another format.
--
-- KEYS   {card}
-- ARGS   optionally the id of an event, as the archive has it
-- Reply  {mark that an append must name, the history's id ('' where there is none), its format, its base, the last
--        sequence given out, the last one matched, the log id of that event ('' where it is missing), the first
--        sequence of the event after it (0 where there is none), 1 if the newest log entry has this library's format
--        else 0, the last acknowledged sequence that a promoted replica lacked (0 where it lacked none), and the last one
--        that it had}

-- Whether a log entry has the format of this library; so has a missing one.
local function is_known(entry)
  local fields = entry and entry[2]
  return not entry or fields[1] == 'entry' and fields[3] == 'at' and fields[5] == 'kinds' and fields[7] == 'traders'
    and fields[9] == 'prices' and fields[11] == 'quantities'
end

local function field(event, name)
  for f = 1, event and #event[2] or 0, 2 do
    if event[2][f] == name then return event[2][f + 1] end
  end
  return nil
end

local function describe(keys, args)
  local tag = keys[1]
  local stored = redis.call('HMGET', tag .. ':history', 'id', 'format', 'base', 'lost', 'kept')
  local event_id = args[1] or '0-0'
  local events = tag .. ':events'
  local event = redis.call('XRANGE', events, event_id, event_id)[1]
  local after = redis.call('XRANGE', events, '(' .. event_id, '+', 'COUNT', 1)[1]
  return {
    history.mark(tag), stored[1] or '', tonumber(stored[2] or 0), tonumber(stored[3] or 0),
    log.last_sequence(tag), cursor.read(tag).sequence,
    field(event, 'log') or '', tonumber(field(after, 'first') or 0),
    is_known(redis.call('XREVRANGE', tag .. ':orders', '+', '-', 'COUNT', 1)[1]) and 1 or 0,
    tonumber(stored[4] or 0), tonumber(stored[5] or 0),
  }
end

return describe
