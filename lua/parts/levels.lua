-- levels: the quantity at each of the best prices of a book, once somebody has asked for it.
--
-- A price may have thousands of orders: they are walked when a level is first asked for. From then on match says what
-- has moved, so that looking at a book costs what it shows, however deep it is. It is kept in Lua's memory alone, with the
-- position that it belongs to: a server that was started again, or another one, walks again.
local levels = {}

-- A card that nobody has looked at for so many match calls is forgotten: match need not say what moves.
local UNREAD_MAX = 1000
local PAGE = 250
local EVERYTHING = math.huge
-- Levels beyond what was asked for are kept up to so many times that, and some more.
local KEPT_TIMES, KEPT_MORE = 4, 100

local books = {} -- of each card: position, calls since the last look, and its two sides

local function stamp(position) return position.log_id .. '+' .. text.integer[position.part] end

-- Of a side: quantities by key (a price; of bids its negative, so that the lowest is the best), and up to which key they
-- are all there.
local function new_side(index) return { index = index, quantities = {}, reach = -EVERYTHING } end

-- What is known of a card at a position; nil where that is nothing.
function levels.known(tag, position)
  local book = books[tag]
  if not book then return nil end
  book.unread = book.unread + 1
  if book.unread > UNREAD_MAX or book.stamp ~= stamp(position) then
    books[tag] = nil
    return nil
  end
  return book
end

local function move(known, moved)
  for key, change in pairs(moved) do
    if key <= known.reach then
      local quantity = (known.quantities[key] or 0) + change
      known.quantities[key] = quantity ~= 0 and quantity or nil
    end
  end
end

-- Moves what is known to a later position: by how much each key's quantity has changed since.
function levels.move(book, position, asks_moved, bids_moved)
  move(book.asks, asks_moved)
  move(book.bids, bids_moved)
  book.stamp = stamp(position)
end

local function sorted_keys(known)
  local keys = {}
  for key in pairs(known.quantities) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

-- Walks the orders behind the levels that are known, until so many more are.
local function walk(tag, known, more)
  local from = known.reach == -EVERYTHING and 0 or redis.call('ZCOUNT', known.index, '-inf', known.reach)
  local quantities, key = known.quantities, nil
  while true do
    local members = redis.call('ZRANGE', known.index, from, from + PAGE - 1, 'WITHSCORES')
    local fields = {}
    for i = 1, #members, 2 do fields[#fields + 1] = members[i] end
    local records = bulk.read(tag .. ':open', fields)
    for i = 1, #fields do
      local next_key = tonumber(members[2 * i])
      if next_key ~= key then
        if more == 0 then
          known.reach = key
          return
        end
        key, more = next_key, more - 1
      end
      if records[i] then
        local _, filled, _, _, quantity = side.parse(records[i])
        quantities[key] = (quantities[key] or 0) + quantity - filled
      end
    end
    if #fields < PAGE then
      known.reach = EVERYTHING
      return
    end
    from = from + PAGE
  end
end

local function best(tag, known, limit)
  local keys = sorted_keys(known)
  if #keys < limit and known.reach < EVERYTHING then
    walk(tag, known, limit - #keys)
    keys = sorted_keys(known)
  end
  if #keys > KEPT_TIMES * limit + KEPT_MORE then
    known.reach = keys[limit]
    for i = limit + 1, #keys do known.quantities[keys[i]] = nil end
  end
  local reply = {}
  for i = 1, math.min(limit, #keys) do
    reply[2 * i - 1], reply[2 * i] = math.abs(keys[i]), known.quantities[keys[i]]
  end
  return reply
end

-- The best levels of a card's bids and asks at its position: price_cents, quantity, …, best first.
function levels.best(tag, position, limit)
  local book = levels.known(tag, position)
  if not book then
    book = { stamp = stamp(position), asks = new_side(tag .. ':asks'), bids = new_side(tag .. ':bids') }
    books[tag] = book
  end
  book.unread = 0
  return best(tag, book.bids, limit), best(tag, book.asks, limit)
end
