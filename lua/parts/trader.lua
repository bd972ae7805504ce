-- trader: what has happened to each trader's orders on this card. Of each order a line says that it is completed, and
-- before that, where it came to rest in the book, one of its sequence and trader's id alone (`<sequence>,<id>,`).
--   {card}:events         `orders` and `rested` hold the lines as match makes them; the newest are only there
--   {card}:recent         a hash. <dd>:<n>  copies of lines, in portions from 1 on, of all traders whose id ends with these
--                                           digits (two, or the only one)
--                                 <dd>      up to which portion they are in their traders' lists, and gone from here
--                                 filed     up to which event there are copies, in how many portions
--   {card}:trader:<id>    a list of texts, oldest first: lines that were in such a portion before; the latest 50 orders,
--                         or some more
--   {card}:older:<id>     a list: orders that were open when they were dropped from the trader's list, oldest first
-- Match writes events alone. The engine files what they say (engine/filing.py) and sorts what is filed (engine/sorting.py),
-- in transactions of plain commands: it has time while the server matches, Lua hashes every byte of every piece of text,
-- and a cold list an order costs more than matching it (docs/decisions.md). Who asks for a trader's orders reads all three.
local trader = {}

local find, sub, byte = string.find, string.sub, string.byte
local DIGITS = 12 -- of a sequence
local RESTS_MAX = 24 -- bytes of the line of an order that came to rest: sequence, id, two commas
local NEWLINE = 10

local function list_key(tag, id) return tag .. ':trader:' .. id end
local function recent_key(tag) return tag .. ':recent' end
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

