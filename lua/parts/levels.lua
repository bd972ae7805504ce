-- levels: the quantity at each of the best prices of a card's book, tracked once a client has asked for it.
--
-- A price level may have thousands of orders. The first look at a level reads them all; from then on match reports how
-- quantities change, so that a look at a book costs what it shows, however deep the book is. Levels are kept in Lua's
-- memory alone, with the position that they belong to: a restarted or other server reads the orders again.
local levels = {}

-- After this many match calls without a look, a card is no longer tracked, and match need not report changes.
local UNREAD_CALLS_MAX = 1000

-- Orders of a read.
local PAGE = 250

-- Levels are kept up to this many times the levels of a look, and some more; those behind are dropped.
local KEPT_TIMES, KEPT_MORE = 4, 100

local EVERYTHING, integer = math.huge, text.integer

local tracked_cards = {} -- by tag: `position` as text, `unread_calls` since the last look, `asks`, `bids`, `kept`

local function position_text(position) return position.log_id .. '+' .. text.integer[position.part] end

-- Of a side: quantities by key (side.lua). They are complete up to the key `complete_to`.
local function new_side(index) return { index = index, quantities = {}, complete_to = -EVERYTHING } end

-- Returns what is tracked of a card at a position, or nil. `is_watched`: a reader follows the events (watching.lua).
function levels.tracked(tag, position, is_watched)
  local tracked = tracked_cards[tag]
  if not tracked then return nil end
  tracked.unread_calls = is_watched and 0 or tracked.unread_calls + 1
  if tracked.unread_calls > UNREAD_CALLS_MAX or tracked.position ~= position_text(position) then
    tracked_cards[tag] = nil
    return nil
  end
  return tracked
end

local function apply(known, changes)
  for key, change in pairs(changes) do
    if key <= known.complete_to then
      local quantity = (known.quantities[key] or 0) + change
      known.quantities[key] = quantity ~= 0 and quantity or nil
    end
  end
end

-- Moves what is tracked to a later position. Changes: by key, the difference of its quantity since.
function levels.advance(tracked, position, asks_changes, bids_changes)
  apply(tracked.asks, asks_changes)
  apply(tracked.bids, bids_changes)
  tracked.position = position_text(position)
end

local function changed(known, changes)
  local parts, count = {}, 0
  for key, change in pairs(changes) do
    if change ~= 0 and key <= known.complete_to then
      parts[count + 1], parts[count + 2] = integer[math.abs(key)], integer[(known.quantities[key] or 0) + change]
      count = count + 2
    end
  end
  return table.concat(parts, ',')
end

-- The levels that a call changes, before `advance`: price and new quantity in turn, of bids, then after a `;` of asks.
function levels.changed(tracked, asks_changes, bids_changes)
  return changed(tracked.bids, bids_changes) .. ';' .. changed(tracked.asks, asks_changes)
end

local function sorted_keys(known)
  local keys = {}
  for key in pairs(known.quantities) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

-- Reads orders behind the levels that are known, until `more` levels are added.
local function read_levels(tag, known, more)
  local from = known.complete_to == -EVERYTHING and 0 or redis.call('ZCOUNT', known.index, '-inf', known.complete_to)
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
          known.complete_to = key
          return
        end
        key, more = next_key, more - 1
      end
      if records[i] then
        local _, filled, _, _, quantity = order_line.parse(records[i])
        quantities[key] = (quantities[key] or 0) + quantity - filled
      end
    end
    if #fields < PAGE then
      known.complete_to = EVERYTHING
      return
    end
    from = from + PAGE
  end
end

-- `kept`: levels that a reader of the events follows, which must not be dropped.
local function best(tag, known, limit, kept)
  local keys = sorted_keys(known)
  if #keys < limit and known.complete_to < EVERYTHING then
    read_levels(tag, known, limit - #keys)
    keys = sorted_keys(known)
  end
  kept = math.max(kept, limit)
  if #keys > KEPT_TIMES * kept + KEPT_MORE then
    known.complete_to = keys[kept]
    for i = kept + 1, #keys do known.quantities[keys[i]] = nil end
  end
  local reply = {}
  for i = 1, math.min(limit, #keys) do
    reply[2 * i - 1], reply[2 * i] = math.abs(keys[i]), known.quantities[keys[i]]
  end
  return reply
end

-- Returns the best levels of a card's bids and asks at its position: prices and quantities in turn, best first.
function levels.best(tag, position, limit)
  local tracked = levels.tracked(tag, position)
  if not tracked then
    tracked = {
      position = position_text(position), asks = new_side(tag .. ':asks'), bids = new_side(tag .. ':bids'), kept = 0,
    }
    tracked_cards[tag] = tracked
  end
  tracked.unread_calls = 0
  return best(tag, tracked.bids, limit, tracked.kept), best(tag, tracked.asks, limit, tracked.kept)
end

-- The same for a reader that follows these levels through the events from now on.
function levels.watched(tag, position, limit)
  local bids, asks = levels.best(tag, position, limit)
  local tracked = tracked_cards[tag]
  tracked.kept = math.max(tracked.kept, limit)
  return bids, asks
end
