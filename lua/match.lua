-- match: takes the next commands of a card's log and applies them to its book, in one atomic step.
--
-- Guarantee: the cursor moves in the same step as everything the commands produced, so a call may be
--   made by anyone, any number of times; the result depends on the log alone, not on how it is cut into
--   calls.
-- KEYS  {card}
-- ARGS  how many commands at most, and optionally for how many milliseconds the call may hold the server: it ends
--       early when it has used them up, but never before its first command is done
-- Reply commands done, sequence and log id now reached, trades made, entries rejected,
--       1 if more commands may wait
-- Event {card}:events <sequence>-<entries rejected so far>: `first`, the first sequence of this call (the last
--       is in the id), `log`, the log id reached, and one line each of `trades`, `orders` (those completed) and `rejected`
-- Told to {card}:matched: `<first> <last sequence>`, of a small call followed by how many trades there are and, a line
--       each, trades and orders as in the event: who waits for one of them needs not read it
--
-- Hot and flat on purpose: one call for 500 orders costs a third of 500 calls, or less (`tcgx bench match`).
local integer, comma, sequence_text, thousands = text.integer, text.comma, text.sequence, text.thousands
local side_text, force, one_and_force = text.side, text.force, text.one_and_force
local ONE_GTC = one_and_force[string.byte('G')] -- as what rests is
local CANCEL, SELL, GTC, FOK = text.CANCEL, text.SELL, text.GTC, text.FOK -- the kinds of sells are from SELL on
local concat, min, clock = table.concat, math.min, text.clock
local advance, push, pop = side.advance, side.push, side.pop
local LATEST = 50
local TOLD_MAX = 100 -- commands of a call whose outcome is published

-- What a call leaves in Lua's memory is collected step by step, in a heap that stays small: the processor has it at
-- hand.
local GARBAGE_PERCENT = 200
collectgarbage('setpause', GARBAGE_PERCENT)

-- A call ends early once it has made, or looked at, this many fills: a command may cost as much as it has quantity.
local WORK_MAX = 2000
-- How many commands and fills lie between two looks at the clock.
local LOOK = 32
-- Of the time that a call has, how much it plans to use.
local PLANNED = 0.65
-- What a command or fill costs until it is found out, and after that: to write, and to collect. Learned from the calls
-- of so many, the newest one counting a fifth.
local LEARNED_FROM = 2 * LOOK
local seconds_before, seconds_after = 2 / 1000000, 3 / 1000000
-- Of the call under way: when everything was found out, and how much that was.
local found_at, found

-- Notes for levels.lua that the quantity at a key of a book has changed.
local function moved(book, key, change) book.moved[key] = (book.moved[key] or 0) + change end

