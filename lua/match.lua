-- match: takes the next commands of a card's log and applies them to its book, in one atomic step.
--
-- Guarantee: the cursor moves in the same step as everything that the commands produce. So any client may call this
--   function, any number of times. The result depends on the log alone, not on how calls divide it.
-- KEYS   {card}
-- ARGS   the most commands to take; optionally hold_ms, the milliseconds that the call may hold the server. With
--        hold_ms a call ends early when its time is used up, but never before its first command is done
-- Reply  commands done, sequence and log id reached, trades made, entries rejected, 1 if more commands may wait else 0
-- Errors GAP where acknowledged commands are missing from the log; nothing is changed then
-- Event  {card}:events <sequence>-<entries rejected so far>. Fields: `first`, the first sequence of this call (the last
--        is in the id); `log`, the log id reached; and where there are any, `trades`, `orders` (completed ones) and
--        `rejected`, a line each. While readers watch the card (watching.lua): `levels`, the changed price levels;
--        `opened`, the lines of orders that rest after the call; and `amended`, the changes of orders that kept their
--        place: sequences of command and order, and the totals before and after
-- Notification on {card}:matched: `<first> <last sequence>`. Of a call with few commands the number of trades follows,
--        then the lines of trades and orders as in the event, so that a waiting client need not read the event
-- Trade  a line: trade number (12 digits), sequences of taker and maker, trader ids of taker and maker, price_cents,
--        quantity, side of the taker, executed_at. For the line of an order see parts/order_line.lua
--
-- A call has phases, all but the second in a file of parts/ each: take, match with cancel and replace, report, write. The loop over
-- commands is flat and inline, because the rate of the whole exchange depends on it (`tcgx bench match`).
local integer, comma, leading_digits, last_digits = text.integer, text.comma, text.leading_digits, text.last_digits
local side_text, one_and_force = text.side, text.one_and_force
local GTC_ONE = one_and_force[string.byte('G')] -- terms of a resting order of one card
local CANCEL, SELL, GTC, FOK = text.CANCEL, text.SELL, text.GTC, text.FOK -- kinds of sells are SELL and above
local LOOKS_FIRST = text.LOOKS_FIRST
local min, clock = math.min, text.clock
local next_maker, push, pop = side.next_maker, side.push, side.pop
local change_level, fillable, best_key = side.change_level, side.fillable, side.best_key
local apply_cancel, apply_replace = cancel.apply, replace.apply
local is_spent, CHECK_INTERVAL = budget.is_spent, budget.CHECK_INTERVAL

-- Lua collects garbage step by step, at twice the size of what is in use: a heap that stays small stays in the
-- processor's cache.
collectgarbage('setpause', 200)

