-- parse: when resting orders are parsed, where three of each page are reached. The book is what resting.hash left.
--
-- ARGS  how many pages are read
-- Reply the sum of what is left of the orders that were reached: the same of all
local PAGE, REACHED = 64, 3

local function page_of(tag)
  return redis.call('HMGET', tag .. ':open', unpack(redis.call('ZRANGE', tag .. ':asks', 0, PAGE - 1)))
end

local parse = {}

-- The side of a book as lua/parts/side.lua has it: pages grow, an order is parsed when it is reached.
function parse.side(tag, args)
  local sum = 0
  for _ = 1, tonumber(args[1]) do
    local book = side.new(tag, 1)
    for _ = 1, REACHED do
      side.advance(book)
      sum = sum + book.left
    end
  end
  return sum
end

function parse.reached(tag, args)
  local sum = 0
  for _ = 1, tonumber(args[1]) do
    local records = page_of(tag)
    for i = 1, REACHED do
      local _, filled, _, _, quantity = side.parse(records[i])
      sum = sum + quantity - filled
    end
  end
  return sum
end

function parse.all(tag, args)
  local sum = 0
  for _ = 1, tonumber(args[1]) do
    local records, orders = page_of(tag), {}
    for i = 1, #records do
      local line, filled, trader, price, quantity = side.parse(records[i])
      orders[i] = { line = line, filled = filled, trader = trader, price = price, left = quantity - filled }
    end
    for i = 1, REACHED do sum = sum + orders[i].left end
  end
  return sum
end

return parse
