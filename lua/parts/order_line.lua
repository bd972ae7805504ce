-- order_line: an order as one line of text, the same wherever it is stored.
--
-- Format: values with a comma between, as engine/codec.py reads them.
--   terms      sequence (12 digits), trader_id, side, price_cents, quantity, time_in_force, client_order_id ('' where
--              there is none), accepted_at
--   open       terms; then filled_quantity, where a part is filled. A record of {card}:open
--   completed  terms; then filled_quantity, status, closed_at. A line of an event's `orders`
-- What few orders have stands within two of these values, so that all others cost nothing for it:
--   time_in_force  gtc/<p where it is post-only>/<sequence of the order that it replaces>/<what that one had filled>
--   status         <status>/<reason>/<sequence of the order that replaces it>
local order_line = {}

local integer, comma, number = text.integer, text.comma, text.number
local side_text, force, one_and_force = text.side, text.force, text.one_and_force
local match, find, byte = string.match, string.find, string.byte

-- A record without filled_quantity ends in accepted_at, and therefore in the Z of UTC.
local Z = byte('Z')
-- The trader id begins behind the sequence and its comma.
local TRADER_FROM = limits.sequence_digits + 2

-- Parses an open order: its line up to accepted_at, filled quantity, trader id, price and quantity.
function order_line.parse(record)
  local trader_id, price, quantity = match(record, '(%d+),%a+,(%d+),(%d+)', TRADER_FROM)
  if byte(record, -1) == Z then return record, 0, trader_id, number[price], number[quantity] end
  local line, filled = match(record, '^(.*),(%d+)$')
  return line, number[filled], trader_id, number[price], number[quantity]
end

-- Whether the line of an open order is of a post-only one. No other value has a slash.
function order_line.is_post_only(line) return find(line, '/p/', 1, true) ~= nil end

-- Whether the line of an order is of a buy.
function order_line.is_buy(line) return find(line, '^%d+,buy,', TRADER_FROM) ~= nil end

-- The time in force of a command of the log (log.find) as its order's line has it.
function order_line.accepted_force(command)
  return command.target > 0 and text.replacing(command.kind, command.target, '') or force[command.kind]
end

-- Returns a function that writes the line of the batch's order i up to accepted_at, followed by `after`. A closure over
-- the columns, because looking up seven of them in the batch for each line costs more than the closure of a call.
-- `forces`: the times in force of orders that replace others (replace.lua), or nil.
function order_line.writer(batch, fields, forces)
  local kinds, traders, prices, quantities = batch.kinds, batch.traders, batch.prices, batch.quantities
  local clients, times = batch.clients, batch.times
  return function(i, after)
    local kind, quantity = kinds[i], quantities[i]
    local client = clients and clients[i] or 0
    if quantity == 1 and client == 0 and not forces then
      return fields[i] .. ',' .. traders[i] .. side_text[kind] .. integer[prices[i]] .. one_and_force[kind] .. times[i]
        .. after
    end
    return fields[i] .. ',' .. traders[i] .. side_text[kind] .. integer[prices[i]] .. comma[quantity]
      .. (forces and forces[i] or force[kind]) .. (client == 0 and '' or client) .. times[i] .. after
  end
end
