-- history: the history of the exchange that a card's keys belong to. The hash {card}:history, written by begin.lua:
--   id        random, made once. The archive keeps it, too, and each append must name it
--   format    of keys and entries (FORMAT)
--   base      the sequence before the first command of this history: above all that were given out earlier
--   began_at  RFC 3339
--   halted    only while an admin has halted the card (halt.lua): RFC 3339 and a reason
--   run, kept where a replica may be promoted: the run that was adopted, and the last sequence that it had (adopt.lua)
--   lost      only until `tcgx recover`: the last acknowledged sequence that a promoted replica lacked (adopt.lua)
-- Each append must also name the run of this library. A server that was emptied, restored from a copy, or replaced has
-- another run, so it takes no orders until a service has compared it with the archive.
local history = {}

history.FORMAT = 3

local now = redis.call('TIME')
local run = now[1] .. '.' .. now[2]
history.run = run

local function mark_of(id) return (id or '') .. ' ' .. run end

-- What an append must name: the history's id, empty where there is none, and the run.
function history.mark(tag) return mark_of(redis.call('HGET', tag .. ':history', 'id')) end

-- The reply to an append that names another mark, nil where the mark is right; and since when and why the card is halted,
-- false where it is not.
function history.refuse(tag, mark)
  local stored = redis.call('HMGET', tag .. ':history', 'id', 'halted')
  local current = mark_of(stored[1])
  return mark ~= current and redis.error_reply('HISTORY the mark is ' .. current) or nil, stored[2]
end
