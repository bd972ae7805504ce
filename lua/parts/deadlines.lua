-- deadlines: when a trader's orders on a card are canceled unless a client says in time that it still lives.
--   {card}:deadlines       members by milliseconds since 1970. Of trader 17: `17` is its switch (cancel_after.lua),
--                          `17 lease` the lease of a stream (lease.lua), `17 rest` a cancel-all that goes on, at 0
--   {card}:deadline_terms  by member: of a switch its milliseconds, and of a lease `<ms> <grace in seconds> <holder>`;
--                          of a cancel-all that goes on `<last order looked at> <sequence below which all orders are>`
-- A deadline only counts while it can be renewed. So deadlines begin anew, for a minute at most, where no engine has
-- looked at them for some seconds, and where an API process has just compared a new run of this server with the archive
-- (parts/history.lua). What this needs is in Lua's memory alone: a restarted server begins them anew as well.
local deadlines = {}

deadlines.LEASE, deadlines.REST = ' lease', ' rest'

local PAUSE_MS = 3000 -- engines look twice a second
local ANEW_MAX_MS = 60000

local looked, resumed, compared = {}, {}, {} -- by tag: times in milliseconds, and marks

local function deadlines_key(tag) return tag .. ':deadlines' end
local function terms_key(tag) return tag .. ':deadline_terms' end

-- Refuses another mark than the card's, as an append does. Otherwise the run is known to be compared with the archive.
function deadlines.refuse(tag, mark)
  local refusal = history.refuse(tag, mark)
  if not refusal and compared[tag] ~= mark then
    compared[tag] = mark
    resumed[tag] = log.now_ms()
  end
  return refusal
end

-- Notes a look of an engine at a time.
function deadlines.look(tag, now_ms)
  local last = looked[tag]
  if not last or math.abs(now_ms - last) > PAUSE_MS then resumed[tag] = now_ms end
  looked[tag] = now_ms
end

-- Whether an API process has compared the present run of the server with the archive. Only then may anything be appended.
function deadlines.is_compared(tag) return compared[tag] ~= nil and compared[tag] == history.mark(tag) end

-- Sets deadlines: members and times in `scores`, members and terms in `terms`, each in turn.
function deadlines.set(tag, scores, terms)
  bulk.call('ZADD', deadlines_key(tag), scores)
  bulk.call('HSET', terms_key(tag), terms)
end

-- Removes deadlines; those that are not set are ignored.
function deadlines.clear(tag, members)
  bulk.call('ZREM', deadlines_key(tag), members)
  bulk.call('HDEL', terms_key(tag), members)
end

-- The terms of members in order; false for a deadline that is not set.
function deadlines.terms(tag, members) return bulk.read(terms_key(tag), members) end

-- The deadline of a member in milliseconds since 1970; 0 where it is not set.
function deadlines.of(tag, member) return tonumber(redis.call('ZSCORE', deadlines_key(tag), member) or 0) end

-- The members whose time is over, the earliest first, up to `count_max`; and their terms.
function deadlines.due(tag, now_ms, count_max)
  local members =
    redis.call('ZRANGEBYSCORE', deadlines_key(tag), '-inf', text.integer[now_ms], 'LIMIT', 0, count_max)
  if #members == 0 then return members, members end
  local terms, due, terms_due = deadlines.terms(tag, members), {}, {}
  for i = 1, #members do
    local milliseconds = not string.find(members[i], deadlines.REST, 1, true) and string.match(terms[i] or '', '^%d+')
    local anew_ms = milliseconds and resumed[tag] and resumed[tag] + math.min(tonumber(milliseconds), ANEW_MAX_MS) or 0
    if anew_ms <= now_ms then
      due[#due + 1] = members[i]
      terms_due[#terms_due + 1] = terms[i] or ''
    end
  end
  return due, terms_due
end
