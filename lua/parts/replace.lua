-- replace: phase of a match call, beside match_commands (match.lua): the part of a replace that concerns its order. The
-- loop over commands itself then trades and places the new order.
--
-- `price` and `total` are what the order shall have; the total counts what is filled. In order of precedence:
--   the order rests no more, or is another trader's  the replace is closed with the reason order_completed
--   same price, total not above the present one      the order keeps its sequence and its place, with the new total; it
--                                                    is closed with the reason already_filled where nothing is left
--   total not above what is filled                   both are closed with the reason already_filled
--   else                                             the order is closed with the reason replaced. The replace is an
--                                                    order with its own sequence, and carries what is filled
-- A change of post-only counts as a change of the price. Fills and replaces have one order, that of the log, so the
-- orders of a chain never fill more than the total of the last one.
local replace = {}

local comma, integer, replacing = text.comma, text.integer, text.replacing
local SELL, POST_ONLY = text.SELL, text.POST_ONLY
local change_level, resting, remove = side.change_level, cancel.resting, cancel.remove
local is_buy, is_post_only = order_line.is_buy, order_line.is_post_only
local gsub = string.gsub

local GONE, ALREADY_FILLED = ',canceled/order_completed/', ',canceled/already_filled/'

-- The order that replace i of the batch names, as it is now; nil where it cannot be replaced. Of an order of the batch
-- `j` is its place, of another one `book`, `field` and `line` are its side, field and line.
local function order_of(call, i)
  local batch = call.batch
  local kinds, owner, target = batch.kinds, batch.traders[i], batch.targets[i]
  local is_sell, j = kinds[i] >= SELL, target - call.base
  if j > 0 then
    local left = call.left[j]
    if j >= i or left == 0 or batch.traders[j] ~= owner or (kinds[j] >= SELL) ~= is_sell then return nil end
    local quantity = batch.quantities[j]
    return {
      j = j, price = batch.prices[j], quantity = quantity, filled = quantity - left,
      is_post_only = POST_ONLY[kinds[j]] or false,
    }
  end
  local record = call.named[i]
  if not record or is_buy(record) == is_sell then return nil end
  local book, field, line, filled, price, quantity = resting(call, record, owner)
  if not book then return nil end
  return {
    book = book, field = field, line = line, price = price, quantity = quantity, filled = filled,
    is_post_only = is_post_only(line),
  }
end

-- Closes an order. `ending`: status and reason. Returns its line.
local function close(call, order, ending, closed_suffix)
  if order.j then
    call.left[order.j] = 0
    return call.line(order.j, comma[order.filled] .. ending .. closed_suffix)
  end
  remove(call, order.book, order.field, order.price, order.quantity - order.filled)
  return order.line .. comma[order.filled] .. ending .. closed_suffix
end

-- Changes the quantity of an order that keeps its place.
local function amend(call, i, order, total)
  local amended = call.amended
  amended[#amended + 1] = {
    book = order.book, field = order.field, command = call.base + i, target = call.batch.targets[i],
    before = order.quantity, after = total,
  }
  if order.j then
    call.batch.quantities[order.j], call.left[order.j] = total, total - order.filled
    return
  end
  local book, field = order.book, order.field
  local line = gsub(order.line, '^(%d+,%d+,%a+,%d+,)%d+', '%1' .. integer[total])
  book.removed[field] = line .. (order.filled > 0 and comma[order.filled] or '')
  if book.sequence == field then book.line, book.left = line, total - order.filled end
  if call.tracked then change_level(book, book.sign * order.price, total - order.quantity) end
end

-- Applies command i of the batch, a replace. Returns `orders_count` as it is then; what the new order carries, nil where
-- there is no new order; and its status, nil where it takes part in matching.
function replace.apply(call, i, orders_count, closed_suffix)
  local batch, forces = call.batch, call.forces
  local kind, price, target, quantities = batch.kinds[i], batch.prices[i], batch.targets[i], batch.quantities
  local keeps, total = quantities[i] < 0, math.abs(quantities[i])
  quantities[i] = total
  local order = order_of(call, i)
  if not order then
    forces[i] = replacing(kind, target, '0')
    return orders_count, 0, GONE
  end
  if keeps then total, quantities[i] = order.quantity, order.quantity end
  local filled = order.filled
  local is_in_place = price == order.price and total <= order.quantity
    and order.is_post_only == (POST_ONLY[kind] or false)
  if is_in_place and total > filled then
    if total < order.quantity then amend(call, i, order, total) end
    return orders_count, nil, nil
  end
  local is_spent = total <= filled
  local ending = is_spent and ALREADY_FILLED or ',canceled/replaced/' .. integer[call.base + i]
  orders_count = orders_count + 1
  call.orders[orders_count] = close(call, order, ending, closed_suffix)
  if is_in_place then return orders_count, nil, nil end
  forces[i] = replacing(kind, target, is_spent and '0' or integer[filled])
  return orders_count, is_spent and 0 or filled, is_spent and ALREADY_FILLED or nil
end