-- Of each card whose orders somebody has looked at: what events say that are not filed, or were not at the last look, kept
-- in Lua's memory, since every look would make the same texts again; and the position that matching left behind. Where it
-- begins at another one (the server was emptied, or is another one's copy), what is kept is forgotten.
local tails, left_at = {}, {}
-- Of small events, so many bytes become one text: each that is searched costs something.
local TAIL_BYTES = 2048
-- So many match calls after the last look they are forgotten.
local UNREAD_MAX = 100

-- How far events are filed: `<id of the last one> <portions>`.
local NOTHING_FILED = '0-0 0'
local function filed(tag) return redis.call('HGET', recent_key(tag), 'filed') or NOTHING_FILED end

local function filed_portions(position) return tonumber(string.match(position, '%d+$')) end

local function sequence_of(position) return tonumber(string.match(position, '^%d+')) end

-- The sequence up to which orders are filed.
function trader.filed_sequence(tag) return sequence_of(filed(tag)) end

-- The ends of names of portions: the same hundred at every look.
local ENDS_MAX = 10000
local ends, ends_count = {}, 0

local function name_end(n)
  if ends_count == ENDS_MAX then ends, ends_count = {}, 0 end
  local made = string.format(':%d', n)
  ends[n], ends_count = made, ends_count + 1
  return made
end

-- The names of the portions of a bucket after `first` up to `last`.
local function portions(bucket, first, last)
  local names = {}
  for n = first + 1, last do names[n - first] = bucket .. (ends[n] or name_end(n)) end
  return names
end

local function mark(position) return position.log_id .. ' ' .. position.part .. ' ' .. position.sequence end

-- Matching goes on at a position.
function trader.begin(tag, position)
  if left_at[tag] ~= mark(position) then tails[tag] = nil end
end

-- Matching has come to a position.
function trader.leave(tag, position)
  local tail = tails[tag]
  left_at[tag] = mark(position)
  if tail then
    tail.unread = tail.unread + 1
    if tail.unread > UNREAD_MAX then tails[tag] = nil end
  end
end

-- Adds an event to a tail: the lines of orders that came to rest, and of those that are completed.
local function keep(tail, id, fields)
  local lines, last = '', tail.last
  for f = 1, #fields, 2 do
    if fields[f] == 'orders' or fields[f] == 'rested' then lines = lines .. fields[f + 1] end
  end
  if last >= tail.first and #tail.texts[last] < TAIL_BYTES then
    tail.texts[last] = tail.texts[last] .. lines
  else
    last = last + 1
    tail.last, tail.texts[last] = last, lines
  end
  tail.event, tail.reached[last] = id, sequence_of(id)
end

-- What events say that are not filed (and, it may be, some that are): `texts` of lines, from `first` to `last`.
function trader.unfiled(tag)
  local event = string.match(filed(tag), '^[%d-]+')
  local sequence, tail = sequence_of(event), tails[tag]
  local known = left_at[tag] == mark(cursor.read(tag))
  if not (known and tail and tail.filed <= sequence) then
    tail = { texts = {}, reached = {}, first = 1, last = 0, event = event }
  end
  tail.filed, tail.unread = sequence, 0
  while tail.first <= tail.last and tail.reached[tail.first] <= sequence do
    tail.texts[tail.first], tail.reached[tail.first] = nil, nil
    tail.first = tail.first + 1
  end
  if tail.first > tail.last then tail.event = event end
  local events = redis.call('XRANGE', tag .. ':events', '(' .. tail.event, '+')
  for e = 1, #events do keep(tail, events[e][1], events[e][2]) end
  tails[tag] = known and tail or nil
  return tail
end

-- Adds to `items` the lines of a text that are a trader's. `mark`: the id between commas.
local function select(stored, mark, items)
  local at = find(stored, mark, 1, true)
  while at do
    local from, next = at - DIGITS, at + 1
    if from == 1 or from > 1 and byte(stored, from - 1) == NEWLINE then
      next = find(stored, '\n', at, true)
      items[#items + 1] = sub(stored, from, next - 1)
    end
    at = find(stored, mark, next, true)
  end
end

-- The portions of a trader's bucket that are not sorted yet, false where one is gone, and how many there are.
local function recent_texts(tag, id)
  local bucket = sub(id, -2)
  local stored = redis.call('HMGET', recent_key(tag), bucket, 'filed')
  local names = portions(bucket, tonumber(stored[1] or 0), filed_portions(stored[2] or NOTHING_FILED))
  return bulk.read(recent_key(tag), names), #names
end

-- The lines of a trader that are in no list yet. `unfiled`: as the function of that name returns it.
local function recent(tag, id, unfiled)
  local items, mark = {}, ',' .. id .. ','
  local texts, count = recent_texts(tag, id)
  for t = 1, count do
    if texts[t] then select(texts[t], mark, items) end
  end
  for n = unfiled.first, unfiled.last do select(unfiled.texts[n], mark, items) end
  return items
end

-- What is known of a trader's latest orders, by sequence: the line of a completed one, the sequence's text of one that
-- came to rest; and the sequences, oldest first.
function trader.latest(tag, id, unfiled)
  local known, sequences = {}, {}
  gather(listed(tag, id), known, sequences)
  gather(recent(tag, id, unfiled), known, sequences)
  table.sort(sequences)
  return known, sequences
end

-- Whether this is all that is known of an order: it came to rest.
function trader.rests(item) return #item == DIGITS end

-- The texts of the sequences of a trader's orders that may be open, oldest first, each once.
function trader.resting(tag, id, unfiled)
  local found = redis.call('LRANGE', older_key(tag, id), 0, -1)
  local known, sequences = trader.latest(tag, id, unfiled)
  for i = 1, #sequences do
    local item = known[sequences[i]]
    if trader.rests(item) then found[#found + 1] = item end
  end
  local ascends = true
  for i = 2, #found do ascends = ascends and found[i - 1] < found[i] end
  if ascends then return found end
  table.sort(found) -- lines that a list had refused came later than others
  local once = {}
  for i = 1, #found do
    if found[i] ~= found[i - 1] then once[#once + 1] = found[i] end
  end
  return once
end

-- The line of a completed order in these texts of lines, the newest text first. `number`, `id`: its sequence, without the
-- zeros before it (which every line begins with, so a search for them stops all the time), and its trader.
local function find_completed(texts, first, last, number, id)
  local begins, zeros = number .. ',' .. id .. ',', string.rep('0', DIGITS - #number)
  for t = last, first, -1 do
    local stored = texts[t] or ''
    local at = find(stored, begins, 1, true)
    while at do
      local ends = find(stored, '\n', at, true) or #stored + 1
      local from = at - #zeros
      if ends - from > RESTS_MAX and from > 0 and sub(stored, from, at - 1) == zeros
        and (from == 1 or byte(stored, from - 1) == NEWLINE) then
        return sub(stored, from, ends - 1)
      end
      at = find(stored, begins, ends, true)
    end
  end
  return nil
end

-- The line of one of a trader's latest completed orders, by its sequence.
function trader.completed(tag, id, sequence)
  local number, unfiled = text.integer[sequence], trader.unfiled(tag)
  local portions_of, count = recent_texts(tag, id)
  local lists = redis.call('LRANGE', list_key(tag, id), 0, -1)
  return find_completed(unfiled.texts, unfiled.first, unfiled.last, number, id)
    or find_completed(portions_of, 1, count, number, id) or find_completed(lists, 1, #lists, number, id)
end
