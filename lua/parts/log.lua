-- log: {card}:orders, the stream of commands.
--
-- An entry is one append of up to COMMANDS_MAX commands, a column a field:
--   id          <milliseconds>-<sequence of its first command>
--   entry       that id again (a copied entry gives itself away)
--   at          RFC 3339 time of the append
--   kinds       GgC: a letter each; G gtc, I ioc, F fok, capital of a buy, small of a sell; C: a cancel
--   traders     ["17","4","4"]: trader_id, as the text that it is wherever it is stored
--   prices      [550,540,12]: price_cents; of a cancel the sequence of the order, or 0 for all of the trader's
--   quantities  [1,20,0]: 0 of a cancel
--   clients     ["a",0,0]: client_order_id or 0; only where there is one
--   self_trade  only where it is cancel_taker: an order that would trade with its own trader is canceled
-- All but kinds are JSON arrays. Columns, because they are checked as a whole by C functions (math.min, math.max) and used
-- as they are: reading commands one after the other was a sixth of a match call.
local log = {}

log.COMMANDS_MAX = 1000
local COMMANDS_MAX = log.COMMANDS_MAX
local ENTRIES_MAX = 64
local find, byte, min, max = string.find, string.byte, math.min, math.max
local INTEGER_MAX = 2147483647
local PRICE_CENTS_MAX = 1000000 -- what settings allow
local SEQUENCE_MAX = 999999999999

-- What stands in a number that is no integer (or in no number at all): fractions, exponents, nan, inf, true, null, text.
local NOT_INTEGER = { '.', 'e', 'E', 'n', 'N', '"', 'x', 'X' }

-- The last sequence that was given out, and the last one that is matched.
function log.last_sequence(tag) return tonumber(redis.call('GET', tag .. ':sequence') or 0) end
function log.last_matched(tag) return tonumber(redis.call('HGET', tag .. ':cursor', 'sequence') or 0) end

-- What is replied where so many commands wait that no more are taken.
function log.backlog(tag, waiting)
  return redis.error_reply('BACKLOG ' .. text.integer[waiting] .. ' commands of ' .. tag .. ' wait to be matched')
end

-- The server's clock.
local MS_PER_DAY = 86400000
function log.now_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- The least time to be given, where that is ahead of the clock by less than a day: a trader's order before may be on a card
-- of another server, whose clock is ahead.
function log.at_least(least_ms, now_ms)
  return least_ms > now_ms and least_ms < now_ms + MS_PER_DAY and least_ms or now_ms
end

-- The greatest id that this stream has ever held.
local function last_id(key)
  local about = redis.call('XINFO', 'STREAM', key)
  for i = 1, #about, 2 do
    if about[i] == 'last-generated-id' then return about[i + 1] end
  end
end

-- Appends an entry of so many commands after a sequence, and gives out theirs. `entry`: its fields and values, with places
-- for id and time. Returns the time that it got, in milliseconds and as text.
function log.append(tag, sequence, count, time_ms, entry)
  local key, first = tag .. ':orders', text.integer[sequence + 1]
  -- An id is its time and its sequence; where a later id is in the log already (a clock that went back, an entry made by
  -- hand), the millisecond after that one stands in for the time.
  local id = text.integer[time_ms] .. '-' .. first
  entry[2], entry[4] = id, text.time(time_ms)
  local added = redis.pcall('XADD', key, id, unpack(entry))
  if type(added) == 'table' and added.err then
    local next_ms = tonumber(string.match(last_id(key), '^%d+')) + 1
    id = text.integer[next_ms] .. '-' .. first
    entry[2] = id
    -- Times rise with the log, unless somebody has made an entry of some far day.
    if next_ms < time_ms + MS_PER_DAY then time_ms, entry[4] = next_ms, text.time(next_ms) end
    redis.call('XADD', key, id, unpack(entry))
  end
  redis.call('SET', tag .. ':sequence', text.integer[sequence + count])
  return time_ms, entry[4]
end

