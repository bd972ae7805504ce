-- enter_chunks: within the match call, a hash of completed orders, and one of each trader's sequences in chunks of
-- eight, without what keeps them short.
function trader.enter(tag, before, orders, orders_count, rested, rested_count)
  local closed, slot_of, ids, added = {}, {}, {}, {}
  local function add(line)
    local sequence, id = string.match(line, '^(%d+),(%d+)')
    if sequence > before then
      local slot = slot_of[id]
      if not slot then
        slot = #ids + 1
        slot_of[id], ids[slot], added[slot] = slot, id, {}
      end
      table.insert(added[slot], sequence)
    end
    return sequence
  end
  for n = 1, orders_count do closed[2 * n - 1], closed[2 * n] = add(orders[n]), orders[n] end
  for n = 1, rested_count do add(rested[n]) end
  local key, newest, written = tag .. ':traders', bulk.read(tag .. ':traders', ids), {}
  for slot = 1, #ids do
    local chunk = newest[slot] or '000000'
    for _, sequence in ipairs(added[slot]) do
      if #chunk >= 110 then
        local number = tonumber(sub(chunk, 1, 6))
        written[#written + 1], written[#written + 2] = ids[slot] .. ':' .. number, sub(chunk, 7)
        chunk = string.format('%06d', number + 1)
      end
      chunk = chunk .. ',' .. sequence
    end
    written[#written + 1], written[#written + 2] = ids[slot], chunk
  end
  bulk.call('HSET', key, written)
  bulk.call('HSET', tag .. ':closed', closed)
end
