-- log: reading {card}:orders, the stream of commands.
--
-- An entry is one append of up to COMMANDS_MAX commands:
--   id        <milliseconds>-<sequence of its first command>
--   entry     that id again (a copied entry gives itself away)
--   at        RFC 3339 time of the append
--   commands  one flat JSON array, FIELDS values a command:
--             kind, trader_id, price_cents, quantity, client_order_id (or 0)
--   self_trade  only where it is cancel_taker: an order that would trade with its own trader is canceled
--   kind      1 gtc, 2 ioc, 3 fok: a buy; the same negative: a sell; 0: cancel, whose third value is
--             the sequence of the order to cancel, or 0 for all of the trader's
local log = {}

log.FIELDS = 5
log.COMMANDS_MAX = 1000
local FIELDS, COMMANDS_MAX = log.FIELDS, log.COMMANDS_MAX
local ENTRIES_MAX = 64
local find = string.find
local INTEGER_MAX = 2147483647
local PRICE_CENTS_MAX = 1000000 -- what settings allow
local SEQUENCE_MAX = 999999999999

-- What is wrong with the commands of an entry, or nil.
local function fault_of_commands(flat)
  if type(flat) ~= 'table' then return 'commands is not a JSON array' end
  local count = #flat
  if count == 0 or count % FIELDS ~= 0 then return 'commands is not ' .. FIELDS .. ' values each' end
  if count > COMMANDS_MAX * FIELDS then return 'more than ' .. COMMANDS_MAX .. ' commands' end
  for i = 1, count, FIELDS do
    -- A comparison of what is no number raises an error, which the caller takes for what it is.
    local kind, trader_id, price, quantity, client = flat[i], flat[i + 1], flat[i + 2], flat[i + 3], flat[i + 4]
    if kind < -3 or kind > 3 or kind % 1 ~= 0 then return 'kind is not -3 to 3' end
    if trader_id < 0 or trader_id > INTEGER_MAX or trader_id % 1 ~= 0 then return 'trader_id is not an integer' end
    if kind == 0 then
      if price < 0 or price > SEQUENCE_MAX or price % 1 ~= 0 then return 'the sequence to cancel is not an integer' end
    elseif price < 1 or price > PRICE_CENTS_MAX or price % 1 ~= 0 then
      return 'price_cents is not an integer from 1 to ' .. PRICE_CENTS_MAX
    elseif quantity < 1 or quantity > INTEGER_MAX or quantity % 1 ~= 0 then
      return 'quantity is not a positive integer'
    end
    if client ~= 0 and (type(client) ~= 'string' or find(client, '[^%w%._:%-]')) then
      return 'client_order_id has a character that is not allowed'
    end
  end
  return nil
end

-- One entry's first sequence, time, commands and whether takers are canceled; or nil and what is wrong with it.
local function decode(id, fields)
  local cancels_taker = #fields == 8 and fields[7] == 'self_trade' and fields[8] == 'cancel_taker'
  if #fields ~= 6 and not cancels_taker or fields[1] ~= 'entry' or fields[3] ~= 'at' or fields[5] ~= 'commands' then
    return nil, 'its fields are not entry, at, commands'
  end
  if fields[2] ~= id then return nil, 'it names another id than its own' end
  if not string.match(fields[4], '^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ$') then
    return nil, 'at is not a time'
  end
  local parsed, flat = pcall(cjson.decode, fields[6])
  if not parsed then return nil, 'commands is not JSON' end
  local compared, fault = pcall(fault_of_commands, flat)
  if not compared then return nil, 'a value of commands is not a number' end
  if fault then return nil, fault end
  return tonumber(string.match(id, '%d+$')), fields[4], flat, cancels_taker
end