-- The integers of a column, all from low to high; raises a sentence otherwise.
local function column(name, json, size, low, high)
  for c = 1, #NOT_INTEGER do
    if find(json, NOT_INTEGER[c], 1, true) then error(name .. ' has a value that is not an integer', 0) end
  end
  local values = cjson.decode(json)
  if #values ~= size then error(name .. ' has another length than kinds', 0) end
  if min(unpack(values)) < low or max(unpack(values)) > high then
    error(name .. ' has a value that is not from ' .. low .. ' to ' .. high, 0)
  end
  return values
end

-- The bytes of a column of letters.
local function kinds_column(letters)
  if #letters == 0 or #letters > COMMANDS_MAX then error('kinds has not 1 to ' .. COMMANDS_MAX .. ' letters', 0) end
  if find(letters, '[^GgCIiFf]') then error('kinds has a letter that is none of G, g, I, i, F, f, C', 0) end
  return { byte(letters, 1, -1) }
end

-- The ids of a column of texts.
local function traders_column(json, size)
  local rest, count = string.gsub(json, '"%d+"', '')
  if count ~= size or rest ~= '[' .. string.rep(',', size - 1) .. ']' then
    error('traders is not an array of ' .. size .. ' numbers as text', 0)
  end
  if find(json, '"0', 1, true) and find(json, '"0%d') then error('traders has a number that begins with 0', 0) end
  local values = cjson.decode(json)
  if max(unpack(values)) > INTEGER_MAX then error('traders has a value that is above ' .. INTEGER_MAX, 0) end
  return values
end

local function clients_column(json, size)
  local values = cjson.decode(json)
  if #values ~= size then error('clients has another length than kinds', 0) end
  for i = 1, size do
    local client = values[i]
    if client ~= 0 and (type(client) ~= 'string' or find(client, '[^%w%._:%-]')) then
      error('clients has a value that is neither 0 nor a client_order_id', 0)
    end
  end
  return values
end

-- Orders of one card each are most of what there is: their column is known at sight, and need not be decoded.
local ONES_MAX = 1000
local ones, ones_text = {}, {}
for i = 1, ONES_MAX do ones[i] = 1 end

-- The quantities, to be read only, if so many are all 1; else nil.
local function all_ones(json, size)
  if size > ONES_MAX or #json ~= 2 * size + 1 then return nil end
  ones_text[size] = ones_text[size] or '[' .. string.rep('1,', size - 1) .. '1]'
  return json == ones_text[size] and ones or nil
end

local function columns(fields, from)
  local kinds = kinds_column(fields[from + 1])
  local size = #kinds
  local entry = {
    kinds = kinds,
    size = size,
    traders = traders_column(fields[from + 3], size),
    cancels = find(fields[from + 1], 'C', 1, true) ~= nil,
  }
  local prices = column('prices', fields[from + 5], size, entry.cancels and 0 or 1,
    entry.cancels and SEQUENCE_MAX or PRICE_CENTS_MAX)
  local quantities = all_ones(fields[from + 7], size)
    or column('quantities', fields[from + 7], size, entry.cancels and 0 or 1, INTEGER_MAX)
  if entry.cancels then
    for i = 1, size do
      if kinds[i] ~= text.CANCEL and (prices[i] < 1 or prices[i] > PRICE_CENTS_MAX or quantities[i] < 1) then
        error('an order has a price or a quantity that is not allowed', 0)
      end
    end
  end
  entry.prices, entry.quantities = prices, quantities
  local next = from + 8
  if fields[next] == 'clients' then
    entry.clients = clients_column(fields[next + 1], size)
    next = next + 2
  end
  if fields[next] == 'self_trade' and fields[next + 1] == 'cancel_taker' then
    entry.cancels_taker = true
    next = next + 2
  end
  if next <= #fields then error('it has fields that are not known', 0) end
  return entry
end

-- Of each card the entries that its last call read, by id, each with the fields that it was decoded from: a call that
-- ends early leaves some of them, or a part, to the next one.
local last_read = {}

