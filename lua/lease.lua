-- lease: takes, renews and ends leases of streams. A lease that is not renewed in time cancels all orders of its trader on
-- the card (cancel_due.lua). A trader has one lease. Without leases the call only says that the caller has compared this
-- run of the server with the archive.
--
-- Guarantee: a lease that another holder has taken, or that has ended, is not renewed.
-- KEYS   {card}
-- ARGS   1 mark of the history
--        2 `take`: the leases are taken, whoever has them; `keep`: they are renewed or ended by their holders
--        then for each lease: trader id, holder, grace in seconds (for people), milliseconds; 0 ends it
-- Reply  for each lease: 1 done; 0 there is none; 2 another holder has it
-- Errors HISTORY where the mark is another one
local LEASES_MAX, MS_MAX = 1000, limits.cancel_after_seconds_max * 1000

-- Whether the arguments of leases are well-formed.
local function are_valid(args)
  local count = (#args - 2) / 4
  if count % 1 ~= 0 or count > LEASES_MAX then return false end
  for a = 3, #args, 4 do
    local milliseconds = tonumber(args[a + 3])
    if not string.find(args[a], '^[1-9]%d*$') or not string.find(args[a + 1], '^%x+$')
      or not string.find(args[a + 2], '^%d+$') or not milliseconds or milliseconds % 1 ~= 0 or milliseconds < 0
      or milliseconds > MS_MAX then
      return false
    end
  end
  return true
end

local function lease(keys, args)
  local tag = keys[1]
  if args[2] ~= 'take' and args[2] ~= 'keep' or not are_valid(args) then
    return redis.error_reply('ERR lease takes a mark, take or keep, and for each lease a trader, a holder and two numbers')
  end
  local refusal = deadlines.refuse(tag, args[1])
  if refusal then return refusal end
  local members, now_ms = {}, log.now_ms()
  for a = 3, #args, 4 do members[#members + 1] = args[a] .. deadlines.LEASE end
  local stored, replies, scores, terms, ended = deadlines.terms(tag, members), {}, {}, {}, {}
  for i = 1, #members do
    local a = 4 * i - 1
    local holder, grace, milliseconds = args[a + 1], args[a + 2], tonumber(args[a + 3])
    local found = stored[i] and string.match(stored[i], '%x+$')
    replies[i] = (args[2] == 'take' or found == holder) and 1 or found and 2 or 0
    if replies[i] == 1 and milliseconds == 0 then
      ended[#ended + 1] = members[i]
    elseif replies[i] == 1 then
      scores[#scores + 1], scores[#scores + 2] = text.integer[now_ms + milliseconds], members[i]
      terms[#terms + 1], terms[#terms + 2] = members[i], text.integer[milliseconds] .. ' ' .. grace .. ' ' .. holder
    end
  end
  -- first write
  deadlines.set(tag, scores, terms)
  deadlines.clear(tag, ended)
  return replies
end

return lease