-- The commands after a position, up to limit, as a structure of arrays; entries that are malformed are
-- listed in `rejected`, passed over, and count for nothing.
-- Returns nil and a sentence where acknowledged commands are missing from the log.
function log.read(tag, position, limit)
  local kinds, traders, prices, quantities, clients, times, rules = {}, {}, {}, {}, {}, {}, {}
  local rejected = {}
  local count, log_id, sequence, part = 0, position.log_id, position.sequence, position.part
  local key, issued = tag .. ':orders', tonumber(redis.call('GET', tag .. ':sequence') or 0)
  local marks = {} -- for every entry: how far the log and the arrays are after it
  local more = true
  local from = log_id
  local seen = 0
  while more and count < limit do
    -- Entries hold one command or a thousand: read as many as the ones seen so far suggest.
    local wanted = seen == 0 and 2 or math.ceil((limit - count) * seen / math.max(count, 1))
    wanted = math.min(wanted, ENTRIES_MAX, limit - count)
    local entries = redis.call('XRANGE', key, '(' .. from, '+', 'COUNT', wanted)
    more = #entries == wanted
    for e = 1, #entries do
      if count >= limit then
        more = true
        break
      end
      local id = entries[e][1]
      from = id
      seen = seen + 1
      local first, at, flat, cancels_taker = decode(id, entries[e][2])
      if first then
        local size = #flat / FIELDS
        local done = sequence + 1 - first
        if first + size - 1 > issued then
          first, at = nil, 'its sequence was never given out'
        elseif done < 0 then
          return nil, 'the log of ' .. tag .. ' has a gap: commands ' .. text.integer[sequence + 1] .. ' to '
            .. text.integer[first - 1] .. ' are missing before entry ' .. id
        elseif done ~= part or done >= size then
          first, at = nil, 'its sequence is not the next one'
        else
          local last = math.min(size, done + limit - count)
          for c = done, last - 1 do
            local i = c * FIELDS
            count = count + 1
            kinds[count], traders[count], prices[count] = flat[i + 1], flat[i + 2], flat[i + 3]
            quantities[count], clients[count], times[count] = flat[i + 4], flat[i + 5], at
            rules[count] = cancels_taker
          end
          sequence = first + last - 1
          if last == size then log_id, part = id, 0 else more, part = true, last end
        end
      end
      if not first then
        rejected[#rejected + 1] = id .. ' ' .. at
        log_id = id
      end
      marks[#marks + 1] = { count = count, log_id = log_id, part = part, rejected = #rejected }
    end
    if #rejected >= COMMANDS_MAX then break end
  end
  return {
    count = count, kinds = kinds, traders = traders, prices = prices, quantities = quantities,
    clients = clients, times = times, rules = rules, rejected = rejected, log_id = log_id, sequence = sequence, part = part,
    more = more, marks = marks,
  }
end

-- Ends a batch after its first `count` commands: what comes after them is left for the next call.
function log.cut(batch, position, count)
  local reached = { count = 0, log_id = position.log_id, part = position.part, rejected = 0 }
  for m = 1, #batch.marks do
    if batch.marks[m].count > count then break end
    reached = batch.marks[m]
  end
  batch.sequence = batch.sequence - batch.count + count
  batch.count = count
  batch.log_id, batch.part = reached.log_id, reached.part + count - reached.count
  for r = #batch.rejected, reached.rejected + 1, -1 do batch.rejected[r] = nil end
  batch.more = true
end

-- The newest entry at or before an id that an append wrote, its first sequence and milliseconds; or nil.
-- Entries made by hand are stepped over.
local STEPS_MAX = 1000
local function newest(key, bound)
  for _ = 1, STEPS_MAX do
    local entry = redis.call('XREVRANGE', key, bound, '-', 'COUNT', 1)[1]
    if not entry then return nil end
    local time_ms, first = string.match(entry[1], '^(%d+)%-(%d+)$')
    if entry[2][1] == 'entry' and entry[2][2] == entry[1] then return entry, tonumber(first), tonumber(time_ms) end
    bound = '(' .. entry[1]
  end
  return nil
end

-- The entry that holds this sequence, or the newest one before it; nil where the log begins later.
-- Steps back from the end by doubling spans of time, then halves the last span: about
-- 2*log2(age in ms) reads, and no index to keep.
function log.entry_of(tag, sequence)
  local key = tag .. ':orders'
  local entry, first, high = newest(key, '+')
  if not entry or first <= sequence then return entry end
  local low, span = high, 1
  repeat
    high = low
    low = math.max(low - span, 0)
    span = span * 2
    entry, first = newest(key, text.integer[low])
  until not entry or first <= sequence or low == 0
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    entry, first = newest(key, text.integer[middle])
    if entry and first > sequence then high = middle else low = middle end
  end
  return (newest(key, text.integer[high] .. '-' .. text.integer[sequence]))
end

-- The command with this sequence, or nil where the log no longer (or not yet) holds it.
function log.find(tag, sequence)
  local entry = log.entry_of(tag, sequence)
  if not entry then return nil end
  local first, at, flat = decode(entry[1], entry[2])
  if not first then return nil end
  local i = (sequence - first) * FIELDS
  if i >= #flat then return nil end
  return {
    kind = flat[i + 1], trader = flat[i + 2], price = flat[i + 3], quantity = flat[i + 4], client = flat[i + 5],
    at = at,
  }
end