-- The records in {card}:open of the orders that this batch cancels one by one, by sequence.
local function records_to_cancel(tag, batch, base)
  local fields, records = {}, {}
  for i = 1, batch.count do
    local target = batch.prices[i]
    if batch.kinds[i] == CANCEL and target > 0 and target <= base then fields[#fields + 1] = sequence_text(target) end
  end
  local values = bulk.read(tag .. ':open', fields)
  for i = 1, #fields do records[fields[i]] = values[i] or nil end
  return records
end

-- Fields and records of a trader's orders in the book, oldest first, and how many orders that took a look at. For a cancel
-- of all of a trader's orders, as logs of before have them (lua/cancel_all.lua appends one an order): the whole book.
local PAGE = 1000
local function resting_of(tag, owner)
  local at, found, looked_at = '0', {}, 0
  repeat
    local reply = redis.call('HSCAN', tag .. ':open', at, 'COUNT', PAGE)
    at = reply[1]
    for i = 1, #reply[2], 2 do
      local _, _, trader_id = side.parse(reply[2][i + 1])
      if trader_id == owner then found[reply[2][i]] = reply[2][i + 1] end
    end
    looked_at = looked_at + #reply[2] / 2
  until at == '0'
  local fields, pairs_found = {}, {}
  for field in pairs(found) do fields[#fields + 1] = field end
  table.sort(fields)
  for i = 1, #fields do pairs_found[2 * i - 1], pairs_found[2 * i] = fields[i], found[fields[i]] end
  return pairs_found, looked_at
end

-- How many commands a call can do in its time at the most, so that not much more is read.
local function at_most(hold_ms)
  return math.ceil(LOOK + 1.5 * PLANNED * hold_ms / 1000 / (seconds_before + seconds_after))
end

local function apply(keys, args, started)
  local tag = keys[1]
  local position = cursor.read(tag)
  local hold_ms, limit = tonumber(args[2]), tonumber(args[1])
  if hold_ms then limit = min(limit, at_most(hold_ms)) end
  local batch, fault = log.read(tag, position, limit)
  if not batch then return redis.error_reply('GAP ' .. fault) end
  local count = batch.count
  local rejected = batch.rejected
  if count == 0 and #rejected == 0 then
    return { 0, position.sequence, position.log_id, 0, 0, 0 }
  end
  local look_at_clock = LOOK
  local deadline = hold_ms and started + hold_ms * PLANNED / 1000

  local base = position.sequence
  local kinds, traders, prices, quantities = batch.kinds, batch.traders, batch.prices, batch.quantities
  local clients, times, rules = batch.clients, batch.times, batch.rules
  local asks, bids = side.new(tag, 1), side.new(tag, -1)
  local known = levels.known(tag, position)
  if known then asks.moved, bids.moved = {}, {} end
  local to_cancel = batch.cancels and records_to_cancel(tag, batch, base)

  local left, fields = {}, {} -- of order i of the batch: what is unfilled, its sequence as text
  -- Sequences and trade numbers in 12 digits: what stands before the last three changes once in a thousand times.
  local endings, sequence_start, number_start = text.endings, thousands(base), thousands(position.trades)
  local sequence_ending, number_ending = base % 1000, position.trades % 1000
  local trades, trade_count = {}, 0
  local orders, orders_count = {}, 0 -- the lines of those that are completed
  local removed = {} -- fields of {card}:open that go

  local function close(value)
    orders_count = orders_count + 1
    orders[orders_count] = value
  end

  -- The line of order i of the batch: up to accepted_at, and what comes after that. Of most orders it is written out
  -- where it is needed, from what is at hand there: those of one card, without a client_order_id.
  local function line(i, after)
    local kind, quantity = kinds[i], quantities[i]
    local client = clients and clients[i] or 0
    if quantity == 1 and client == 0 then
      return fields[i] .. ',' .. traders[i] .. side_text[kind] .. integer[prices[i]] .. one_and_force[kind] .. times[i]
        .. after
    end
    return fields[i] .. ',' .. traders[i] .. side_text[kind] .. integer[prices[i]] .. comma[quantity] .. force[kind]
      .. (client == 0 and '' or client) .. times[i] .. after
  end

  -- Order i of the batch is completed with this status.
  local function close_own(i, status, closing)
    close(line(i, comma[quantities[i] - left[i]] .. status .. closing))
    left[i] = 0
  end

  -- Cancels an order of the book by its field, if it is still there and the trader's.
  local function cancel_resting(field, record, owner, closing)
    local before, filled, owned_by, price, quantity = side.parse(record)
    if owned_by ~= owner then return end
    local book = string.find(before, ',buy,', 1, true) and bids or asks
    if book.gone[field] then return end
    if book.sequence == field then filled = book.filled end
    book.gone[field] = true
    if known then moved(book, book.sign * price, filled - quantity) end
    book.canceled[#book.canceled + 1] = field
    removed[#removed + 1] = field
    close(before .. comma[filled] .. ',canceled' .. closing)
    if book.sequence == field then advance(book) end
  end

  local work = 0
  local canceled_all = {} -- traders whose resting orders are all canceled
  local time_now, closing, filled_1 -- of the commands of an entry: their time; how a line ends, and of a filled order of 1
  for i = 1, count do
    local kind, trader_id, at = kinds[i], traders[i], times[i]
    sequence_ending = sequence_ending + 1
    if sequence_ending == 1000 then sequence_start, sequence_ending = thousands(base + i), 0 end
    if at ~= time_now then time_now, closing, filled_1 = at, at .. '\n', ',1,filled' .. at .. '\n' end
    if kind == CANCEL then
      left[i] = 0
      local target, owner = prices[i], trader_id
      if target > base then
        local j = target - base
        if j < i and left[j] > 0 and traders[j] == trader_id then
          close_own(j, ',canceled', closing)
        end
      elseif target > 0 then
        local field = sequence_text(target)
        if to_cancel[field] then cancel_resting(field, to_cancel[field], owner, closing) end
      else
        if not canceled_all[owner] then
          local resting, looked_at = resting_of(tag, owner)
          for r = 1, #resting, 2 do cancel_resting(resting[r], resting[r + 1], owner, closing) end
          canceled_all[owner] = true
          work = work + looked_at + LOOK
        end
        for j = 1, i - 1 do
          if left[j] > 0 and traders[j] == trader_id then close_own(j, ',canceled', closing) end
        end
      end
    else
      local price, quantity = prices[i], quantities[i]
      local field = sequence_start .. endings[sequence_ending]
      fields[i] = field
      local book, own, limit_key, taker_side
      if kind < SELL then
        book, own, limit_key, taker_side = asks, bids, price, ',buy'
      else
        book, own, limit_key, taker_side = bids, asks, -price, ',sell'
      end
      local remaining = quantity
      local status = nil
      if book.top <= limit_key then
        if not book.key then advance(book) end
        local taker = trader_id
        local cancel_taker = rules[i]
        if FOK[kind] then
          local found, walked = side.available(book, limit_key, quantity, left, traders, cancel_taker and taker)
          work = work + walked
          if found < quantity then status = ',expired' end
        end
        while remaining > 0 and not status do
          local key = book.top
          if key > limit_key then break end
          local maker, maker_field, fill
          if book.key == key then
            maker, maker_field = book.trader, book.sequence
            if cancel_taker and maker == taker then
              status = ',canceled'
              break
            end
            fill = min(remaining, book.left)
            book.left = book.left - fill
            book.filled = book.filled + fill
            if known then moved(book, key, -fill) end
            if book.left == 0 then
              orders_count = orders_count + 1
              orders[orders_count] =
                book.line .. (book.filled == 1 and filled_1 or comma[book.filled] .. ',filled' .. closing)
              book.gone[maker_field] = true
              removed[#removed + 1] = maker_field
              book.consumed = book.consumed + 1
              advance(book)
            else
              book.touched = true
            end
          else
            local j = book.first[key]
            local own_left = left[j]
            if own_left == 0 then
              pop(book)
              fill = 0
            else
              maker, maker_field = traders[j], fields[j]
              if cancel_taker and maker == taker then
                status = ',canceled'
                break
              end
              fill = min(remaining, own_left)
              left[j] = own_left - fill
              if own_left == fill then
                orders_count = orders_count + 1
                if quantities[j] == 1 and not clients then
                  orders[orders_count] = maker_field .. ',' .. maker .. book.side_text .. integer[prices[j]] .. ONE_GTC
                    .. times[j] .. filled_1
                else
                  orders[orders_count] = line(j, comma[quantities[j]] .. ',filled' .. closing)
                end
                pop(book)
              end
            end
          end
          if fill > 0 then
            remaining = remaining - fill
            work = work + 1
            trade_count = trade_count + 1
            number_ending = number_ending + 1
            if number_ending == 1000 then
              number_start, number_ending = thousands(position.trades + trade_count), 0
            end
            trades[trade_count] = number_start .. endings[number_ending] .. ',' .. field .. ',' .. maker_field
              .. ',' .. taker .. ',' .. maker .. ',' .. integer[key < 0 and -key or key] .. comma[fill] .. taker_side .. closing
          end
        end
      end
      left[i] = remaining
      if remaining == 0 then
        orders_count = orders_count + 1
        if quantity == 1 and not clients then
          orders[orders_count] = field .. ',' .. trader_id .. side_text[kind] .. integer[price] .. one_and_force[kind]
            .. at .. filled_1
        else
          orders[orders_count] = line(i, comma[quantity] .. ',filled' .. closing)
        end
      elseif status or not GTC[kind] then
        close_own(i, status or ',expired', closing)
      else
        push(own, i, -limit_key)
      end
    end
    if i + work >= look_at_clock then
      look_at_clock = i + work + LOOK
      if i < count and (work > WORK_MAX or hold_ms and clock() + (i + work) * seconds_after > deadline) then
        log.cut(batch, position, i)
        count = i
        break
      end
    end
  end

  if hold_ms then found_at, found = clock(), count + work end

  local opened, opened_count = {}, 0 -- field, line, … for {card}:open
  for _, book in ipairs({ asks, bids }) do
    if book.touched and book.sequence then
      opened[opened_count + 1], opened[opened_count + 2] = book.sequence, book.line .. comma[book.filled]
      opened_count = opened_count + 2
    end
  end
  local trade_lines, order_lines = text.join(trades, trade_count), text.join(orders, orders_count)
  local entered_asks, entered_bids, asks_count, bids_count = asks.entered, bids.entered, 0, 0
  for i = 1, count do
    local remaining = left[i]
    if remaining > 0 then
      local field, trader_id, price, quantity = fields[i], traders[i], prices[i], quantities[i]
      local book = asks
      if kinds[i] < SELL then
        book = bids
        entered_bids[bids_count + 1], entered_bids[bids_count + 2] = integer[-price], field
        bids_count = bids_count + 2
      else
        entered_asks[asks_count + 1], entered_asks[asks_count + 2] = integer[price], field
        asks_count = asks_count + 2
      end
      if known then moved(book, book.sign * price, remaining) end
      opened[opened_count + 1] = field
      if quantity == 1 and not clients then
        opened[opened_count + 2] = field .. ',' .. trader_id .. book.side_text .. integer[price] .. ONE_GTC .. times[i]
      else
        opened[opened_count + 2] = line(i, remaining == quantity and '' or comma[quantity - remaining])
      end
      opened_count = opened_count + 2
    end
  end

  log.forget(tag, batch)
  position.log_id, position.part, position.sequence = batch.log_id, batch.part, batch.sequence
  position.trades = position.trades + trade_count
  position.rejected = position.rejected + #rejected
  -- The largest field comes last: Redis copies what is before it when it makes room.
  local event = { 'first', integer[base + 1], 'log', position.log_id }
  if trade_count > 0 then
    event[#event + 1] = 'trades'
    event[#event + 1] = trade_lines
  end
  if orders_count > 0 then
    event[#event + 1] = 'orders'
    event[#event + 1] = order_lines
  end
  if #rejected > 0 then
    event[#event + 1] = 'rejected'
    event[#event + 1] = concat(rejected, '\n') .. '\n'
  end

  -- first write: fails, with nothing changed, if {card}:events has a later id that no match wrote
  redis.call('XADD', tag .. ':events', integer[position.sequence] .. '-' .. integer[position.rejected], unpack(event))
  for _, book in ipairs({ asks, bids }) do
    bulk.call('ZREM', book.index, book.canceled)
    if book.consumed > 0 then redis.call('ZREMRANGEBYRANK', book.index, 0, book.consumed - 1) end
    bulk.call('ZADD', book.index, book.entered)
  end
  bulk.call('HDEL', asks.open, removed)
  bulk.call('HSET', asks.open, opened)
  if trade_count > 0 then
    local latest = {}
    for t = math.max(1, trade_count - LATEST + 1), trade_count do latest[#latest + 1] = string.sub(trades[t], 1, -2) end
    redis.call('LPUSH', tag .. ':trades', unpack(latest))
    redis.call('LTRIM', tag .. ':trades', 0, LATEST - 1)
  end
  cursor.write(tag, position)
  if known then levels.move(known, position, asks.moved, bids.moved) end
  local told = integer[base + 1] .. ' ' .. integer[position.sequence]
  if count <= TOLD_MAX then told = told .. ' ' .. integer[trade_count] .. '\n' .. trade_lines .. order_lines end
  redis.call('PUBLISH', tag .. ':matched', told)
  return { count, position.sequence, position.log_id, trade_count, #rejected, batch.more and 1 or 0 }
end

local function match(keys, args)
  found = 0
  local started = args[2] and clock()
  local reply = apply(keys, args, started)
  if found >= LEARNED_FROM then
    seconds_before = 0.8 * seconds_before + 0.2 * (found_at - started) / found
    seconds_after = 0.8 * seconds_after + 0.2 * (clock() - found_at) / found
  end
  return reply
end

return match
