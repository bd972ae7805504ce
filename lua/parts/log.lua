-- log: {card}:orders, the stream of commands.
--
-- An entry is one append of up to limits.commands_max commands, a column in each field:
--   id          <milliseconds>-<sequence of its first command>
--   entry       that id again, so that a copy of an entry is recognised
--   at          RFC 3339 time of the append
--   kinds       GgC: a letter each. G gtc, I ioc, F fok, P post-only, R replaces, Q replaces with post-only; a capital
--               buys, a small letter sells; C cancels
--   traders     ["17","4","4"]: trader ids, as text because lines hold them as text
--   prices      [550,540,12]: price_cents; of a cancel the sequence of the order, or 0 for all of the trader's orders
--   quantities  [1,20,0]: 0 of a cancel; of a replace the new total, negative where it stays what the order has by then
--   targets     [0,0,12]: of a replace the sequence of its order, else 0; only where there is a replace
--   clients     ["a",0,0]: client_order_id or 0; only where an order has one
--   self_trade  cancel_taker, or missing: an order that would trade with its own trader is canceled
-- All but kinds are JSON arrays. C functions (math.min, math.max) check a column as a whole, and match uses columns as
-- they are: reading commands one after the other was a sixth of a match call.
local log = {}

local COMMANDS_MAX, SEQUENCE_MAX = limits.commands_max, limits.sequence_max
local PRICE_CENTS_MAX, QUANTITY_MAX, TRADER_ID_MAX = limits.price_cents_max, limits.quantity_max, limits.trader_id_max
local ENTRIES_MAX = 64 -- of a read
local find, byte, min, max = string.find, string.byte, math.min, math.max
local REPLACE = text.REPLACE

-- Characters that no array of integers has: of fractions, exponents, nan, inf, true, null, and text.
local NOT_INTEGER = { '.', 'e', 'E', 'n', 'N', '"', 'x', 'X' }

-- The last sequence that was given out.
function log.last_sequence(tag) return tonumber(redis.call('GET', tag .. ':sequence') or 0) end

-- The last sequence that is matched.
function log.last_matched(tag) return tonumber(redis.call('HGET', tag .. ':cursor', 'sequence') or 0) end

-- The reply to an append where too many commands wait to be matched.
function log.backlog(tag, waiting)
  return redis.error_reply('BACKLOG ' .. text.integer[waiting] .. ' commands of ' .. tag .. ' wait to be matched')
end

local MS_PER_DAY = text.MS_PER_DAY

-- The server's clock.
function log.now_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- The time of an append: `time_ms_min`, where that is ahead of the clock by less than a day. An earlier order of the
-- same trader may be on a card of another server, whose clock is ahead.
function log.append_time(time_ms_min, now_ms)
  return time_ms_min > now_ms and time_ms_min < now_ms + MS_PER_DAY and time_ms_min or now_ms
end

-- The greatest id that the stream has ever held.
local function last_id(key)
  local info = redis.call('XINFO', 'STREAM', key)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

-- Appends an entry of `count` commands behind a sequence, and gives out their sequences. `entry`: fields and values,
-- with room for id and time. Returns the time of the entry in milliseconds and as text.
function log.append(tag, sequence, count, time_ms, entry)
  local key, first = tag .. ':orders', text.integer[sequence + 1]
  -- The log may have a later id already: after a clock went back, or of an entry made by hand. Then the entry gets the
  -- millisecond after that id.
  local id = text.integer[time_ms] .. '-' .. first
  entry[2], entry[4] = id, text.time(time_ms)
  local added = redis.pcall('XADD', key, id, unpack(entry))
  if type(added) == 'table' and added.err then
    local next_ms = tonumber(string.match(last_id(key), '^%d+')) + 1
    id = text.integer[next_ms] .. '-' .. first
    entry[2] = id
    -- Times rise with the log. An id that is days ahead was made by hand, and does not move the time.
    if next_ms < time_ms + MS_PER_DAY then time_ms, entry[4] = next_ms, text.time(next_ms) end
    redis.call('XADD', key, id, unpack(entry))
  end
  redis.call('SET', tag .. ':sequence', text.integer[sequence + count])
  return time_ms, entry[4]
end

-- Decodes a column of integers; raises a sentence unless all are from `low` to `high`.
local function decode_integers(name, json, size, low, high)
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

