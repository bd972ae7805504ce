-- resting: what rests in a book, and in what order it lies there.
--
-- A call cancels orders, takes the best ones, and lets new asks come to rest, for a batch of 500 orders.
-- ARGS  sequence before the first new ask; traders and price_cents of the new asks, as JSON; how many of the best are
--       taken; sequences and price_cents of those to be canceled, as JSON
-- Reply how many were taken, the sum of their prices, the newest of them, how many were canceled: the same of all
local PAGE = 64
local AT = ',2026-01-01T00:00:00.000Z'
local integer, sell, one_and_force = text.integer, text.side[string.byte('g')], text.one_and_force[string.byte('g')]

local function lines_of(args)
  local base, traders, prices = tonumber(args[1]), cjson.decode(args[2]), cjson.decode(args[3])
  local fields, lines = {}, {}
  for i = 1, #prices do
    local field = text.sequence(base + i)
    fields[i], lines[i] = field, field .. ',' .. traders[i] .. sell .. integer[prices[i]] .. one_and_force .. AT
  end
  return fields, lines, prices
end

-- Puts a, b of each i into one flat array.
local function pairs_of(a, b)
  local flat = {}
  for i = 1, #a do flat[2 * i - 1], flat[2 * i] = a[i], b[i] end
  return flat
end

-- The best `wanted` members, page by page.
local function best_members(key, wanted)
  local found, from = {}, 0
  while #found < wanted do
    local page = redis.call('ZRANGE', key, from, from + PAGE - 1)
    for i = 1, #page do
      if #found < wanted then found[#found + 1] = page[i] end
    end
    if #page < PAGE then break end
    from = from + PAGE
  end
  return found
end

local function sum_of_prices(lines)
  local sum = 0
  for i = 1, #lines do
    local _, _, _, price = side.parse(lines[i])
    sum = sum + price
  end
  return sum
end

local resting = {}

function resting.nothing(_, args)
  lines_of(args)
  return 0
end