-- Applies the commands of the batch in order, until the batch or the budget ends.
-- Sequences and trade numbers rise by one, so mostly only their last three digits change. Commands of one entry share
-- their time, and with it the ends of lines: of any completed order, and of a filled one of quantity 1.
local function match_commands(call)
  local batch, base, trades_before = call.batch, call.base, call.position.trades
  local kinds, traders, prices, quantities = batch.kinds, batch.traders, batch.prices, batch.quantities
  local plain, times, rules, targets = call.plain, batch.times, batch.rules, batch.targets
  local asks, bids, tracked, left, fields = call.asks, call.bids, call.tracked, call.left, call.fields
  local trades, orders, removed, line, named = call.trades, call.orders, call.removed, call.line, call.named
  local trade_count, orders_count, work, check_at = 0, 0, 0, CHECK_INTERVAL
  local sequence_start, number_start = leading_digits(base), leading_digits(trades_before)
  local sequence_end, number_end = base % 1000, trades_before % 1000
  local time_now, closed_suffix, filled_one_suffix
  for i = 1, batch.count do
    local kind, trader_id, at = kinds[i], traders[i], times[i]
    sequence_end = sequence_end + 1
    if sequence_end == 1000 then sequence_start, sequence_end = leading_digits(base + i), 0 end
    if at ~= time_now then time_now, closed_suffix, filled_one_suffix = at, at .. '\n', ',1,filled' .. at .. '\n' end
    local carried, status = 0, nil
    if targets and targets[i] > 0 then
      orders_count, carried, status = apply_replace(call, i, orders_count, closed_suffix)
    end
    if kind == CANCEL then
      left[i] = 0
      local j = prices[i] - base -- an order of this batch, or not above 0
      if j > 0 then
        if j < i and left[j] > 0 and traders[j] == trader_id then
          orders_count = orders_count + 1
          orders[orders_count] = line(j, comma[quantities[j] - left[j]] .. ',canceled' .. closed_suffix)
          left[j] = 0
        end
      elseif named[i] then
        orders_count, work = apply_cancel(call, i, orders_count, work, closed_suffix)
      end
    elseif not carried then -- a replace whose order keeps its place
      left[i] = 0
    else
      local price, quantity, field = prices[i], quantities[i], sequence_start .. last_digits[sequence_end]
      fields[i] = field
      local book, own, limit_key, taker_side = asks, bids, price, ',buy'
      if kind >= SELL then book, own, limit_key, taker_side = bids, asks, -price, ',sell' end
      local remaining = quantity - carried
      if book.top <= limit_key and not status then
        if not book.key then next_maker(book) end
        local cancel_taker = rules[i]
        if LOOKS_FIRST[kind] then
          if FOK[kind] then
            local found, looked_at = fillable(book, limit_key, quantity, left, traders, cancel_taker and trader_id)
            work = work + looked_at
            if found < quantity then status = ',expired' end
          elseif best_key(book, left) <= limit_key then
            status = ',expired/would_cross/'
          end
        end
        while remaining > 0 and not status do
          local key = book.top
          if key > limit_key then break end
          local maker, maker_field, fill = nil, nil, 0
          if book.key == key then -- the maker rested before this batch
            maker, maker_field = book.trader, book.sequence
            if cancel_taker and maker == trader_id then
              status = ',canceled'
              break
            end
            fill = min(remaining, book.left)
            book.left, book.filled = book.left - fill, book.filled + fill
            if tracked then change_level(book, key, -fill) end
            if book.left == 0 then
              orders_count = orders_count + 1
              orders[orders_count] = book.line
                .. (book.filled == 1 and filled_one_suffix or comma[book.filled] .. ',filled' .. closed_suffix)
              book.removed[maker_field], removed[#removed + 1] = true, maker_field
              book.prefix_removed = book.prefix_removed + 1
              next_maker(book)
            else
              book.head_changed = true
            end
          else -- the maker is order j of this batch
            local j = book.first[key]
            local maker_left = left[j]
            if maker_left == 0 then -- canceled meanwhile
              pop(book)
            else
              maker, maker_field = traders[j], fields[j]
              if cancel_taker and maker == trader_id then
                status = ',canceled'
                break
              end
              fill = min(remaining, maker_left)
              left[j] = maker_left - fill
              if maker_left == fill then
                orders_count = orders_count + 1
                if quantities[j] == 1 and plain then
                  orders[orders_count] = maker_field .. ',' .. maker .. book.side_text .. integer[prices[j]] .. GTC_ONE
                    .. times[j] .. filled_one_suffix
                else
                  orders[orders_count] = line(j, comma[quantities[j]] .. ',filled' .. closed_suffix)
                end
                pop(book)
              end
            end
          end
          if fill > 0 then
            remaining = remaining - fill
            work = work + 1
            trade_count = trade_count + 1
            number_end = number_end + 1
            if number_end == 1000 then number_start, number_end = leading_digits(trades_before + trade_count), 0 end
            trades[trade_count] = number_start .. last_digits[number_end] .. ',' .. field .. ',' .. maker_field .. ','
              .. trader_id .. ',' .. maker .. ',' .. integer[key < 0 and -key or key] .. comma[fill] .. taker_side
              .. closed_suffix
          end
        end
      end
      left[i] = remaining
      if remaining == 0 then
        orders_count = orders_count + 1
        if quantity == 1 and plain then
          orders[orders_count] = field .. ',' .. trader_id .. side_text[kind] .. integer[price] .. one_and_force[kind]
            .. at .. filled_one_suffix
        else
          orders[orders_count] = line(i, comma[quantity] .. ',filled' .. closed_suffix)
        end
      elseif status or not GTC[kind] then
        orders_count = orders_count + 1
        orders[orders_count] = line(i, comma[quantity - remaining] .. (status or ',expired') .. closed_suffix)
        left[i] = 0
      else
        push(own, i, -limit_key)
      end
    end
    if i + work >= check_at then
      check_at = i + work + CHECK_INTERVAL
      if i < batch.count and is_spent(call.deadline, work, i + work) then
        log.truncate(batch, call.position, i)
        break
      end
    end
  end
  call.trade_count, call.orders_count, call.work = trade_count, orders_count, work
end

local function match(keys, args)
  local tag, commands_max, hold_ms = keys[1], tonumber(args[1]), tonumber(args[2])
  local started = hold_ms and clock()
  local call, reply = take.call(tag, commands_max, hold_ms, started)
  if not call then return reply end
  match_commands(call)
  local matched_at = started and clock()
  local opened = write.prepare(call)
  log.release(tag, call.batch)
  cursor.advance(call.position, call.batch, call.trade_count)
  report.prepare(call)
  write.store(call, opened, report.event(call, opened))
  redis.call('PUBLISH', tag .. ':matched', report.notification(call))
  reply = report.reply(call)
  if started then budget.learn(started, matched_at, call.batch.count + call.work) end
  return reply
end

return match