-- The bytes of the letters.
local function decode_kinds(letters)
  if #letters == 0 or #letters > COMMANDS_MAX then error('kinds has not 1 to ' .. COMMANDS_MAX .. ' letters', 0) end
  if find(letters, '[^GgCIiFfPpRrQq]') then
    error('kinds has a letter that is none of G, g, I, i, F, f, P, p, R, r, Q, q, C', 0)
  end
  return { byte(letters, 1, -1) }
end

local function decode_traders(json, size)
  local rest, count = string.gsub(json, '"%d+"', '')
  if count ~= size or rest ~= '[' .. string.rep(',', size - 1) .. ']' then
    error('traders is not an array of ' .. size .. ' numbers as text', 0)
  end
  if find(json, '"0', 1, true) and find(json, '"0%d') then error('traders has a number that begins with 0', 0) end
  local values = cjson.decode(json)
  if max(unpack(values)) > TRADER_ID_MAX then error('traders has a value that is above ' .. TRADER_ID_MAX, 0) end
  return values
end

local function decode_clients(json, size)
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

-- Most orders have quantity 1. A column of such orders is recognised by its text, and need not be decoded.
local ones, ones_text = {}, {}
for i = 1, COMMANDS_MAX do ones[i] = 1 end

-- The shared column of ones, which must not be changed; nil where the text is of another column.
local function all_ones(json, size)
  if #json ~= 2 * size + 1 then return nil end
  ones_text[size] = ones_text[size] or '[' .. string.rep('1,', size - 1) .. '1]'
  return json == ones_text[size] and ones or nil
end

-- Checks the values of an entry that has cancels or replaces, whose columns admit more than those of orders.
local function check_mixed(kinds, prices, quantities, targets)
  for i = 1, #kinds do
    local kind, quantity, target = kinds[i], quantities[i], targets and targets[i] or 0
    local is_replace = REPLACE[kind] or false
    if kind ~= text.CANCEL and (prices[i] < 1 or prices[i] > PRICE_CENTS_MAX) or quantity == 0 and kind ~= text.CANCEL
      or quantity < 0 and not is_replace then
      error('an order has a price or a quantity that is not allowed', 0)
    end
    if is_replace ~= (target > 0) then error('targets names orders of other commands than replaces', 0) end
  end
end

-- Decodes the columns of an entry; `from`: the place of the field kinds. Raises a sentence where one is malformed.
local function decode_columns(fields, from)
  local letters = fields[from + 1]
  local kinds = decode_kinds(letters)
  local size = #kinds
  local replaces = find(letters, '[RrQq]') ~= nil
  local entry = {
    kinds = kinds,
    size = size,
    traders = decode_traders(fields[from + 3], size),
    cancels = find(letters, 'C', 1, true) ~= nil,
    special = replaces or find(letters, '[Pp]') ~= nil,
  }
  local prices = decode_integers('prices', fields[from + 5], size, entry.cancels and 0 or 1,
    entry.cancels and SEQUENCE_MAX or PRICE_CENTS_MAX)
  local quantities = all_ones(fields[from + 7], size) or decode_integers('quantities', fields[from + 7], size,
    replaces and -QUANTITY_MAX or entry.cancels and 0 or 1, QUANTITY_MAX)
  entry.prices, entry.quantities = prices, quantities
  local next = from + 8
  if fields[next] == 'targets' then
    entry.targets = decode_integers('targets', fields[next + 1], size, 0, SEQUENCE_MAX)
    next = next + 2
  end
  if entry.cancels or replaces or entry.targets then check_mixed(kinds, prices, quantities, entry.targets) end
  if fields[next] == 'clients' then
    entry.clients = decode_clients(fields[next + 1], size)
    next = next + 2
  end
  if fields[next] == 'self_trade' and fields[next + 1] == 'cancel_taker' then
    entry.cancels_taker = true
    next = next + 2
  end
  if next <= #fields then error('it has fields that are not known', 0) end
  return entry
end

-- Decoded entries by card and id. A call that ends within an entry leaves the rest of it to the next call, which then
-- need not decode it again.
local decoded_entries = {}

-- Whether a decoded entry was made of these fields: an entry of the same id may be another one after data was restored.
local function is_same(entry, fields)
  if #fields ~= #entry.fields then return false end
  for f = 1, #fields do
    if fields[f] ~= entry.fields[f] then return false end
  end
  return true
end