-- A member is a sequence, its line is in a hash: what tcgx has.
function resting.hash(tag, args)
  local book, open = tag .. ':asks', tag .. ':open'
  local fields, lines, prices = lines_of(args)

  local targets, canceled = cjson.decode(args[5]), {}
  local records = bulk.read(open, targets)
  for i = 1, #targets do
    if records[i] then canceled[#canceled + 1] = targets[i] end
  end
  bulk.call('ZREM', book, canceled)
  bulk.call('HDEL', open, canceled)

  local wanted, taken, sum, from = tonumber(args[4]), {}, 0, 0
  while #taken < wanted do
    local page = redis.call('ZRANGE', book, from, from + PAGE - 1)
    local page_lines = bulk.read(open, page)
    for i = 1, #page do
      if #taken < wanted then
        taken[#taken + 1] = page[i]
        local _, _, _, price = side.parse(page_lines[i])
        sum = sum + price
      end
    end
    if #page < PAGE then break end
    from = from + PAGE
  end
  if #taken > 0 then redis.call('ZREMRANGEBYRANK', book, 0, #taken - 1) end
  bulk.call('HDEL', open, taken)

  bulk.call('ZADD', book, pairs_of(prices, fields))
  bulk.call('HSET', open, pairs_of(fields, lines))
  return { #taken, sum, taken[#taken] or '', #canceled }
end

-- A member is the whole line; a hash finds it by its sequence, for cancels and for who asks for an order.
function resting.member_indexed(tag, args)
  local book, members = tag .. ':asks', tag .. ':members'
  local fields, lines, prices = lines_of(args)

  local targets, canceled, canceled_lines = cjson.decode(args[5]), {}, {}
  local records = bulk.read(members, targets)
  for i = 1, #targets do
    if records[i] then
      canceled[#canceled + 1] = targets[i]
      canceled_lines[#canceled_lines + 1] = records[i]
    end
  end
  bulk.call('ZREM', book, canceled_lines)
  bulk.call('HDEL', members, canceled)

  local taken, taken_fields = best_members(book, tonumber(args[4])), {}
  for i = 1, #taken do taken_fields[i] = string.sub(taken[i], 1, 12) end
  if #taken > 0 then redis.call('ZREMRANGEBYRANK', book, 0, #taken - 1) end
  bulk.call('HDEL', members, taken_fields)

  bulk.call('ZADD', book, pairs_of(prices, lines))
  bulk.call('HSET', members, pairs_of(fields, lines))
  return { #taken, sum_of_prices(taken), taken_fields[#taken] or '', #canceled }
end

-- A member is the whole line, and nothing else is kept: a cancel has to know the price (a client would send it, or the
-- order_id carry it) and looks through all orders at it; an order is not found by its sequence alone.
function resting.member(tag, args)
  local book = tag .. ':asks'
  local _, lines, prices = lines_of(args)

  local targets, target_prices, canceled = cjson.decode(args[5]), cjson.decode(args[6]), {}
  for i = 1, #targets do
    local at_price = redis.call('ZRANGEBYSCORE', book, target_prices[i], target_prices[i])
    for m = 1, #at_price do
      if string.sub(at_price[m], 1, 12) == targets[i] then
        canceled[#canceled + 1] = at_price[m]
        break
      end
    end
  end
  bulk.call('ZREM', book, canceled)

  local taken = best_members(book, tonumber(args[4]))
  if #taken > 0 then redis.call('ZREMRANGEBYRANK', book, 0, #taken - 1) end

  bulk.call('ZADD', book, pairs_of(prices, lines))
  return { #taken, sum_of_prices(taken), taken[1] and string.sub(taken[#taken], 1, 12) or '', #canceled }
end

-- New orders at the end of the list of their price, and the prices in a sorted set.
local function enter_levels(tag, prices, items)
  local at_price, levels = {}, {}
  for i = 1, #prices do
    local price = prices[i]
    local list = at_price[price]
    if not list then
      list = {}
      at_price[price] = list
      levels[#levels + 1] = price
      levels[#levels + 1] = text.integer[price]
    end
    list[#list + 1] = items[i]
  end
  bulk.call('ZADD', tag .. ':levels', levels)
  for price, list in pairs(at_price) do redis.call('RPUSH', tag .. ':level:' .. text.integer[price], unpack(list)) end
end

-- Takes the best `wanted` items from the lists, best price first.
local function take_levels(tag, wanted)
  local taken, from, emptied = {}, 0, {}
  while #taken < wanted do
    local levels = redis.call('ZRANGE', tag .. ':levels', from, from + PAGE - 1)
    for l = 1, #levels do
      local key = tag .. ':level:' .. levels[l]
      local asked = wanted - #taken
      if asked == 0 then break end
      local items = redis.call('LPOP', key, asked) or {}
      for i = 1, #items do taken[#taken + 1] = items[i] end
      if #items < asked or redis.call('EXISTS', key) == 0 then emptied[#emptied + 1] = levels[l] end
    end
    if #levels < PAGE then break end
    from = from + PAGE
  end
  bulk.call('ZREM', tag .. ':levels', emptied)
  return taken
end

-- A canceled item goes from its list: whether it was there.
local function leave_level(tag, price, item)
  local key = tag .. ':level:' .. price
  if redis.call('LREM', key, 1, item) == 0 then return false end
  if redis.call('EXISTS', key) == 0 then redis.call('ZREM', tag .. ':levels', price) end
  return true
end

-- A list of sequences a price level, the lines in a hash.
function resting.levels_hash(tag, args)
  local open = tag .. ':open'
  local fields, lines, prices = lines_of(args)

  local targets, canceled = cjson.decode(args[5]), {}
  local records = bulk.read(open, targets)
  for i = 1, #targets do
    if records[i] then
      local _, _, _, price = side.parse(records[i])
      if leave_level(tag, text.integer[price], targets[i]) then canceled[#canceled + 1] = targets[i] end
    end
  end
  bulk.call('HDEL', open, canceled)

  local taken = take_levels(tag, tonumber(args[4]))
  local sum = sum_of_prices(bulk.read(open, taken))
  bulk.call('HDEL', open, taken)

  enter_levels(tag, prices, fields)
  bulk.call('HSET', open, pairs_of(fields, lines))
  return { #taken, sum, taken[#taken] or '', #canceled }
end

-- A list of lines a price level, and nothing else: a cancel has to know the price, as in resting.member.
function resting.levels_lines(tag, args)
  local _, lines, prices = lines_of(args)

  local targets, target_prices, canceled = cjson.decode(args[5]), cjson.decode(args[6]), 0
  for i = 1, #targets do
    local price = text.integer[target_prices[i]]
    local at_price = redis.call('LRANGE', tag .. ':level:' .. price, 0, -1)
    for m = 1, #at_price do
      if string.sub(at_price[m], 1, 12) == targets[i] then
        leave_level(tag, price, at_price[m])
        canceled = canceled + 1
        break
      end
    end
  end

  local taken = take_levels(tag, tonumber(args[4]))
  enter_levels(tag, prices, lines)
  return { #taken, sum_of_prices(taken), taken[1] and string.sub(taken[#taken], 1, 12) or '', canceled }
end

return resting
