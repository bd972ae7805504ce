-- trader: what has happened to each trader's orders on this card.
--   {card}:trader:<id>    a list of texts, oldest first: a line for each order that is completed, and one that begins
--                         with the sequence and ends there, or with the id behind it, for each that came to rest in the
--                         book; the latest 50 orders, or some more
--   {card}:recent:<dd>    a text: the newest such lines of all traders whose id ends with these digits (two, or the only
--                         one); now and then it is sorted into their lists
--   {card}:older:<id>     a list: orders that were open when they were dropped from the trader's list, oldest first
-- Two steps, because one call of Redis and one cold list an order cost more than matching it: a hundred APPENDs take a
-- whole batch, and one RPUSH of one text several orders (docs/decisions.md).
local trader = {}

local find, sub, byte, format, concat = string.find, string.sub, string.byte, string.format, table.concat
local floor = math.floor
local LATEST = 50
-- A list is trimmed when it has so many texts, or would have so many lines if all its texts had as many as the newest.
local TEXTS_MAX = 16
local LINES_MAX = 3 * LATEST
local OLDER_TRIM_AT = 2 * LATEST
local BUCKETS = 100
-- Whenever so many commands are done it is the next bucket's turn to be sorted into the lists of its traders, if it has
-- grown to so many bytes by then; or as soon as it has twice as many. The engine does that (engine/sorting.py, sort.lua):
-- Lua hashes every byte of every piece of text, Python takes a tenth of the time. With four times as many bytes a bucket
-- is sorted here, at once: nobody else does.
local SORT_EVERY = 512
local BUCKET_BYTES = 49152
local DUE_TOLD = 8
-- Where a bucket has few traders it is due earlier, with so many bytes more for each: there are enough lines of a trader
-- for one RPUSH then, and whoever reads the trader's orders reads them all.
local BYTES_MIN, BYTES_A_TRADER = 8192, 4096
local due = {} -- of each card: its buckets that are due, in turn; what a restart forgets is due again later
local due_bytes = {} -- of each card and bucket: with how many bytes it is due, known once it has been sorted
-- A bucket is read so many bytes at a time: such strings stay in the processor's cache, and in Lua's free memory.
local WINDOW = 8192
local DIGITS = 12 -- of a sequence
local RESTS_MAX = 24 -- bytes of the line of an order that came to rest: sequence, id, two commas
local NEWLINE = 10

local function list_key(tag, id) return tag .. ':trader:' .. id end
local function recent_key(tag, bucket) return tag .. ':recent:' .. bucket end
local function older_key(tag, id) return tag .. ':older:' .. id end