-- Decodes an entry: its columns, first sequence and time; or nil and a sentence that says what is wrong. `cached`: an
-- entry with this id that an earlier call has decoded, or nil.
local function decode(id, fields, cached)
  if fields[1] ~= 'entry' or fields[3] ~= 'at' or fields[5] ~= 'kinds' or fields[7] ~= 'traders'
    or fields[9] ~= 'prices' or fields[11] ~= 'quantities' then
    return nil, 'its fields are not entry, at, kinds, traders, prices, quantities'
  end
  if fields[2] ~= id then return nil, 'it names another id than its own' end
  if cached and is_same(cached, fields) then return cached end
  if not find(fields[4], '^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ$') then return nil, 'at is not a time' end
  local decoded, entry = pcall(decode_columns, fields, 5)
  if not decoded then return nil, entry end
  entry.first, entry.at, entry.fields = tonumber(string.match(id, '%d+$')), ',' .. fields[4], fields
  entry.released = 0 -- commands at the start that the columns no longer have
  return entry
end

-- Adds the commands `from` to `to` of an entry to a column that only some entries have, and that is 0 elsewhere. `count`:
-- commands of the batch before. Returns the column of the batch, nil where neither has it.
local function add_column(column, of_entry, count, from, to)
  if not of_entry and not column then return nil end
  column = column or {}
  for i = #column + 1, count do column[i] = 0 end
  for c = from, to do column[c + count + 1 - from] = of_entry and of_entry[c] or 0 end
  return column
end

-- Adds the commands `from` to `to` of an entry to a batch. A batch that is one whole entry borrows its columns, and
-- copies them when a second entry follows.
local function add_commands(batch, entry, from, to)
  local count = batch.count
  local last = count + to - from + 1
  batch.cancels, batch.special = batch.cancels or entry.cancels, batch.special or entry.special
  if count == 0 and from == entry.released + 1 and to == entry.size then
    batch.kinds, batch.traders = entry.kinds, entry.traders
    batch.prices, batch.quantities = entry.prices, entry.quantities
    batch.clients, batch.targets, batch.borrowed = entry.clients, entry.targets, true
  else
    if batch.borrowed then
      batch.kinds, batch.traders = { unpack(batch.kinds) }, { unpack(batch.traders) }
      batch.prices, batch.quantities = { unpack(batch.prices) }, { unpack(batch.quantities) }
      batch.clients = batch.clients and { unpack(batch.clients) }
      batch.targets = batch.targets and { unpack(batch.targets) }
      batch.borrowed = false
    end
    local kinds, traders, prices, quantities = batch.kinds, batch.traders, batch.prices, batch.quantities
    local entry_kinds, entry_traders, entry_prices, entry_quantities =
      entry.kinds, entry.traders, entry.prices, entry.quantities
    local first = from - entry.released
    local offset = count + 1 - first
    for c = first, to - entry.released do
      kinds[c + offset], traders[c + offset] = entry_kinds[c], entry_traders[c]
      prices[c + offset], quantities[c + offset] = entry_prices[c], entry_quantities[c]
    end
    batch.clients = add_column(batch.clients, entry.clients, count, first, to - entry.released)
    batch.targets = add_column(batch.targets, entry.targets, count, first, to - entry.released)
  end
  local times, rules, at = batch.times, batch.rules, entry.at
  for i = count + 1, last do times[i] = at end
  if entry.cancels_taker then
    for i = count + 1, last do rules[i] = true end
  end
  batch.count = last
end

-- Entries of the first read: one where the previous call left enough commands of it, else two.
local function first_entries(cached, sequence, limit)
  for _, entry in pairs(cached) do
    if entry.first <= sequence and entry.first + entry.size >= sequence + limit then return 1 end
  end
  return 2
end