local function decoded_before(known, fields)
  if not known or #fields ~= #known.fields then return nil end
  for f = 1, #fields do
    if fields[f] ~= known.fields[f] then return nil end
  end
  return known
end

-- An entry's columns, with its first sequence and its time; or nil and what is wrong with it. `known`: what an entry
-- with this id was decoded to before.
local function decode(id, fields, known)
  if fields[1] ~= 'entry' or fields[3] ~= 'at' or fields[5] ~= 'kinds' or fields[7] ~= 'traders'
    or fields[9] ~= 'prices' or fields[11] ~= 'quantities' then
    return nil, 'its fields are not entry, at, kinds, traders, prices, quantities'
  end
  if fields[2] ~= id then return nil, 'it names another id than its own' end
  local before = decoded_before(known, fields)
  if before then return before end
  if not find(fields[4], '^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ$') then return nil, 'at is not a time' end
  local decoded, entry = pcall(columns, fields, 5)
  if not decoded then return nil, entry end
  entry.first, entry.at, entry.fields = tonumber(string.match(id, '%d+$')), ',' .. fields[4], fields
  entry.dropped = 0 -- commands that the columns no longer have
  return entry
end

-- Appends the commands `from` to `to` of an entry to a batch. The columns of a lone entry are taken as they are.
local function add(batch, entry, from, to)
  local count = batch.count
  local last = count + to - from + 1
  batch.cancels = batch.cancels or entry.cancels
  if count == 0 and from == entry.dropped + 1 and to == entry.size then
    batch.kinds, batch.traders, batch.prices, batch.quantities = entry.kinds, entry.traders, entry.prices, entry.quantities
    batch.clients, batch.borrowed = entry.clients, true
  else
    if batch.borrowed then
      batch.kinds, batch.traders = { unpack(batch.kinds) }, { unpack(batch.traders) }
      batch.prices, batch.quantities = { unpack(batch.prices) }, { unpack(batch.quantities) }
      batch.clients = batch.clients and { unpack(batch.clients) }
      batch.borrowed = false
    end
    local kinds, traders, prices, quantities = batch.kinds, batch.traders, batch.prices, batch.quantities
    local entry_kinds, entry_traders, entry_prices, entry_quantities =
      entry.kinds, entry.traders, entry.prices, entry.quantities
    local first = from - entry.dropped
    local offset = count + 1 - first
    for c = first, to - entry.dropped do
      kinds[c + offset], traders[c + offset] = entry_kinds[c], entry_traders[c]
      prices[c + offset], quantities[c + offset] = entry_prices[c], entry_quantities[c]
    end
    if entry.clients or batch.clients then
      batch.clients = batch.clients or {}
      for i = #batch.clients + 1, count do batch.clients[i] = 0 end
      for c = first, to - entry.dropped do batch.clients[c + offset] = entry.clients and entry.clients[c] or 0 end
    end
  end
  local times, rules, at = batch.times, batch.rules, entry.at
  for i = count + 1, last do times[i] = at end
  if entry.cancels_taker then
    for i = count + 1, last do rules[i] = true end
  end
  batch.count = last
end

-- How many entries to read first: one where the last call left enough of it, two elsewhere.
local function first_look(read_before, sequence, limit)
  for _, entry in pairs(read_before) do
    if entry.first <= sequence and entry.first + entry.size >= sequence + limit then return 1 end
  end
  return 2
end