-- Drops the completed orders from a trader's older ones.
function trader.trim_older(tag, id)
  local key = older_key(tag, id)
  local sequences = redis.call('LRANGE', key, 0, -1)
  local records = bulk.read(tag .. ':open', sequences)
  local open = {}
  for i = 1, #sequences do
    if records[i] then open[#open + 1] = sequences[i] end
  end
  if #open == #sequences then return end
  redis.call('DEL', key)
  bulk.call('RPUSH', key, open)
end

-- Appends to a trader's older open orders. Drops the completed ones when the length passes 100, 200, 400, …: that
-- costs what the list holds, so it has to become rarer as more open orders stay in it.
local function keep_older(tag, id, open)
  local length = bulk.call('RPUSH', older_key(tag, id), open)
  local bound = OLDER_TRIM_AT
  while bound <= length do
    if length - #open < bound then
      trader.trim_older(tag, id)
      return
    end
    bound = bound * 2
  end
end

-- The lines of a trader's list.
local function listed(tag, id)
  local texts, items = redis.call('LRANGE', list_key(tag, id), 0, -1), {}
  for t = 1, #texts do
    for item in string.gmatch(texts[t], '[^\n]+') do items[#items + 1] = item end
  end
  return items
end

-- Puts lines of a list (or of a bucket) together by their orders: what is known of each sequence, its line where it is
-- completed, else the sequence's text; and the sequences in the order they were first seen.
local function gather(items, known, sequences)
  for i = 1, #items do
    local item = items[i]
    local field = sub(item, 1, DIGITS)
    local sequence = tonumber(field)
    if not known[sequence] then
      sequences[#sequences + 1] = sequence
      known[sequence] = field
    end
    if #item > RESTS_MAX then known[sequence] = item end
  end
end

-- Keeps the latest orders in a trader's list, and remembers the older ones that are open.
local function trim(tag, id)
  local key = list_key(tag, id)
  local known, sequences = {}, {}
  gather(listed(tag, id), known, sequences)
  table.sort(sequences)
  local dropped, kept = {}, {}
  for i = 1, #sequences do
    local item = known[sequences[i]]
    if i > #sequences - LATEST then
      kept[#kept + 1] = item
    elseif #item == DIGITS then
      dropped[#dropped + 1] = item
    end
  end
  local records, open = bulk.read(tag .. ':open', dropped), {}
  for i = 1, #dropped do
    if records[i] then open[#open + 1] = dropped[i] end
  end
  redis.call('DEL', key)
  redis.call('RPUSH', key, concat(kept, '\n') .. '\n')
  if #open > 0 then keep_older(tag, id, open) end
end

-- Appends a text of so many lines to a trader's list.
local function push(tag, id, lines, size)
  local length = redis.call('RPUSH', list_key(tag, id), lines)
  if length > TEXTS_MAX or length * size > LINES_MAX then trim(tag, id) end
end

-- Remembers of a bucket that is sorted with how many bytes it is due again.
local function is_sorted(tag, bucket, traders)
  due_bytes[tag] = due_bytes[tag] or {}
  due_bytes[tag][bucket] = math.min(2 * BUCKET_BYTES, BYTES_MIN + traders * BYTES_A_TRADER)
end

-- Sorts a bucket into the lists of its traders.
local function sort(tag, bucket)
  local key = recent_key(tag, bucket)
  local lines, count = {}, 0
  local ids, first, following, latest = {}, {}, {}, {} -- the first line of each id, and the one that follows each
  local offset, at, window = 0, nil, nil
  repeat
    window = redis.call('GETRANGE', key, offset, offset + WINDOW - 1)
    at = 1
    while true do
      local stop = find(window, '\n', at, true)
      if not stop then break end
      local id = sub(window, at + DIGITS + 1, find(window, ',', at + DIGITS + 1, true) - 1)
      count = count + 1
      lines[count] = sub(window, at, stop)
      local before = latest[id]
      if before then
        following[before] = count
      else
        first[id] = count
        ids[#ids + 1] = id
      end
      latest[id] = count
      at = stop + 1
    end
    offset = offset + at - 1
  until at == 1 or #window < WINDOW
  local pieces = {}
  for i = 1, #ids do
    local id = ids[i]
    local n, size = first[id], 0
    while n do
      size = size + 1
      pieces[size] = lines[n]
      n = following[n]
    end
    push(tag, id, concat(pieces, '', 1, size), size)
  end
  redis.call('DEL', key)
  is_sorted(tag, bucket, #ids)
end

local function add_due(tag, bucket)
  local list = due[tag] or {}
  due[tag] = list
  for i = 1, #list do
    if list[i] == bucket then return end
  end
  list[#list + 1] = bucket
end

-- What a batch did to orders: of each bucket its lines, and how many there are; and the buckets that have some. Kept
-- between calls for the memory of the tables.
local filed, sizes, used, used_count = {}, {}, {}, 0

-- Forgets what was filed and not entered: a call that failed.
function trader.begin()
  for b = 1, used_count do sizes[used[b]] = 0 end
  used_count = 0
end

-- Files a line of what a batch did to an order: it is completed, or it came to rest.
function trader.file(id, line)
  local bucket = sub(id, -2)
  local size = sizes[bucket]
  if not size then
    filed[bucket], size = {}, 0
  end
  if size == 0 then
    used_count = used_count + 1
    used[used_count] = bucket
  end
  size = size + 1
  sizes[bucket] = size
  filed[bucket][size] = line
end

-- Enters what was filed. `base` and `last`: the sequences before and at the end of the batch.
function trader.enter(tag, base, last)
  local due_bytes_now = due_bytes[tag] or {}
  for b = 1, used_count do
    local bucket = used[b]
    local length = redis.call('APPEND', recent_key(tag, bucket), concat(filed[bucket], '', 1, sizes[bucket]))
    local list = filed[bucket]
    for k = 1, sizes[bucket] do list[k] = nil end
    if length > 4 * BUCKET_BYTES then
      sort(tag, bucket)
    elseif length > (due_bytes_now[bucket] or 2 * BUCKET_BYTES) then
      add_due(tag, bucket)
    end
  end
  trader.begin()
  for turn = floor(base / SORT_EVERY) + 1, floor(last / SORT_EVERY) do
    local number = turn % BUCKETS
    local names = { format('%02d', number), number < 10 and text.integer[number] or nil }
    for n = 1, #names do
      if redis.call('STRLEN', recent_key(tag, names[n])) > BUCKET_BYTES then add_due(tag, names[n]) end
    end
  end
end

-- The buckets that are due to be sorted, the first ones.
function trader.due(tag)
  return { unpack(due[tag] or {}, 1, DUE_TOLD) }
end

-- Enters into lists what somebody has sorted: the first `bytes` bytes of a bucket, which begin with `head`: ids, how many
-- lines each has, and those lines as one text each, in `texts` behind the first `before`. Changes nothing where the bucket
-- does not begin so: every line is another than all that have ever been in it. An order's sequence stands before its line, in a bucket and in a list: it
-- came to rest before it was completed, and the bytes that stay are younger.
function trader.enter_sorted(tag, bucket, bytes, head, ids, sizes, texts, before)
  local key = recent_key(tag, bucket)
  local length = redis.call('STRLEN', key)
  if length < bytes or redis.call('GETRANGE', key, 0, #head - 1) ~= head then return false end
  for i = 1, #ids do push(tag, ids[i], texts[before + i], sizes[i]) end
  if length == bytes then
    redis.call('DEL', key)
  else
    redis.call('SET', key, redis.call('GETRANGE', key, bytes, -1))
  end
  is_sorted(tag, bucket, #ids)
  local names = due[tag] or {}
  for i = #names, 1, -1 do
    if names[i] == bucket then table.remove(names, i) end
  end
  return true
end

-- The lines of a bucket that are a trader's.
local function recent(tag, id)
  local stored, items = redis.call('GET', recent_key(tag, sub(id, -2))), {}
  if not stored then return items end
  local mark = ',' .. id .. ','
  local at = find(stored, mark, 1, true)
  while at do
    local from, next = at - DIGITS, at + 1
    if from == 1 or byte(stored, from - 1) == NEWLINE then
      next = find(stored, '\n', at, true)
      items[#items + 1] = sub(stored, from, next - 1)
    end
    at = find(stored, mark, next, true)
  end
  return items
end

-- What is known of a trader's latest orders, by sequence: the line of a completed one, the sequence's text of one that
-- came to rest; and the sequences, oldest first.
function trader.latest(tag, id)
  local known, sequences = {}, {}
  gather(listed(tag, id), known, sequences)
  gather(recent(tag, id), known, sequences)
  table.sort(sequences)
  return known, sequences
end

-- Whether this is all that is known of an order: it came to rest.
function trader.rests(item) return #item == DIGITS end

-- The texts of the sequences of a trader's orders that may be open, oldest first.
function trader.resting(tag, id)
  local found = redis.call('LRANGE', older_key(tag, id), 0, -1)
  local known, sequences = trader.latest(tag, id)
  for i = 1, #sequences do
    local item = known[sequences[i]]
    if trader.rests(item) then found[#found + 1] = item end
  end
  return found
end

-- The line of one of a trader's latest completed orders, by the text of its sequence.
function trader.completed(tag, id, sequence)
  local begins = sequence .. ','
  local lists = { recent(tag, id), listed(tag, id) }
  for l = 1, #lists do
    local items = lists[l]
    for i = #items, 1, -1 do
      if sub(items[i], 1, DIGITS + 1) == begins then return items[i] end
    end
  end
  return nil
end