-- Reads up to `limit` commands after a position, as a structure of arrays; of the last entry as many as fit. Malformed
-- entries are passed over and listed in `rejected`.
-- Returns nil and a sentence where acknowledged commands are missing from the log.
function log.read(tag, position, limit)
  local batch = {
    count = 0, kinds = {}, traders = {}, prices = {}, quantities = {}, clients = nil, targets = nil, rules = {},
    times = {}, -- a comma before each
    cancels = false, -- whether there are any
    special = false, -- whether there are post-only orders or replaces
    rejected = {}, ends = {}, -- of each entry read: position and sizes of the batch behind it
    log_id = position.log_id, sequence = position.sequence, part = position.part, more = true,
  }
  local rejected, ends = batch.rejected, batch.ends
  local key, issued = tag .. ':orders', log.last_sequence(tag)
  local cached, decoded = decoded_entries[tag] or {}, {}
  decoded_entries[tag] = decoded
  local from, seen = batch.log_id, 0
  while batch.more and batch.count < limit do
    -- An entry holds one command or a thousand, so the size of the next read follows from the entries seen so far.
    local wanted = seen == 0 and first_entries(cached, batch.sequence + 1, limit)
      or math.ceil((limit - batch.count) * seen / max(batch.count, 1))
    wanted = min(wanted, ENTRIES_MAX, limit - batch.count)
    local entries = redis.call('XRANGE', key, '(' .. from, '+', 'COUNT', wanted)
    batch.more = #entries == wanted
    for e = 1, #entries do
      local id, fields = entries[e][1], entries[e][2]
      local before = cached[id]
      if before and before.first + before.released > batch.sequence + 1 then before = nil end
      local entry, fault = decode(id, fields, before)
      decoded[id] = entry
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
          add_commands(batch, entry, done + 1, last)
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
      ends[#ends + 1] = { id = id, count = batch.count, log_id = batch.log_id, part = batch.part, rejected = #rejected }
      if batch.part > 0 or batch.count >= limit then
        batch.more = batch.more or e < #entries
        return batch
      end
    end
    if #rejected >= COMMANDS_MAX then break end
  end
  return batch
end

-- Keeps of the decoded entries only what the next call reads again. A small heap stays in the processor's cache, and
-- garbage collection walks through all of it.
local RELEASED_MIN = 100
function log.release(tag, batch)
  local ends, kept = batch.ends, decoded_entries[tag]
  for e = 1, #ends do
    if ends[e].count <= batch.count and ends[e].part == 0 then kept[ends[e].id] = nil end
  end
  for _, entry in pairs(kept) do
    local done = batch.sequence + 1 - entry.first - entry.released
    if done >= RELEASED_MIN then
      entry.kinds, entry.traders = { unpack(entry.kinds, done + 1) }, { unpack(entry.traders, done + 1) }
      entry.prices, entry.quantities = { unpack(entry.prices, done + 1) }, { unpack(entry.quantities, done + 1) }
      entry.clients = entry.clients and { unpack(entry.clients, done + 1) }
      entry.targets = entry.targets and { unpack(entry.targets, done + 1) }
      entry.released = entry.released + done
    end
  end
end

-- Ends a batch behind its first `count` commands; the next call reads the rest.
function log.truncate(batch, position, count)
  local reached = { count = 0, log_id = position.log_id, part = position.part, rejected = 0 }
  for e = 1, #batch.ends do
    if batch.ends[e].count > count then break end
    reached = batch.ends[e]
  end
  batch.sequence = batch.sequence - batch.count + count
  batch.count = count
  batch.log_id, batch.part = reached.log_id, reached.part + count - reached.count
  for r = #batch.rejected, reached.rejected + 1, -1 do batch.rejected[r] = nil end
  batch.more = true
end

-- Returns the newest entry at or before an id, its first sequence and milliseconds; or nil. Passes over entries that no
-- append has written.
local STEPS_MAX = 1000
local function newest_entry(key, bound)
  for _ = 1, STEPS_MAX do
    local entry = redis.call('XREVRANGE', key, bound, '-', 'COUNT', 1)[1]
    if not entry then return nil end
    local time_ms, first = string.match(entry[1], '^(%d+)%-(%d+)$')
    if entry[2][1] == 'entry' and entry[2][2] == entry[1] then return entry, tonumber(first), tonumber(time_ms) end
    bound = '(' .. entry[1]
  end
  return nil
end

-- Returns the entry that holds this sequence, or the newest one before it; nil where the log begins later.
-- The search steps back from the end by doubling spans of time, then halves the last span: about 2*log2(age in ms)
-- reads, and no index to keep.
function log.entry_of(tag, sequence)
  local key = tag .. ':orders'
  local entry, first, high = newest_entry(key, '+')
  if not entry or first <= sequence then return entry end
  local low, span = high, 1
  repeat
    high = low
    low = math.max(low - span, 0)
    span = span * 2
    entry, first = newest_entry(key, text.integer[low])
  until not entry or first <= sequence or low == 0
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    entry, first = newest_entry(key, text.integer[middle])
    if entry and first > sequence then high = middle else low = middle end
  end
  return (newest_entry(key, text.integer[high] .. '-' .. text.integer[sequence]))
end

-- Returns the command with this sequence, or nil where the log does not hold it; and the entry that holds it. A caller
-- that looks for several commands passes that entry as `near` with the next one, which is often in the same entry.
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
    client = entry.clients and entry.clients[i] or 0, target = entry.targets and entry.targets[i] or 0,
    at = string.sub(entry.at, 2),
  }, entry
end