-- The commands after a position, as a structure of arrays: as many as `limit`, of the last entry as much as fits. Entries
-- that are malformed are listed in `rejected`, passed over, and count for nothing.
-- Returns nil and a sentence where acknowledged commands are missing from the log.
function log.read(tag, position, limit)
  local batch = {
    count = 0, kinds = {}, traders = {}, prices = {}, quantities = {}, clients = nil, rules = {},
    times = {}, -- a comma before each
    cancels = false, -- whether there are any
    rejected = {}, marks = {}, -- for every entry: how far the log and the arrays are after it
    log_id = position.log_id, sequence = position.sequence, part = position.part, more = true,
  }
  local rejected, marks = batch.rejected, batch.marks
  local key, issued = tag .. ':orders', tonumber(redis.call('GET', tag .. ':sequence') or 0)
  local read_before, read_now = last_read[tag] or {}, {}
  last_read[tag] = read_now
  local from = batch.log_id
  local seen = 0
  while batch.more and batch.count < limit do
    -- Entries hold one command or a thousand: read as many as the ones seen so far suggest.
    local wanted = seen == 0 and first_look(read_before, batch.sequence + 1, limit)
      or math.ceil((limit - batch.count) * seen / max(batch.count, 1))
    wanted = min(wanted, ENTRIES_MAX, limit - batch.count)
    local entries = redis.call('XRANGE', key, '(' .. from, '+', 'COUNT', wanted)
    batch.more = #entries == wanted
    for e = 1, #entries do
      local id, fields = entries[e][1], entries[e][2]
      local before = read_before[id]
      if before and before.first + before.dropped > batch.sequence + 1 then before = nil end
      local entry, fault = decode(id, fields, before)
      read_now[id] = entry
      if entry and entry.first + entry.size - 1 > issued then entry, fault = nil, 'its sequence was never given out' end
      if entry then
        local done = batch.sequence + 1 - entry.first
        if done < 0 then
          return nil, 'the log of ' .. tag .. ' has a gap: commands ' .. text.integer[batch.sequence + 1] .. ' to '
            .. text.integer[entry.first - 1] .. ' are missing before entry ' .. id
        end
        if done ~= batch.part or done >= entry.size then
          entry, fault = nil, 'its sequence is not the next one'
        else
          local last = min(entry.size, done + limit - batch.count)
          add(batch, entry, done + 1, last)
          batch.sequence = entry.first + last - 1
          if last < entry.size then
            batch.more, batch.part = true, last
          else
            batch.log_id, batch.part = id, 0
          end
        end
      end
      if not entry then
        rejected[#rejected + 1] = id .. ' ' .. fault
        batch.log_id = id
      end
      from = id
      seen = seen + 1
      marks[#marks + 1] = { id = id, count = batch.count, log_id = batch.log_id, part = batch.part, rejected = #rejected }
      if batch.part > 0 or batch.count >= limit then
        batch.more = batch.more or e < #entries
        return batch
      end
    end
    if #rejected >= COMMANDS_MAX then break end
  end
  return batch
end

-- Keeps of the entries that were read only those that the next call reads again, and of one that is partly done the rest:
-- the less Lua keeps, the more of what it works on stays in the processor's cache.
local DROPPED_MIN = 100
function log.forget(tag, batch)
  local marks, kept = batch.marks, last_read[tag]
  for m = 1, #marks do
    if marks[m].count <= batch.count and marks[m].part == 0 then kept[marks[m].id] = nil end
  end
  for _, entry in pairs(kept) do
    local drop = batch.sequence + 1 - entry.first - entry.dropped
    if drop >= DROPPED_MIN then
      entry.kinds, entry.traders = { unpack(entry.kinds, drop + 1) }, { unpack(entry.traders, drop + 1) }
      entry.prices, entry.quantities = { unpack(entry.prices, drop + 1) }, { unpack(entry.quantities, drop + 1) }
      entry.clients = entry.clients and { unpack(entry.clients, drop + 1) }
      entry.dropped = entry.dropped + drop
    end
  end
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

-- The command with this sequence, or nil where the log no longer (or not yet) holds it; and the entry that it was found in,
-- to be given as `near` where the next one may be in the same.
function log.find(tag, sequence, near)
  local entry = near
  if not entry or sequence < entry.first or sequence >= entry.first + entry.size then
    local found = log.entry_of(tag, sequence)
    entry = found and decode(found[1], found[2])
  end
  local i = entry and sequence - entry.first + 1
  if not entry or i > entry.size then return nil, near end
  return {
    kind = entry.kinds[i], trader = entry.traders[i], price = entry.prices[i], quantity = entry.quantities[i],
    client = entry.clients and entry.clients[i] or 0, at = string.sub(entry.at, 2),
  }, entry
end
