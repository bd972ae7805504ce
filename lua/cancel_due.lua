-- cancel_due: cancels the orders of traders whose deadline is over (parts/deadlines.lua). Engines call it twice a second.
--
-- Guarantee: a deadline that is over cancels the trader's orders on this card once, whichever engines call, and whenever
--   they are killed: cancels enter the log in the same step in which the deadline leaves. An order that is accepted after
--   that step is not canceled. A call without a deadline that is over writes nothing. A call appends a bounded number of
--   cancels; one that ends within a trader's orders leaves the rest to the next call.
-- KEYS   {card}
-- ARGS   most commands that may wait to be matched; while more do, deadlines wait
-- Reply  {cancels appended, traders whose deadline has left, 1 if more may be due else 0, 1 if deadlines wait until an API
--        process has compared this run of the server with the archive else 0, an error of a trader's list or ''}
local DUE_MAX, CANCELS_MAX = 1000, limits.commands_max

-- Cancels one trader's orders, or the next part of them. Returns how many, and whether others are left.
local function cancel_orders(tag, id, members, sequence, matched, after, before)
  local targets, reached
  targets, reached, before = cancel_each.look(tag, id, sequence, matched, after, before)
  local rest = id .. deadlines.REST
  -- first write
  if #targets > 0 then cancel_each.append(tag, id, sequence, targets, log.now_ms()) end
  deadlines.clear(tag, members)
  if reached > 0 then
    deadlines.set(tag, { '0', rest }, { rest, text.integer[reached] .. ' ' .. text.integer[before] })
  end
  return #targets, reached > 0
end

-- The deadlines by trader, in order of the first one. What goes on comes alone: the others wait for its end.
local function by_trader(tag, now_ms)
  local members, terms = deadlines.due(tag, now_ms, DUE_MAX)
  local found, of_id = {}, {}
  for i = 1, #members do
    local id, kind = string.match(members[i], '^(%d+)(.*)$')
    local entry = id and of_id[id]
    if id and not entry then
      entry = { id = id, members = {}, after = 0, before = 0 }
      of_id[id], found[#found + 1] = entry, entry
    end
    if entry and kind == deadlines.REST then
      local after, before = string.match(terms[i], '^(%d+) (%d+)$')
      entry.after, entry.before, entry.members = tonumber(after or 0), tonumber(before or 0), { members[i] }
    elseif entry and entry.before == 0 then
      entry.members[#entry.members + 1] = members[i]
    end
  end
  return found, #members == DUE_MAX
end

local function cancel_due(keys, args)
  local tag, waiting_max, now_ms = keys[1], tonumber(args[1]), log.now_ms()
  if not waiting_max then return redis.error_reply('ERR cancel_due takes a bound of waiting commands') end
  deadlines.look(tag, now_ms)
  local found, more = by_trader(tag, now_ms)
  if #found == 0 then return { 0, 0, 0, 0, '' } end
  if not deadlines.is_compared(tag) then return { 0, 0, 0, 1, '' } end
  local matched, cancels, ended, fault = log.last_matched(tag), 0, 0, ''
  for i = 1, #found do
    local each, sequence = found[i], log.last_sequence(tag)
    if sequence - matched >= waiting_max then return { cancels, ended, 0, 0, fault } end
    if cancels >= CANCELS_MAX then return { cancels, ended, 1, 0, fault } end
    -- A list of another type, which only a person can have made, must not keep others' orders from being canceled.
    local done, count, is_left =
      pcall(cancel_orders, tag, each.id, each.members, sequence, matched, each.after, each.before)
    if done then
      cancels, more = cancels + count, more or is_left or each.before > 0
      if not is_left then ended = ended + 1 end
    else
      fault = type(count) == 'table' and count.err or tostring(count)
    end
  end
  return { cancels, ended, more and 1 or 0, 0, fault }
end

return cancel_due
