-- history: which history of the exchange a card's keys belong to. A hash, {card}:history, written with the first append:
--   id        random, made once; the archive keeps it too, and whoever appends must name it
--   format    of the keys and entries (FORMAT)
--   base      the sequence before its first command: above all that were given out before it
--   began_at  RFC 3339
-- A server that was emptied, restored from a copy, or replaced begins another run of this library. Whoever appends names
-- the run too, so that nothing is appended to a server that nobody has compared with the archive.
local history = {}

history.FORMAT = 2

local now = redis.call('TIME')
local run = now[1] .. '.' .. now[2]

-- What an append must name: the history and the run; the history is empty where there is none.
function history.mark(tag) return (redis.call('HGET', tag .. ':history', 'id') or '') .. ' ' .. run end

