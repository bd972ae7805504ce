-- enter_chunks: in place of trader.enter, a hash of completed orders, and one of each trader's sequences in chunks of
-- eight, without what keeps them short.
local owners, lines, count = {}, {}, 0
function trader.begin() owners, lines, count = {}, {}, 0 end
function trader.file(id, line)
  count = count + 1
  owners[count], lines[count] = id, line
end
function trader.enter(tag, base)
  local before, closed = text.sequence(base), {}
  local slot_of, ids, added = {}, {}, {}
  for n = 1, count do
    local id, sequence = owners[n], sub(lines[n], 1, DIGITS)
    if #lines[n] > RESTS_MAX + 1 then closed[#closed + 1], closed[#closed + 2] = sequence, lines[n] end
    if sequence > before then
      local slot = slot_of[id]
      if not slot then
        slot = #ids + 1
        slot_of[id], ids[slot], added[slot] = slot, id, {}
      end
      table.insert(added[slot], sequence)
    end
  end
  local key, newest, written = tag .. ':traders', bulk.read(tag .. ':traders', ids), {}
  for slot = 1, #ids do
    local chunk = newest[slot] or '000000'
    for _, sequence in ipairs(added[slot]) do
      if #chunk >= 110 then
        local number = tonumber(sub(chunk, 1, 6))
        written[#written + 1], written[#written + 2] = ids[slot] .. ':' .. number, sub(chunk, 7)
        chunk = format('%06d', number + 1)
      end
      chunk = chunk .. ',' .. sequence
    end
    written[#written + 1], written[#written + 2] = ids[slot], chunk
  end
  bulk.call('HSET', key, written)
  bulk.call('HSET', tag .. ':closed', closed)
end
